"""SciPy's integrators as a solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import NonFiniteState, StepSizeUnderflow
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers import PolarFrame, Solver, Step
from scoresde.tensors import Scalar

_FRAME = PolarFrame()


@dataclass(frozen=True)
class SciPySolver(Solver):
    """`scipy.integrate.solve_ivp` in the polar frame, from level to level: a reference for tests.

    Each sample is solved by itself, on the host, in float64. The error is that of the tolerances,
    whatever the steps: one is enough. Network calls are counted as those of the sample that took
    the most.

    Attributes:
        method: what SciPy calls it.
        rtol: relative tolerance.
        atol: absolute tolerance, in units of x / sqrt(alpha^2 c^2 + sigma^2) for data of
            deviation c.

    Raises:
        ValueError: a solve that wants gradients, or a budget `nfe`.
        NonFiniteState: the network's output is NaN or infinite.
        StepSizeUnderflow: SciPy gave up.
    """

    method: str = "DOP853"
    rtol: float = 1e-10
    atol: float = 1e-10
    order = 1
    stochastic = False

    def nfe(self, steps: int, denoise: bool) -> int:
        raise ValueError(
            f"nfe: {self} makes the calls that it needs; give steps, and take "
            f"DormandPrince for gradients"
        )

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        if torch.is_grad_enabled():
            raise ValueError(f"gradient: none pass through {self}; take DormandPrince")
        new, calls, c = x.clone(), [0], field.data_std
        for i in range(len(x)):
            part = field.rows(torch.tensor([i], device=x.device), len(x))
            start, stop = _of(here, i), _of(there, i)
            found = self._solve(part, new, i, start, stop)
            calls.append(part.nfe)
            new[i] = torch.from_numpy(found.y[:, -1]).reshape(x[i].shape) * _FRAME.scale(stop, c)
            if not found.success:
                t = float(_FRAME.level(float(found.t[-1]), field.sde, c).t)
                raise StepSizeUnderflow(found.message, t=t, indices=(i,), nfe=max(calls), x=new)
        field.nfe += max(calls)
        return Step(new)

    def _solve(self, field: Field, batch: Tensor, row: int, here: Level, there: Level) -> Any:
        from scipy.integrate import solve_ivp

        c, x = field.data_std, batch[row : row + 1]

        def slope(u: float, y: Any) -> Any:
            level = _FRAME.level(u, field.sde, c)
            state = torch.from_numpy(y).to(x).reshape(x.shape) * _FRAME.scale(level, c)
            found = _FRAME.slope(field, state, level).double()
            if not found.isfinite().all():  # SciPy would look for a step for ever
                problem, t = "the network's output is NaN or infinite", float(level.t)
                raise NonFiniteState(problem, t=t, indices=(row,), nfe=field.nfe, x=batch)
            return found.flatten().cpu().numpy()

        span = _FRAME.variable(here, c), _FRAME.variable(there, c)
        start = (x.double() / _FRAME.scale(here, c)).flatten().cpu().numpy()
        return solve_ivp(slope, span, start, self.method, rtol=self.rtol, atol=self.atol)


def _of(level: Level, row: int) -> Level:
    """Return one sample's level, in floats."""

    def pick(value: Scalar) -> float:
        return float(value.flatten()[row]) if isinstance(value, Tensor) else value

    return Level(pick(level.t), pick(level.alpha), pick(level.sigma))
