"""Frames: coordinates in which the probability flow is written down and solved.

A frame scales the state, y = x / scale, and measures the way in a variable u of its own, so that
the flow of every process reads

    dy/du = a x0 + b eps

with known a and b. What the scale absorbs is integrated exactly and costs no steps. A one-step
method is written once, against `Frame`, and works in each.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.sde import SDE, Level
from scoresde.solvers.base import lacks_data
from scoresde.tensors import Scalar, Term, cos, exp, log, sin, tan


class Frame(ABC):
    """Coordinates (y, u) of the probability flow, for data of deviation `data_std`.

    Attributes:
        needs_alpha: whether the frame is for alpha > 0 only.
    """

    needs_alpha: bool = False

    @abstractmethod
    def scale(self, level: Level, data_std: float) -> Scalar:
        """Return x / y at a level."""

    @abstractmethod
    def variable(self, level: Level, data_std: float) -> Scalar:
        """Return u at a level."""

    @abstractmethod
    def level(self, variable: Scalar, sde: SDE, data_std: float) -> Level:
        """Return the level at u."""

    @abstractmethod
    def rate(self, lam: Scalar, sde: SDE, data_std: float) -> Scalar:
        """Return du/dlam where the half log-SNR is lam."""

    @abstractmethod
    def coefficients(self, level: Level, sde: SDE, data_std: float) -> tuple[Scalar, Scalar]:
        """Return a and b of dy/du = a x0 + b eps."""

    def check(self, solver: object, sde: SDE, level: Level) -> None:
        """Refuse a level at which the frame is singular.

        Raises:
            ValueError: alpha = 0 (checked for floats) in a frame that is for alpha > 0.
        """
        if self.needs_alpha and lacks_data(level):
            raise ValueError(
                f"solver={solver}: lam is infinite at t={level.t} of {sde}, where alpha is 0; "
                f"choose a smaller T"
            )

    def slope(self, field: Field, x: Tensor, level: Level) -> Tensor:
        """Return dy/du at x (B, *), by one network call."""
        of_x0, of_eps = self.coefficients(level, field.sde, field.data_std)
        return field(x, level).combine(x0=of_x0, eps=of_eps)

    def term(self, field: Field, x: Tensor, level: Level) -> Term:
        """Return the same as a (coefficient, tensor), for a history: one operation less."""
        of_x0, of_eps = self.coefficients(level, field.sde, field.data_std)
        return field(x, level).term(x0=of_x0, eps=of_eps)


@dataclass(frozen=True)
class TimeFrame(Frame):
    """The flow as it stands: y = x, u = t, dx/dt = d alpha/dt x0 + d sigma/dt eps."""

    def scale(self, level: Level, data_std: float) -> Scalar:
        return 1.0

    def variable(self, level: Level, data_std: float) -> Scalar:
        return level.t

    def level(self, variable: Scalar, sde: SDE, data_std: float) -> Level:
        return _at(variable, sde)

    def rate(self, lam: Scalar, sde: SDE, data_std: float) -> Scalar:
        t = sde.t_at(lam)
        return -2.0 * sde.sigma(t) ** 2 / sde.g2(t)

    def coefficients(self, level: Level, sde: SDE, data_std: float) -> tuple[Scalar, Scalar]:
        return sde.dalpha(level.t), sde.dsigma(level.t)


@dataclass(frozen=True)
class EpsFrame(Frame):
    """y = x / alpha, u = sigma / alpha, dy/du = eps; for alpha > 0.

    The frame of DDIM (Song et al. 2021, arXiv:2010.02502, eq. 14) and of EDM.
    """

    needs_alpha = True

    def scale(self, level: Level, data_std: float) -> Scalar:
        return level.alpha

    def variable(self, level: Level, data_std: float) -> Scalar:
        return level.sigma / level.alpha

    def level(self, variable: Scalar, sde: SDE, data_std: float) -> Level:
        return _at(sde.t_at(-log(variable)), sde)

    def rate(self, lam: Scalar, sde: SDE, data_std: float) -> Scalar:
        return -exp(-lam)

    def coefficients(self, level: Level, sde: SDE, data_std: float) -> tuple[Scalar, Scalar]:
        return 0.0, 1.0


@dataclass(frozen=True)
class X0Frame(Frame):
    """y = x / sigma, u = alpha / sigma, dy/du = x0; for sigma > 0.

    The frame of DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095, eq. 8).
    """

    def scale(self, level: Level, data_std: float) -> Scalar:
        return level.sigma

    def variable(self, level: Level, data_std: float) -> Scalar:
        return level.alpha / level.sigma

    def level(self, variable: Scalar, sde: SDE, data_std: float) -> Level:
        return _at(sde.t_at(log(variable)), sde)

    def rate(self, lam: Scalar, sde: SDE, data_std: float) -> Scalar:
        return exp(lam)

    def coefficients(self, level: Level, sde: SDE, data_std: float) -> tuple[Scalar, Scalar]:
        return 1.0, 0.0


@dataclass(frozen=True)
class PolarFrame(Frame):
    """y = x / r, u = phi, dy/dphi = v = cos(phi) eps - sin(phi) x0 / c; for every level.

    With r = sqrt(alpha^2 c^2 + sigma^2) and phi = atan2(sigma, alpha c) for data of deviation c.
    v is 0 for white Gaussian data of that deviation, whose flow so costs no steps.
    """

    def scale(self, level: Level, data_std: float) -> Scalar:
        return level.radius(data_std)

    def variable(self, level: Level, data_std: float) -> Scalar:
        return level.angle(data_std)

    def level(self, variable: Scalar, sde: SDE, data_std: float) -> Level:
        return _at(sde.t_at(-log(tan(variable)) - math.log(data_std)), sde)

    def rate(self, lam: Scalar, sde: SDE, data_std: float) -> Scalar:
        rise = data_std * exp(lam)
        return -1.0 / (rise + 1.0 / rise)

    def coefficients(self, level: Level, sde: SDE, data_std: float) -> tuple[Scalar, Scalar]:
        phi = level.angle(data_std)
        return -sin(phi) / data_std, cos(phi)


@dataclass(frozen=True)
class LogFrame(Frame):
    """The same y in w = log u of another frame, dy/dw = u dy/du: lam or -lam for x0 and eps.

    Attributes:
        frame: the other frame, with u > 0 for alpha > 0.
    """

    frame: Frame
    needs_alpha = True

    def scale(self, level: Level, data_std: float) -> Scalar:
        return self.frame.scale(level, data_std)

    def variable(self, level: Level, data_std: float) -> Scalar:
        return log(self.frame.variable(level, data_std))

    def level(self, variable: Scalar, sde: SDE, data_std: float) -> Level:
        return self.frame.level(exp(variable), sde, data_std)

    def rate(self, lam: Scalar, sde: SDE, data_std: float) -> Scalar:
        at = self.frame.variable(sde.level_at(lam), data_std)
        return self.frame.rate(lam, sde, data_std) / at

    def coefficients(self, level: Level, sde: SDE, data_std: float) -> tuple[Scalar, Scalar]:
        u = self.frame.variable(level, data_std)
        of_x0, of_eps = self.frame.coefficients(level, sde, data_std)
        return u * of_x0, u * of_eps


def _at(t: Scalar, sde: SDE) -> Level:
    # rounding puts the ends an ulp outside the time span, where a network need not be defined
    t = t.clamp(0.0, sde.T) if isinstance(t, Tensor) else min(max(t, 0.0), sde.T)
    return Level(t, sde.alpha(t), sde.sigma(t))
