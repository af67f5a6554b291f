"""Embedded Runge-Kutta methods on the probability flow, for adaptive steps."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.sde import SDE, Level
from scoresde.solvers.base import Solver, Step
from scoresde.tensors import Scalar, cos, lincomb, log, sin, tan


@dataclass(frozen=True)
class AdaptiveSolver(Solver):
    """A solver whose steps come with an error estimate, and whose loop picks their sizes.

    The loop holds each sample's root-mean-square of error / (atol + rtol |x|) below 1, for every
    sample on its own. The state of such a solver is one tensor (B, *).

    Attributes:
        rtol: relative tolerance.
        atol: absolute tolerance, in units of x.
        max_nfe: network calls that one sample may take, never exceeded.
        longest: the longest step, in the variable that steps are measured in.

    Raises:
        ValueError: tolerances that are not positive, or max_nfe too small for one step.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_nfe: int = 10_000
    longest = math.inf

    def __post_init__(self) -> None:
        if not (self.rtol > 0.0 and self.atol > 0.0):
            raise ValueError(f"rtol={self.rtol}, atol={self.atol} must be positive")
        if self.max_nfe < self.nfe(2, denoise=True):
            raise ValueError(
                f"max_nfe={self.max_nfe}: one step and one to sigma = 0 take "
                f"{self.nfe(2, denoise=True)} network calls"
            )

    @abstractmethod
    def position(self, level: Level, data_std: float) -> Scalar:
        """Return where a level lies in the variable that steps are measured in."""

    @abstractmethod
    def level(self, position: Scalar, sde: SDE, data_std: float) -> Level:
        """Return the level at a position."""


@dataclass(frozen=True)
class DormandPrince(AdaptiveSolver):
    """Dormand-Prince 5(4) on the polar form dy/dphi = v of the probability flow.

    Dormand and Prince 1980, doi:10.1016/0771-050X(80)90013-3; the polar form is that of
    `AdamsPC`. The last stage of a step is the first of the next, so a step takes six calls.
    """

    order = 5
    stochastic = False
    evals = 6

    def nfe(self, steps: int, denoise: bool) -> int:
        return 1 + super().nfe(steps, denoise)

    def init(self, field: Field, x: Tensor, level: Level) -> Tensor:
        return _v(field, x, level)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Tensor, noise: Noise
    ) -> Step:
        c = field.data_std
        start, r = here.angle(c), here.radius(c)
        h = there.angle(c) - start
        slopes, scale, stage = [state], r, x
        for row, node in zip(_A, _C, strict=True):
            at = there if node == 1.0 else self.level(start + node * h, field.sde, c)
            scale = at.radius(c)
            moves = ((scale * h * a, k) for a, k in zip(row, slopes, strict=True))
            stage = lincomb((scale / r, x), *moves)
            slopes.append(_v(field, stage, at))
        error = lincomb(*((scale * h * e, k) for e, k in zip(_E, slopes, strict=True)))
        return Step(stage, slopes[-1], error)

    def position(self, level: Level, data_std: float) -> Scalar:
        return level.angle(data_std)

    def level(self, position: Scalar, sde: SDE, data_std: float) -> Level:
        t = sde.t_at(-log(tan(position)) - math.log(data_std))
        # rounding puts the ends an ulp outside the time span, where a network need not be defined
        t = t.clamp(0.0, sde.T) if isinstance(t, Tensor) else min(max(t, 0.0), sde.T)
        return Level(t, sde.alpha(t), sde.sigma(t))


def _v(field: Field, x: Tensor, level: Level) -> Tensor:
    phi = level.angle(field.data_std)
    return field(x, level).combine(eps=cos(phi), x0=-sin(phi) / field.data_std)


# Butcher tableau: nodes, rows (the last one is the fifth-order solution), and the weights of the
# fifth-order solution less those of the fourth-order one
_C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
