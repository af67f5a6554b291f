"""Classical one-step methods on the probability flow, in any frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.base import Solver, Step
from scoresde.solvers.frames import Frame, PolarFrame, TimeFrame
from scoresde.solvers.tableau import CLASSICAL, EULER, HEUN, MIDPOINT, Tableau


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
    """Heun's second-order method: y_e = y + h k(y, u), then y + h/2 (k(y, u) + k(y_e, u + h)).

    In t it is the solver of EDM, whose churn is `Churned(Heun(), ...)`: together they are
    Algorithm 2 of Karras et al. 2022 (arXiv:2206.00364) on `EDMSDE`.

    Attributes:
        frame: the coordinates that it steps in.

    Raises:
        ValueError: at the start of a solve, where the frame is singular.
    """

    frame: Frame = TimeFrame()
    order = 2
    evals = 2
    tableau = HEUN
