"""SciPy's integrators as a solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import (
    MaxEvaluations,
    NonFiniteState,
    SolveError,
    StepSizeUnderflow,
    require_integer,
    require_number,
)
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers import PolarFrame, Solver, Step
from scoresde.tensors import Scalar

_FRAME = PolarFrame()


@dataclass(frozen=True)
class SciPySolver(Solver):
    """An integrator of `scipy.integrate` in the polar frame, from level to level: for reference.

    Each sample is solved by itself, on the host, in float64. The error is that of the tolerances,
    whatever the steps: one is enough. Network calls are counted as those of the sample that took
    the most.

    A sample that fails does not stop the others: all are carried to the level that the step is
    for, and the error is raised there.

    Attributes:
        method: a class of `scipy.integrate`, such as `RK45` or `LSODA`; `DOP853` by default.
        rtol: relative tolerance.
        atol: absolute tolerance, in units of x / sqrt(alpha^2 c^2 + sigma^2) for data of
            deviation c.
        max_nfe: network calls that one sample may take, never exceeded; the one to sigma = 0 comes
            on top.

    Raises:
        ValueError: a method that is no such class, tolerances that are not positive and finite,
            max_nfe below 1; a solve that wants gradients, or a budget `nfe`.
        NonFiniteState: the network's output is NaN or infinite.
        StepSizeUnderflow: SciPy gave up.
        MaxEvaluations: max_nfe is used up.
    """

    method: type | None = None
    rtol: float = 1e-10
    atol: float = 1e-10
    max_nfe: int = 10_000
    order = 1
    stochastic = False

    def __post_init__(self) -> None:
        from scipy.integrate import OdeSolver

        known = isinstance(self.method, type) and issubclass(self.method, OdeSolver)
        if self.method is not None and not (known and self.method is not OdeSolver):
            raise ValueError(f"method={self.method!r}: give a class such as scipy.integrate.RK45")
        require_number(self.rtol, "rtol", above=0.0)
        require_number(self.atol, "atol", above=0.0)
        require_integer(self.max_nfe, "max_nfe", 1)

    def nfe(self, steps: int, denoise: bool) -> int:
        raise ValueError(
            f"nfe: {self} makes the calls that it needs, whatever the budget; give steps, or "
            f"another solver"
        )

    def step(
        self,
        field: Field,
        x: Tensor,
        here: Level,
        there: Level,
        state: tuple[int, ...] | None,
        noise: Noise,
    ) -> Step:
        """Step every sample; `state` is the number of network calls that each has made."""
        if torch.is_grad_enabled():
            raise ValueError(f"gradient: none pass through {self}; take DormandPrince")
        new, calls = x.clone(), list(state or [0] * len(x))
        lost: dict[int, _Lost] = {}
        most = 0
        for i in range(len(x)):
            part = field.rows(torch.tensor([i], device=x.device), len(x))
            left = self.max_nfe - calls[i]
            try:
                new[i] = self._solve(part, x[i : i + 1], _of(here, i), _of(there, i), left)[0]
            except _Lost as error:
                lost[i] = error
            calls[i], most = calls[i] + part.nfe, max(most, part.nfe)
        field.nfe += most
        if lost:
            first, indices = next(iter(lost.values())), tuple(lost)
            raise first.kind(first.what, t=first.t, indices=indices, nfe=max(calls), x=new)
        return Step(new, tuple(calls))

    def _solve(self, field: Field, x: Tensor, here: Level, there: Level, budget: int) -> Tensor:
        from scipy.integrate import DOP853

        c = field.data_std

        def slope(u: float, y: Any) -> Any:
            level = _FRAME.level(u, field.sde, c)
            if field.nfe == budget:
                what = "the budget max_nfe of network calls is used up"
                raise _Lost(MaxEvaluations, what, float(level.t))
            state = torch.from_numpy(y).to(x).reshape(x.shape) * _FRAME.scale(level, c)
            found = _FRAME.slope(field, state, level).double()
            if not found.isfinite().all():  # SciPy would look for a step for ever
                what = f"network call {field.nfe} of a sample gave NaN or infinite values"
                raise _Lost(NonFiniteState, what, float(level.t))
            return found.flatten().cpu().numpy()

        start = (x.double() / _FRAME.scale(here, c)).flatten().cpu().numpy()
        ends = float(_FRAME.variable(here, c)), float(_FRAME.variable(there, c))
        kind = self.method or DOP853
        method = kind(slope, ends[0], start, ends[1], rtol=self.rtol, atol=self.atol)
        while method.status == "running":
            said = method.step()
            if method.status == "failed":
                t = float(_FRAME.level(float(method.t), field.sde, c).t)
                raise _Lost(StepSizeUnderflow, str(said).rstrip("."), t)
        end = torch.from_numpy(method.y).to(x) * _FRAME.scale(there, c)
        return end.reshape(x.shape)


class _Lost(Exception):
    """A sample that SciPy cannot solve: which error it makes, with what words, and at which t."""

    def __init__(self, kind: type[SolveError], what: str, t: float) -> None:
        super().__init__(what)
        self.kind, self.what, self.t = kind, what, t


def _of(level: Level, row: int) -> Level:
    """Return one sample's level, in floats."""

    def pick(value: Scalar) -> float:
        return float(value.flatten()[row]) if isinstance(value, Tensor) else value

    return Level(pick(level.t), pick(level.alpha), pick(level.sigma))
