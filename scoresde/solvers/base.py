"""The interface of a solver: one step from level to level."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.tensors import Scalar, exp


class Step(NamedTuple):
    """What a step returns.

    Attributes:
        x: the new state (B, *).
        state: the solver's history, handed to its next step.
        error: embedded estimate of the local error (B, *), from adaptive solvers.
    """

    x: Tensor
    state: Any = None
    error: Tensor | None = None


class Solver(ABC):
    """One step of a method, as a frozen dataclass of its hyper-parameters.

    A method is written against `Level` (alpha, sigma) and `Prediction`, so it serves every
    process; `here` and `there` may lie either way round for a deterministic one. A solver keeps
    nothing: history goes out in `Step.state` and comes back in.

    Attributes:
        order: of the global error in the step size, at least: of the end point for a
            deterministic solver, of the law's moments (weak order) for a stochastic one. For a
            multistep solver it is that from exact starting values.
        stochastic: whether it draws noise.
        evals: network calls a step.
        strong_order: of a stochastic solver's end point, for a given path of the Brownian motion
            that runs in `clock`; None where it follows no path, or none is claimed.
    """

    order: int
    stochastic: bool
    evals: int = 1
    strong_order: int | None = None

    def init(self, field: Field, x: Tensor, level: Level) -> Any:
        """Return the state before the first step, and refuse processes that cannot be solved."""
        return None

    @abstractmethod
    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        """Step from x (B, *) at level `here` to level `there`, with sigma > 0 at both."""

    def finish(self, field: Field, x: Tensor, here: Level, state: Any, noise: Noise) -> Step:
        """Step from `here` to sigma = 0: the expected data, one network call, first order."""
        return Step(field(x, here).x0)

    def clock(self, level: Level) -> Scalar:
        """Return the time of the Brownian motion that drives the method: (sigma / alpha)^2."""
        return exp(-2.0 * level.lam)

    def nfe(self, steps: int, denoise: bool) -> int:
        """Return the network calls of a solve of `steps` steps, the last to sigma = 0 or not."""
        return self.evals * (steps - 1) + 1 if denoise else self.evals * steps


def require_shared_level(level: Level, solver: Solver) -> None:
    """Refuse levels that differ from sample to sample, for a solver that has to compare them.

    Raises:
        ValueError: naming the solver and the remedy.
    """
    if isinstance(level.t, Tensor):
        raise ValueError(
            f"solver={solver}: takes one level for the whole batch; solve on a grid of floats"
        )


class Corrector(Solver):
    """A solver from a level to itself, which leaves the marginal law as it is.

    It steps at `there`, and is of use inside a `PredictorCorrector`, which hands its state from
    one correction to the next at the same level. `nfe` counts the calls of that many corrections.
    Its order is 0 where it leaves a bias that more levels do not remove, as the step sizes of
    Langevin dynamics do.
    """

    order = 0
    stochastic = True


def lacks_data(level: Level) -> bool:
    """Say whether a level is all noise, known without a read: alpha = 0, lam = -inf."""
    return isinstance(level.alpha, float) and level.alpha == 0.0
