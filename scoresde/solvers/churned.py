"""Churn, over any one-step solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import require_kind
from scoresde.noise import Noise
from scoresde.sde import Level, forward_kernel
from scoresde.solvers.base import Corrector, Solver, Step, require_shared_level
from scoresde.solvers.dpm_solver import DPMSolverFast
from scoresde.solvers.flow import Heun
from scoresde.solvers.frames import X0Frame
from scoresde.solvers.restart import Restart
from scoresde.solvers.reverse import Tau, amount_at, require_amount
from scoresde.solvers.runge_kutta import AdaptiveSolver
from scoresde.tensors import Scalar, lincomb


@dataclass(frozen=True)
class Churned(Solver):
    """Raise the noise before each step, by as much as the level asks for, and step from there.

    sigma / alpha rises by a factor 1 + amount with fresh noise, by the exact transition of the
    process and never beyond T, and the wrapped solver takes the whole way down. The churn of EDM,
    Karras et al. 2022 (arXiv:2206.00364, Alg. 2), for any solver and any profile of it. The paper
    has `Heun()` and gamma for sigma / alpha within [S_min, S_max], 0 elsewhere:

        Churned(Heun(), lambda level: gamma if S_min <= level.sigma / level.alpha <= S_max else 0.0)

    Attributes:
        solver: a one-step solver; one that keeps a history would mix states before and after.
        amount: relative rise of sigma / alpha, a number or a function of the level; gamma of the
            paper. It is what has to fall with the number of steps for the solver to converge.
        inflation: factor on the added noise, S_noise of the paper.

    Raises:
        TypeError: what is no solver.
        ValueError: an amount or an inflation that is negative or not finite; a solver that stays
            at a level, picks its own steps, restarts (wrap the other way round) or, at its first
            step, keeps a history; at the start of a solve, levels of each sample's own.
    """

    solver: Solver = Heun()
    amount: Tau = 0.1
    inflation: float = 1.0
    stochastic = True

    def __post_init__(self) -> None:
        require_kind(self.solver, Solver, "solver")
        require_amount(self.amount, "amount")
        require_amount(self.inflation, "inflation")
        if isinstance(self.solver, Corrector | AdaptiveSolver | DPMSolverFast | Restart):
            raise ValueError(
                f"solver={self.solver} takes no steps one by one on a grid; wrap one that does, "
                f"such as Heun, and put Restart outside"
            )

    @property
    def order(self) -> int:
        return self.solver.order

    @property
    def evals(self) -> int:
        return self.solver.evals

    def nfe(self, steps: int, denoise: bool) -> int:
        return self.solver.nfe(steps, denoise)

    def init(self, field: Field, x: Tensor, level: Level) -> None:
        require_shared_level(level, self)
        self.solver.init(field, x, level)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        x, hat = self._raise(field, x, here, noise)
        # from hat to here the way is gone a second time, by a Brownian motion of its own
        again = noise.fold(int(here.t * 2.0**60))
        x, history, _ = self.solver.step(field, x, hat, there, None, again)
        if history is not None:
            raise ValueError(f"solver={self.solver} keeps a history; take a one-step solver")
        return Step(x)

    def finish(self, field: Field, x: Tensor, here: Level, state: Any, noise: Noise) -> Step:
        x, hat = self._raise(field, x, here, noise)
        return self.solver.finish(field, x, hat, None, noise)

    def clock(self, level: Level) -> Scalar:
        return self.solver.clock(level)

    def _raise(self, field: Field, x: Tensor, here: Level, noise: Noise) -> tuple[Tensor, Level]:
        amount = amount_at(self.amount, here, "amount")
        hat = X0Frame().level(here.alpha / here.sigma / (1.0 + amount), field.sde, field.data_std)
        if hat.t <= here.t:
            return x, here
        scale, std = forward_kernel(here, hat)
        return lincomb((scale, x), (std * self.inflation, noise.normal(x, here.t))), hat
