"""The solvers of torchsde on the reverse SDE, and its Brownian motions as a source of noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from scoresde.denoiser import Field
from scoresde.noise import Noise, SeededNoise
from scoresde.sde import Level
from scoresde.solvers import Step
from scoresde.solvers.base import require_shared_level
from scoresde.solvers.euler_maruyama import require_finite_drift
from scoresde.solvers.frames import TimeFrame
from scoresde.solvers.reverse import Tau, TauSolver
from scoresde.tensors import Scalar, lincomb


class TorchsdeNoise(Noise):
    """The increments of a `torchsde.BrownianInterval`, of the batch as a whole.

    For a path that another solver follows too. One interval has one seed for the whole batch:
    unlike with `BrownianNoise`, a sample changes with the batch that it is drawn in. Kidger et al.
    2021, arXiv:2105.13493, Sec. 4.

    An interval made with levy_area_approximation="space-time" hands its areas to `TorchsdeSolver`,
    for methods that need them.

    Args:
        path: the interval, of size (B, D) for states (B, *) of D values, over the clock of the
            solve: from `Solver.clock` of its last level to that of its first.
        seed: of the draws that are no increments, such as a corrector's.
    """

    def __init__(self, path: Callable[..., Any], seed: int | None = None) -> None:
        self._path, self._fresh = path, SeededNoise(seed)

    def normal(self, like: Tensor, *address: Scalar) -> Tensor:
        return self._fresh.normal(like, *address)

    def increment(self, like: Tensor, start: Scalar, stop: Scalar) -> Tensor:
        if isinstance(start, Tensor) or isinstance(stop, Tensor):
            raise ValueError("start, stop: an interval has one clock for the whole batch")
        low, high = min(start, stop), max(start, stop)
        sign = 1.0 if start <= stop else -1.0
        walked = self._path(low, high).reshape(like.shape).to(like)
        return walked * (sign * (high - low) ** -0.5)

    def area(self, like: Tensor, start: float, stop: float) -> Tensor:
        """Return the space-time area of W on a span, as unit normals (B, *).

        H / sqrt(h / 12) with h = stop - start, where H is the average over the span of
        W - W(start), less half of W(stop) - W(start): independent of the increment.
        """
        h = stop - start
        walked, integral = self._path(start, stop, return_U=True)
        area = (integral / h - 0.5 * walked) * (12.0 / h) ** 0.5
        return area.reshape(like.shape).to(like)

    def fold(self, key: int) -> Noise:
        """Return independent draws: a repeated visit cannot follow the same path."""
        return self._fresh.fold(key)

    def rows(self, index: Tensor) -> Noise:
        raise ValueError("path: an interval serves whole batches only; use BrownianNoise")


class Method(Enum):
    """A method of `torchsde.sdeint` that makes sense for noise that does not depend on the state.

    Ito and Stratonovich integrals agree for such noise, so that methods for either serve.
    """

    EULER = "euler"
    MILSTEIN = "milstein"
    EULER_HEUN = "euler_heun"
    HEUN = "heun"
    MIDPOINT = "midpoint"
    SRK = "srk"

    @property
    def stratonovich(self) -> bool:
        """Whether torchsde has it for Stratonovich SDEs."""
        return self in (Method.EULER_HEUN, Method.HEUN, Method.MIDPOINT)

    @property
    def stages(self) -> int:
        """Drifts a step, and so network calls."""
        return 2 if self in (Method.HEUN, Method.MIDPOINT, Method.SRK) else 1


@dataclass(frozen=True)
class TorchsdeSolver(TauSolver):
    """A method of `torchsde.sdeint` on the reverse SDE, one step from level to level.

    The SDE is that of `EulerMaruyama`, dx = [f x - (1 + tau^2) / 2 g^2 score] dt + tau g dw, in the
    time -t, which increases. `Method.SRK` is SRA1 of Roessler 2010, doi:10.1137/09076636X, of
    strong order 3/2: the reverse SDE has additive noise. `Method.MILSTEIN` is then
    Euler-Maruyama.

    The noise is this library's: sample i of a seed is the same in every batch. With
    `TorchsdeNoise` it is that of an interval, areas included, so that finer steps follow the same
    path at the strong order of the method; other sources draw areas of their own for each step.
    The Brownian motion runs in t.

    Attributes:
        method: one of `Method`.
        tau: amount of noise, a number or a function of the level.

    Raises:
        ValueError: another method; tau that is not positive and finite; at the start of a solve,
            f or g^2 infinite at its first level, or levels that differ from sample to sample.
    """

    method: Method = Method.SRK
    tau: Tau = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.method, Method):
            raise ValueError(f"method={self.method!r} must be one of {[*map(str, Method)]}")
        super().__post_init__()
        if not self.stochastic:
            raise ValueError(f"tau={self.tau} must be positive; without noise take an ODE solver")

    @property
    def order(self) -> int:
        return self.method.stages

    @property
    def evals(self) -> int:
        return self.method.stages

    def init(self, field: Field, x: Tensor, level: Level) -> None:
        require_shared_level(level, self)
        require_finite_drift(field, level, self)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        import torchsde

        start, stop = float(here.t), float(there.t)
        # in host memory, so that torchsde's comparisons of times wait for no device
        times = torch.tensor([-start, -stop], dtype=torch.float64)
        reverse = _ReverseSDE(field, x, self)
        path: Any = _Span(x, start, stop, noise)
        name = self.method.value
        # longer than the way, as one that rounding made shorter would take a second step
        dt = 2.0 * (start - stop)
        # torchsde draws once from the global generator, to look at a shape
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            ends = torchsde.sdeint(reverse, x.flatten(1), times, bm=path, method=name, dt=dt)
        return Step(ends[-1].reshape(x.shape))

    def clock(self, level: Level) -> Scalar:
        return level.t


class _ReverseSDE:
    """The reverse SDE of one step, as torchsde wants it: in time -t, for states (B, D)."""

    noise_type = "additive"

    def __init__(self, field: Field, like: Tensor, solver: TorchsdeSolver) -> None:
        self.sde_type = "stratonovich" if solver.method.stratonovich else "ito"
        self._field, self._shape, self._amount = field, like.shape, solver.amount
        self._last: tuple[Tensor, float, Tensor] | None = None

    def f(self, s: Tensor, y: Tensor) -> Tensor:
        t = -float(s)
        # torchsde asks more than once for the drift at one state
        if self._last is not None and self._last[0] is y and self._last[1] == t:
            return self._last[2]
        sde = self._field.sde
        level = TimeFrame().level(t, sde, self._field.data_std)
        pull = 0.5 * (1.0 + self._amount(level) ** 2) * sde.g2(level.t)
        made = self._field(y.reshape(self._shape), level)
        drift = made.combine(x=-sde.f(level.t), eps=-pull / level.sigma).flatten(1)
        self._last = y, t, drift
        return drift

    def g_prod(self, s: Tensor, y: Tensor, v: Tensor) -> Tensor:
        level = TimeFrame().level(-float(s), self._field.sde, self._field.data_std)
        return self._amount(level) * self._field.sde.g(level.t) * v


class _Span:
    """The Brownian motion of one step, as torchsde wants it: in time -t, from start to stop in t.

    It is asked for its increment over the whole step, and for no other.
    """

    levy_area_approximation = "space-time"

    def __init__(self, like: Tensor, start: float, stop: float, noise: Noise) -> None:
        self.shape = like.flatten(1).shape
        self._like, self._start, self._stop, self._noise = like, start, stop, noise

    def __call__(self, ta: Tensor, tb: Tensor, return_U: bool = False) -> Any:
        """Return W, or W and the integral of its path with return_U, as (B, D)."""
        span, h = (self._like, self._stop, self._start), self._start - self._stop
        walked = h**0.5 * self._noise.increment(*span).flatten(1)
        if not return_U:
            return walked
        apart = self._noise.fold(0)
        area = self._noise.area if isinstance(self._noise, TorchsdeNoise) else apart.increment
        # the area changes its sign with the direction of time
        return walked, lincomb((0.5 * h, walked), (-h * (h / 12.0) ** 0.5, area(*span).flatten(1)))
