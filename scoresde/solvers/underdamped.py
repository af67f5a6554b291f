"""The underdamped Langevin corrector."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import require_number
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.base import Corrector, Step
from scoresde.tensors import exp, expm1, lincomb, sqrt


@dataclass(frozen=True)
class UnderdampedLangevin(Corrector):
    """One step of the splitting BAOAB on dx = v dt, dv = (score - g v) dt + sqrt(2 g) dw.

    With h = step_size sigma and c = e^{-g h} = e^{-friction step_size},

        v += h/2 score(x),   x += h/2 v,   v = c v + sqrt(1 - c^2) z,   x += h/2 v,   v += h/2 score

    (Leimkuhler and Matthews 2013, arXiv:1203.5428; underdamped sampling: Cheng et al. 2018,
    arXiv:1707.03663). The last kick waits for the call of the next correction at the same level.
    Velocities are drawn anew at every level, and travel through the `corrections` made there: give
    a few, so that the walk keeps its direction for a while.

    On N(0, V) many corrections leave the variance V itself, and few leave it within a relative
    h^2 / (4 V - h^2); h below 2 sigma is stable whatever the data.

    Attributes:
        step_size: h / sigma.
        friction: g sigma; the walk keeps its direction over some sigma / friction.

    Raises:
        ValueError: step_size outside (0, 2), friction negative or not finite.
    """

    step_size: float = 0.5
    friction: float = 1.0

    def __post_init__(self) -> None:
        require_number(self.step_size, "step_size", above=0.0, below=2.0)
        require_number(self.friction, "friction", least=0.0)

    def step(
        self,
        field: Field,
        x: Tensor,
        here: Level,
        there: Level,
        state: Tensor | None,
        noise: Noise,
    ) -> Step:
        h = self.step_size * there.sigma
        keep = exp(-self.friction * self.step_size)
        fresh = sqrt(-expm1(-2.0 * self.friction * self.step_size))
        kick = field(x, there).term(eps=-(h if state is not None else 0.5 * h) / there.sigma)
        v = noise.fold(0).normal(x, there.t) if state is None else state
        v = lincomb((1.0, v), kick)
        z = noise.normal(x, there.t)
        x = lincomb((1.0, x), (0.5 * h * (1.0 + keep), v), (0.5 * h * fresh, z))
        return Step(x, lincomb((keep, v), (fresh, z)))
