"""Restart sampling, over any solver."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import require_integer, require_kind, require_number
from scoresde.grids import Grid, KarrasGrid
from scoresde.noise import Noise
from scoresde.sde import Level, forward_kernel
from scoresde.solvers.base import Corrector, Solver, Step, require_shared_level
from scoresde.solvers.dpm_solver import DPMSolverFast
from scoresde.solvers.flow import Heun
from scoresde.solvers.runge_kutta import AdaptiveSolver
from scoresde.tensors import Scalar, exp, lincomb, log


@dataclass(frozen=True)
class Restart(Solver):
    """Go back up an interval of noise levels and solve down it again, some times over.

    After the step that reaches sigma / alpha = `bottom` or less, noise is added up to `top` by the
    exact transition of the process, and the wrapped solver carries the state back to the level
    reached in `steps` steps of their own: `repeats` times. What an imperfect score left in the
    samples is forgotten on the way up (Xu et al. 2023, arXiv:2306.14878, Alg. 1).

    Wrap once more for a second interval: each interval is solved again by the plain solver, as in
    the paper. The interval has steps of its own, so that the error vanishes only where both the
    grid and `steps` become fine.

    A solve that takes no step over `bottom` does not restart: one from T to sigma = 0 at once, and
    those on a part of the way that starts at `bottom` or below, or ends above. `nfe` declares the
    calls of a solve that does.

    Attributes:
        solver: what to wrap. A history starts afresh at the top, and goes on from the bottom.
        bottom: sigma / alpha from which to restart: the first level of the grid at it or below,
            which is t_min where a coarse grid has no other.
        top: sigma / alpha up to which noise is added.
        steps: from the top to the bottom.
        repeats: how often.
        grid: of these steps; that of the paper by default.

    Raises:
        TypeError: what is no solver.
        ValueError: numbers out of range; a solver that stays at a level, picks its own steps, or
            has a budget of network calls to spend; at the start of a solve, a process that does
            not cover the interval, and levels that differ from sample to sample.
    """

    solver: Solver = Heun()
    bottom: float = 0.06
    top: float = 0.3
    steps: int = 3
    repeats: int = 2
    grid: Grid = KarrasGrid()
    stochastic = True

    def __post_init__(self) -> None:
        require_kind(self.solver, Solver, "solver")
        require_number(self.bottom, "bottom", above=0.0)
        require_number(self.top, "top", above=self.bottom)
        require_integer(self.steps, "steps", 1)
        require_integer(self.repeats, "repeats", 1)
        if isinstance(self.solver, Corrector | AdaptiveSolver | DPMSolverFast):
            raise ValueError(
                f"solver={self.solver} takes no steps on a grid; wrap one that does, such as Heun"
            )

    @property
    def plain(self) -> Solver:
        """The solver under all wrappers of this kind."""
        return self.solver.plain if isinstance(self.solver, Restart) else self.solver

    @property
    def depth(self) -> int:
        """How many wrappers of this kind there are, this one included."""
        return 1 + (self.solver.depth if isinstance(self.solver, Restart) else 0)

    @property
    def order(self) -> int:
        return self.solver.order

    @property
    def evals(self) -> int:
        return self.solver.evals

    def nfe(self, steps: int, denoise: bool) -> int:
        again = self.repeats * self.plain.nfe(self.steps, denoise=False)
        return self.solver.nfe(steps, denoise) + again * (steps > denoise)

    def init(self, field: Field, x: Tensor, level: Level) -> Any:
        require_shared_level(level, self)
        low, high = (float(exp(-field.sde.lam(t))) for t in (field.sde.t_min, field.sde.T))
        if not low <= self.bottom < self.top <= high:
            raise ValueError(
                f"solver={self}: sigma / alpha of {field.sde} goes from {low:.3g} to {high:.3g} "
                f"only; choose bottom and top within"
            )
        return self.solver.init(field, x, level)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        reached = self.solver.step(field, x, here, there, state, noise)
        bottom = -log(self.bottom)
        if not here.lam < bottom <= there.lam:
            return reached
        top = field.sde.level_at(-log(self.top))
        levels = self.grid.levels(replace(field.sde, T=top.t, t_min=there.t), self.steps)
        # negative, as PredictorCorrector folds by 0 and up
        visits = noise.fold(-self.depth)
        for k in range(self.repeats):
            reached = self._again(field, reached.x, levels, visits.fold(k))
        return reached

    def finish(self, field: Field, x: Tensor, here: Level, state: Any, noise: Noise) -> Step:
        return self.solver.finish(field, x, here, state, noise)

    def clock(self, level: Level) -> Scalar:
        return self.solver.clock(level)

    def _again(self, field: Field, x: Tensor, levels: tuple[Level, ...], noise: Noise) -> Step:
        top, bottom = levels[0], levels[-1]
        scale, std = forward_kernel(bottom, top)
        x = lincomb((scale, x), (std, noise.normal(x)))
        state = self.plain.init(field, x, top)
        for here, there in pairwise(levels):
            x, state, _ = self.plain.step(field, x, here, there, state, noise)
        return Step(x, state)
