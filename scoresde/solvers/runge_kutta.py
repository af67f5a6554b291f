"""Embedded Runge-Kutta methods on the probability flow, for adaptive steps."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import require_integer, require_number
from scoresde.noise import Noise
from scoresde.sde import SDE, Level
from scoresde.solvers.base import Solver, Step
from scoresde.solvers.frames import PolarFrame
from scoresde.solvers.tableau import (
    BOGACKI_SHAMPINE,
    DORMAND_PRINCE,
    DORMAND_PRINCE_853,
    TSITOURAS,
    Tableau,
)
from scoresde.tensors import Scalar, per_sample


@dataclass(frozen=True)
class AdaptiveSolver(Solver):
    """A solver whose steps come with an error estimate, and whose loop picks their sizes.

    The loop holds each sample's root-mean-square of error / (atol + rtol |x|) below 1, for every
    sample on its own. The state of such a solver is a tensor (B, *), or tuples of them.

    Attributes:
        rtol: relative tolerance.
        atol: absolute tolerance, in units of x.
        max_nfe: network calls that one sample may take, never exceeded.
        longest: the longest step, in the variable that steps are measured in.
        first: the first step to be tried, as a share of the whole way.
        growth: the most that a step may be longer than the one before.

    Raises:
        ValueError: tolerances that are not positive and finite, or max_nfe too small for one step
            and one to sigma = 0.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_nfe: int = 10_000
    longest = math.inf
    first = 0.01
    growth = 5.0

    @property
    def back(self) -> Solver:
        """What takes the adjoint of the flow back over the steps that were taken."""
        return self

    def __post_init__(self) -> None:
        require_number(self.rtol, "rtol", above=0.0)
        require_number(self.atol, "atol", above=0.0)
        require_integer(self.max_nfe, "max_nfe", self.nfe(2, denoise=True))

    @abstractmethod
    def position(self, level: Level, data_std: float) -> Scalar:
        """Return where a level lies in the variable that steps are measured in."""

    @abstractmethod
    def level(self, position: Scalar, sde: SDE, data_std: float) -> Level:
        """Return the level at a position."""


class _Embedded(AdaptiveSolver):
    """A Runge-Kutta method in the polar frame, whose last slope is the first of the next step."""

    tableau: ClassVar[Tableau]
    stochastic = False

    @property
    def evals(self) -> int:
        return len(self.tableau.weights)

    def nfe(self, steps: int, denoise: bool) -> int:
        return 1 + super().nfe(steps, denoise)

    def init(self, field: Field, x: Tensor, level: Level) -> Tensor:
        return _FRAME.slope(field, x, level)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Tensor, noise: Noise
    ) -> Step:
        new, slopes = self.tableau.step(_FRAME, field, x, here, there, (1.0, state))
        last = _FRAME.slope(field, new, there)
        slopes.append((1.0, last))
        estimates = self.tableau.estimates(_FRAME, field, here, there, slopes)
        return Step(new, last, self._error(estimates))

    def _error(self, estimates: list[Tensor]) -> Tensor:
        return estimates[0]

    def position(self, level: Level, data_std: float) -> Scalar:
        return _FRAME.variable(level, data_std)

    def level(self, position: Scalar, sde: SDE, data_std: float) -> Level:
        return _FRAME.level(position, sde, data_std)


@dataclass(frozen=True)
class BogackiShampine(_Embedded):
    """Bogacki-Shampine 3(2) in the polar frame, three calls a step: for loose tolerances.

    Bogacki and Shampine 1989, doi:10.1016/0893-9659(89)90079-7.
    """

    order = 3
    tableau = BOGACKI_SHAMPINE


@dataclass(frozen=True)
class DormandPrince(_Embedded):
    """Dormand-Prince 5(4) on the polar form dy/dphi = v of the probability flow.

    Dormand and Prince 1980, doi:10.1016/0771-050X(80)90013-3; the polar form is that of
    `AdamsPC`. The last stage of a step is the first of the next, so a step takes six calls.
    """

    order = 5
    tableau = DORMAND_PRINCE


@dataclass(frozen=True)
class Tsitouras(_Embedded):
    """Tsitouras 5(4) in the polar frame, six calls a step.

    Tsitouras 2011, doi:10.1016/j.camwa.2011.06.002, Table 1.
    """

    order = 5
    tableau = TSITOURAS


@dataclass(frozen=True)
class DormandPrince853(_Embedded):
    """Dormand-Prince 8(5,3) in the polar frame, twelve calls a step: for tight tolerances.

    The error is the estimate e5 of order 5, scaled down where the estimate e3 of order 3 is much
    larger: e5 |e5| / sqrt(|e5|^2 + |e3|^2 / 100), with the norms of each sample. Hairer, Norsett
    and Wanner 1993, Solving Ordinary Differential Equations I, Sec. II.10, and their DOP853.
    """

    order = 8
    tableau = DORMAND_PRINCE_853

    def _error(self, estimates: list[Tensor]) -> Tensor:
        fifth, third = (torch.linalg.vector_norm(e.flatten(1), dim=1) for e in estimates)
        # data on which both vanish have no error
        both = torch.hypot(fifth, 0.1 * third).clamp(min=torch.finfo(fifth.dtype).tiny)
        return estimates[0] * per_sample(fifth / both, estimates[0])


_FRAME = PolarFrame()
