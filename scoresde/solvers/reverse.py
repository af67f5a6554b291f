"""The reverse SDE with any amount of noise, and its exact step where x0 is constant."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from scoresde.errors import require_number
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.base import Solver
from scoresde.tensors import Scalar, exp, expm1, sqrt

Tau = float | Callable[[Level], Scalar]
"""An amount of noise: a number, or a function of the level, held constant over a step."""


class TauSolver(Solver):
    """A solver of the reverse SDE with any amount of noise.

        dx = [f x - (1 + tau^2) / 2 g^2 score] dt + tau g dw

    Every tau has the same marginals (Zhang and Chen 2021, arXiv:2110.07579, Prop. 1): tau = 1 is
    the reverse SDE of Song et al. 2021 (arXiv:2011.13456, eq. 6), tau = 0 the probability flow.

    The order declared is the weak one where there is noise: the law's mean and covariance on
    Gaussian data, measured exactly by `scoresde.testing.law`.

    Attributes:
        tau: amount of noise, a number or a function of the level.

    Raises:
        ValueError: a tau that is negative or not finite, here or in a step.
    """

    tau: Tau

    def __post_init__(self) -> None:
        require_amount(self.tau, "tau")

    @property
    def stochastic(self) -> bool:
        return callable(self.tau) or self.tau > 0.0

    def amount(self, level: Level) -> Scalar:
        """Return tau of a step that starts at a level."""
        return amount_at(self.tau, level, "tau")

    def draw(self, x: Tensor, here: Level, there: Level, noise: Noise) -> Tensor:
        """Return the unit normals of a step, for x (B, *)."""
        return noise.increment(x, self.clock(there), self.clock(here))


class ReverseSolver(TauSolver):
    """A solver whose steps have the noise of `reverse_kernel`, in the clock that runs with it."""

    def clock(self, level: Level) -> Scalar:
        """Return -(alpha / sigma)^(2 tau^2): the noise of a step is an increment in this clock.

        With h = lam_s - lam_t the noise of `reverse_kernel` is sigma_s e^{-tau^2 lam_s} times the
        integral of sqrt(2) tau e^{tau^2 lam} dw, which is a Brownian motion in e^{2 tau^2 lam}. So
        finer steps have the same noise up to the rounding of the clock. A tau above 1, whose own
        clock would outgrow what floats tell apart, and one that is a function of the level run in
        the clock of tau = 1, where they follow the path to first order.
        """
        tau = 1.0 if callable(self.tau) else min(self.tau, 1.0)
        return -exp(2.0 * tau * tau * level.lam)


def require_amount(amount: Tau, name: str, most: float = math.inf) -> None:
    """Refuse a number that is no amount of noise.

    Raises:
        ValueError: naming it and what it may be; one that is negative, NaN, infinite or above most.
    """
    if not callable(amount):
        require_number(amount, name, least=0.0, most=most)


def amount_at(amount: Tau, level: Level, name: str, most: float = math.inf) -> Scalar:
    """Return an amount at a level.

    Raises:
        ValueError: as `require_amount`, for a function's value there (checked for floats and for
            tensors in host memory).
    """
    if not callable(amount):
        return amount
    value = amount(level)
    if not isinstance(value, Tensor):
        found = [value]
    else:
        found = value.flatten().tolist() if value.device.type == "cpu" else []
    for each in found:
        require_amount(each, f"{name} of {amount} at t={level.t}: {name}", most)
    return value


class ReverseKernel(NamedTuple):
    """The step x_s = keep x_t + (alpha_s - keep alpha_t) x0 + std z of the reverse SDE."""

    keep: Scalar
    std: Scalar


def reverse_kernel(here: Level, there: Level, tau: Scalar) -> ReverseKernel:
    """Return the exact step of the reverse SDE where x0 is constant.

    keep = sigma_s / sigma_t e^{-tau^2 h} and std^2 = sigma_s^2 (1 - e^{-2 tau^2 h}), with
    h = lam_s - lam_t (Xue et al. 2023, arXiv:2309.05019, eq. 11).
    """
    h, square = there.lam - here.lam, tau * tau
    keep = there.sigma / here.sigma * exp(-h) ** square  # 1 for tau = 0, h infinite or not
    if not isinstance(square, Tensor) and square == 0.0:
        return ReverseKernel(keep, 0.0)  # h may be infinite
    return ReverseKernel(keep, there.sigma * sqrt(-expm1(-2.0 * square * h)))
