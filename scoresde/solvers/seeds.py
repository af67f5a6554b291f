"""Single-step exponential methods for the reverse SDE: several network calls a step."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import require_integer
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.base import Solver, Step, lacks_data
from scoresde.solvers.reverse import ReverseSolver, Tau, reverse_kernel
from scoresde.tensors import Scalar, Term, expm1, lincomb


@dataclass(frozen=True)
class SEEDS(ReverseSolver):
    """SEEDS: stochastic exponential derivative-free methods on x0, in lam.

    The stages of DPM-Solver++, at equal parts of the step in lam, for the exact form of a step
    that `StochasticAdams` has. Every stage has the noise of one path up to its own level, so that
    the draws of the parts of a step add up (Gonzalez et al. 2023, arXiv:2305.14267, Algs. 1-3,
    with data prediction). One stage is `SDEDPMSolverPP(1)`, two are the single-step
    SDE-DPM-Solver++ 2S: the midpoint rule. With tau = 0 they are DPM-Solver++ 2S and 3S (Lu et al.
    2022, arXiv:2211.01095, Alg. 1).

    The weak order is 1 with one stage and 2 with more; that of the flow is the number of stages.

    Attributes:
        stages: network calls a step: 1, 2 or 3.
        tau: amount of noise.

    Raises:
        ValueError: another number of stages, or a negative tau; at the start of a solve, alpha = 0.
    """

    stages: int = 2
    tau: Tau = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer(self.stages, "stages", 1, 3)

    @property
    def order(self) -> int:
        return min(self.stages, 2) if self.stochastic else self.stages

    @property
    def evals(self) -> int:
        return self.stages

    def init(self, field: Field, x: Tensor, level: Level) -> None:
        if lacks_data(level):
            require_data(field, self)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        if lacks_data(there):  # an encoding may end where it cannot start
            require_data(field, self)
        tau, h, n = self.amount(here), there.lam - here.lam, self.stages
        rate = 1.0 + tau * tau
        levels = [here, *(field.sde.level_at(here.lam + k / n * h) for k in range(1, n)), there]
        shocks: list[Term] = []
        data: list[Term] = []
        stage = x
        for k, (before, way) in enumerate(pairwise(levels), 1):
            data.append(field(stage, before).term(x0=1.0))
            if self.stochastic:
                kept, std = reverse_kernel(before, way, tau)
                shocks = [(kept * c, z) for c, z in shocks]
                shocks.append((std, self.draw(x, before, way, noise)))
            keep = reverse_kernel(here, way, tau).keep
            rise = way.alpha - keep * here.alpha
            lean = 0.0
            if k > 1:  # a line in lam through x0 at the start and at the stage before
                share = 0.5 if n == 2 else _mean_share(rate * k / n * h)
                lean = rise * share * k / (k - 1)
            (first, start), (last, newest) = data[0], data[-1]
            drift = [((rise - lean) * first, start), (lean * last, newest)]
            stage = lincomb((keep, x), *drift, *shocks)
        return Step(stage)


def require_data(field: Field, solver: Solver) -> None:
    """Refuse a process whose alpha is 0 at T, where lam is infinite.

    Raises:
        ValueError: naming the solver, the process and the remedy.
    """
    if float(field.sde.alpha(field.sde.T)) == 0.0:
        raise ValueError(
            f"solver={solver}: alpha is 0 and lam infinite at T={field.sde.T} of {field.sde}; "
            f"choose a smaller T, or StochasticAdamsPC"
        )


def _mean_share(span: Scalar) -> Scalar:
    """Return the mean of u over [0, 1] with the weight e^{span u}."""
    return -1.0 / expm1(-span) - 1.0 / span
