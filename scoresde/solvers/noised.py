"""Noise at every step, over any solver of the probability flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import require_kind
from scoresde.noise import Noise
from scoresde.sde import Level, forward_kernel
from scoresde.solvers.base import Corrector, Solver, Step, lacks_data, require_shared_level
from scoresde.solvers.dpm_solver import DPMSolverFast
from scoresde.solvers.flow import RK4
from scoresde.solvers.pndm import PNDM
from scoresde.solvers.reverse import ReverseSolver, Tau
from scoresde.solvers.runge_kutta import AdaptiveSolver
from scoresde.solvers.unipc import UniC
from scoresde.tensors import lincomb


@dataclass(frozen=True)
class Noised(ReverseSolver):
    """Step below where the grid says, and come up to it again with fresh noise.

    The wrapped solver follows the probability flow to the level

        lam_low = lam_s + tau^2 (lam_s - lam_t),

    and the exact transition of the process leads from there up to the level s of the grid. The
    exact flow so leaves the exact marginals, in steps of any size, and `DDIM()`, which is exact
    for x0 constant, makes the step `reverse_kernel` of the reverse SDE. It is the churn of Karras
    et al. 2022 (arXiv:2206.00364, Sec. 4) with the noise after the step, and not before: the states
    at which the network is called lie on the grid.

    Where lam_low is beyond t_min the step goes to t_min, so that the last one, to t_min itself, has
    no noise. Nor has a step from alpha = 0, where there is nothing but noise.

    The weak order is that of the wrapped method where a step stands by itself: `Noised(RK4())` has
    4. A history is of states on another path of the flow, and a corrector would take the noise of a
    step for an error of the slope: the solver begins anew after a step with noise, so that
    multistep methods have the weak order 1. Where steps have no noise the history goes on.

    Attributes:
        solver: what to wrap: deterministic, on a fixed grid.
        tau: amount of noise, a number or a function of the level.

    Raises:
        TypeError: what is no solver.
        ValueError: a tau that is negative or not finite; a solver that draws noise, stays at a
            level, picks its own steps, or counts them, as `DPMSolverFast` and `PNDM` do; `UniC`;
            at the start of a solve, levels that differ from sample to sample.
    """

    solver: Solver = RK4()
    tau: Tau = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_kind(self.solver, Solver, "solver")
        if self.solver.stochastic or isinstance(self.solver, Corrector | AdaptiveSolver):
            raise ValueError(
                f"solver={self.solver}: noise goes over a solver of the flow on a fixed grid, such "
                f"as RK4(); one that draws noise has an amount of its own"
            )
        if isinstance(self.solver, DPMSolverFast | PNDM):
            raise ValueError(
                f"solver={self.solver} counts its steps, and would begin anew after each with "
                f"noise; wrap one whose steps are alike, such as RK4()"
            )
        if isinstance(self.solver, UniC):
            raise ValueError(
                f"solver={self.solver} makes the last step again to its end, which noise has moved "
                f"to another level; wrap the solver inside, or UniPC()"
            )

    @property
    def order(self) -> int:
        # an order above the calls of a step comes from the history
        return min(self.solver.order, self.solver.evals) if self.stochastic else self.solver.order

    @property
    def evals(self) -> int:
        return self.solver.evals

    def nfe(self, steps: int, denoise: bool) -> int:
        return self.solver.nfe(steps, denoise)

    def init(self, field: Field, x: Tensor, level: Level) -> Any:
        require_shared_level(level, self)
        return self.solver.init(field, x, level)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        low = self._below(field, here, there)
        reached = self.solver.step(field, x, here, low, state, noise)
        if low is there:
            return reached
        scale, std = forward_kernel(low, there)
        z = self.draw(x, here, there, noise)
        return Step(lincomb((scale, reached.x), (std, z)))

    def finish(self, field: Field, x: Tensor, here: Level, state: Any, noise: Noise) -> Step:
        return self.solver.finish(field, x, here, state, noise)

    def _below(self, field: Field, here: Level, there: Level) -> Level:
        """Return the level to step to, which is `there` itself where no noise goes in."""
        tau = 0.0 if lacks_data(here) else self.amount(here)
        if tau == 0.0:
            return there
        sde, square = field.sde, tau * tau
        t = max(sde.t_at(there.lam + square * (there.lam - here.lam)), sde.t_min)
        return sde.level(t) if t < there.t else there
