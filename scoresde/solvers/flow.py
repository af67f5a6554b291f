"""Classical one-step methods on the probability flow, in any frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.sde import Level, forward_kernel
from scoresde.solvers.base import Solver, Step
from scoresde.solvers.frames import Frame, PolarFrame, TimeFrame
from scoresde.solvers.tableau import CLASSICAL, EULER, HEUN, MIDPOINT, Tableau
from scoresde.tensors import lincomb


class _RungeKutta(Solver):
    """An explicit Runge-Kutta method in a frame."""

    frame: Frame
    tableau: ClassVar[Tableau]
    stochastic = False

    def init(self, field: Field, x: Tensor, level: Level) -> None:
        self.frame.check(self, field.sde, level)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        self.frame.check(self, field.sde, there)  # an encoding may end where it cannot start
        first = self.frame.term(field, x, here)
        return Step(self.tableau.step(self.frame, field, x, here, there, first)[0])


@dataclass(frozen=True)
class Euler(_RungeKutta):
    """Euler's method on the probability flow, dx/dt = f x - g^2 score / 2 in t by default.

    Song et al. 2021, arXiv:2011.13456, eq. 13.

    Attributes:
        frame: the coordinates that it steps in.

    Raises:
        ValueError: at the start of a solve, where the frame is singular.
    """

    frame: Frame = TimeFrame()
    order = 1
    tableau = EULER


@dataclass(frozen=True)
class Midpoint(_RungeKutta):
    """The midpoint method: y_m = y + h/2 k(y, u), then y + h k(y_m, u + h/2).

    Runge 1895, doi:10.1007/BF01446807.

    Attributes:
        frame: the coordinates that it steps in.

    Raises:
        ValueError: at the start of a solve, where the frame is singular.
    """

    frame: Frame = PolarFrame()
    order = 2
    evals = 2
    tableau = MIDPOINT


@dataclass(frozen=True)
class RK4(_RungeKutta):
    """The classical Runge-Kutta method of order 4.

    Kutta 1901; Hairer, Norsett and Wanner 1993, Solving Ordinary Differential Equations I,
    Table II.1.2.

    Attributes:
        frame: the coordinates that it steps in.

    Raises:
        ValueError: at the start of a solve, where the frame is singular.
    """

    frame: Frame = PolarFrame()
    order = 4
    evals = 4
    tableau = CLASSICAL


@dataclass(frozen=True)
class Heun(_RungeKutta):
    """Heun's second-order method on the probability flow, with the churn of EDM.

    On `EDMSDE` it is Algorithm 2 of Karras et al. 2022 (arXiv:2206.00364). Churn first raises
    sigma / alpha by a factor 1 + churn with fresh noise, by the exact transition of the process,
    where sigma / alpha lies in churn_range, and never beyond T.

    Attributes:
        churn: relative rise of the noise before a step; gamma = S_churn / N of the paper. It is
            what has to fall with the number of steps N for the solver to converge.
        churn_range: (S_min, S_max) of the paper, in sigma / alpha.
        churn_noise: inflation of the added noise, S_noise of the paper.
        frame: the coordinates that it steps in, t by default.

    Raises:
        ValueError: a negative churn; at the start of a solve, where the frame is singular.
    """

    churn: float = 0.0
    churn_range: tuple[float, float] = (0.0, math.inf)
    churn_noise: float = 1.0
    frame: Frame = TimeFrame()
    order = 2
    evals = 2
    tableau = HEUN

    def __post_init__(self) -> None:
        if not self.churn >= 0.0:
            raise ValueError(f"churn={self.churn} must not be negative")

    @property
    def stochastic(self) -> bool:
        return self.churn > 0.0

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        if self.stochastic:
            x, here = self._raise(field, x, here, noise)
        return super().step(field, x, here, there, state, noise)

    def finish(self, field: Field, x: Tensor, here: Level, state: Any, noise: Noise) -> Step:
        if self.stochastic:
            x, here = self._raise(field, x, here, noise)
        return super().finish(field, x, here, state, noise)

    def _raise(self, field: Field, x: Tensor, here: Level, noise: Noise) -> tuple[Tensor, Level]:
        ratio = math.exp(-here.lam)
        if not self.churn_range[0] <= ratio <= self.churn_range[1]:
            return x, here
        t = min(field.sde.t_at(here.lam - math.log1p(self.churn)), field.sde.T)
        if t <= here.t:
            return x, here
        hat = field.sde.level(t)
        scale, std = forward_kernel(here, hat)
        z = noise.normal(x, here.t)
        return lincomb((scale, x), (std * self.churn_noise, z)), hat
