"""DDIM and ancestral sampling: Gaussian steps around the predicted data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.base import Solver, Step, lacks_data
from scoresde.solvers.reverse import Tau, amount_at, require_amount
from scoresde.tensors import Scalar, expm1, lincomb, sqrt


@dataclass(frozen=True)
class DDIM(Solver):
    """DDIM: x_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 v) eps + eta sqrt(v) z.

    v = sigma_s^2 (1 - e^{2 (lam_t - lam_s)}) is the posterior variance of x_s given x_t and x0.
    eta = 0 is the first-order exponential integrator of the probability flow, eta = 1 samples
    the DDPM posterior (Song et al. 2021, arXiv:2010.02502, eqs. 12, 16).

    Attributes:
        eta: amount of noise in [0, 1], a number or a function of the level.

    Raises:
        ValueError: eta outside [0, 1], here or in a step.
    """

    eta: Tau = 0.0
    order = 1
    strong_order = 1

    def __post_init__(self) -> None:
        require_amount(self.eta, "eta", 1.0)

    @property
    def stochastic(self) -> bool:
        return callable(self.eta) or self.eta > 0.0

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        eta = amount_at(self.eta, here, "eta", 1.0)
        share = eta * eta * new_noise(here, there) if self.stochastic else 0.0
        mean = field(x, here).combine(x0=there.alpha, eps=there.sigma * sqrt(1.0 - share))
        if not self.stochastic:
            return Step(mean)
        z = noise.increment(x, self.clock(there), self.clock(here))
        return Step(lincomb((1.0, mean), (self._scale(here, there) * sqrt(share), z)))

    def _scale(self, here: Level, there: Level) -> Scalar:
        """Return the deviation of the noise of a step in which all of it is new."""
        return there.sigma


@dataclass(frozen=True)
class Ancestral(DDIM):
    """Ancestral sampling of DDPM: DDIM with all the noise, and one of DDPM's two variances.

    Per eta^2 a step's noise has the variance sigma^2 (1 - e^{2 (lam_t - lam_s)}). With sigma_s it
    is the variance of the posterior q(x_s | x_t, x0), right for data that are one point, with any
    eta; this is DDIM. With sigma_t it is that of the forward kernel from s to t, right for white
    Gaussian data with eta = 1. The two agree to first order in the step, so that either has the
    right marginals in the limit (Ho et al. 2020, arXiv:2006.11239, Sec. 3.2; Song et al. 2021,
    arXiv:2011.13456, App. F).

    Attributes:
        eta: amount of noise in [0, 1], a number or a function of the level.
        forward_variance: take the forward kernel's variance, the larger one.

    Raises:
        ValueError: eta outside [0, 1]; at the start of a solve, forward_variance where alpha is 0.
    """

    eta: Tau = 1.0
    forward_variance: bool = False

    def init(self, field: Field, x: Tensor, level: Level) -> None:
        if self.forward_variance and lacks_data(level):
            raise ValueError(
                f"solver={self}: the forward kernel has no inverse at t={level.t} of {field.sde}, "
                f"where alpha is 0; choose a smaller T, or forward_variance=False"
            )

    def _scale(self, here: Level, there: Level) -> Scalar:
        return here.sigma if self.forward_variance else there.sigma


def new_noise(here: Level, there: Level) -> Scalar:
    """Return 1 - e^{2 (lam_here - lam_there)}, for a less noisy `there`.

    It is the share of sigma_there^2 that x_here and x0 leave undetermined, in [0, 1].
    """
    return -expm1(2.0 * (here.lam - there.lam))
