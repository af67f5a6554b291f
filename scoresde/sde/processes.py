"""The processes of the field."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from scoresde.sde.base import SDE
from scoresde.tensors import Scalar, asinh, atan2, cos, exp, expm1, hypot, sin, softplus, sqrt, tan


@dataclass(frozen=True)
class _LinearBeta(SDE):
    """What VP and sub-VP share: beta(t) = beta_min + t (beta_max - beta_min) and its integral."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0.0 < self.beta_min <= self.beta_max < math.inf:
            raise ValueError(
                f"beta_min={self.beta_min}, beta_max={self.beta_max}: "
                f"need 0 < beta_min <= beta_max < inf"
            )
        super().__post_init__()

    def beta(self, t: Scalar) -> Scalar:
        """Return the noise rate beta(t)."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def f(self, t: Scalar) -> Scalar:
        return -0.5 * self.beta(t)

    def alpha(self, t: Scalar) -> Scalar:
        return exp(-0.5 * self._integral(t))

    def _integral(self, t: Scalar) -> Scalar:
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def _inverse_integral(self, b: Scalar) -> Scalar:
        slope = self.beta_max - self.beta_min
        # the stable root of slope t^2 / 2 + beta_min t = b: no difference of like terms
        return 2.0 * b / (self.beta_min + sqrt(self.beta_min**2 + 2.0 * slope * b))


@dataclass(frozen=True)
class VPSDE(_LinearBeta):
    """Variance preserving: dx = -beta x / 2 dt + sqrt(beta) dw, with beta linear in t.

    alpha = e^{-B/2}, sigma^2 = 1 - e^{-B}, with B(t) the integral of beta from 0 to t.
    Song et al. 2021, arXiv:2011.13456, eqs. 11, 29, 32.
    """

    def sigma(self, t: Scalar) -> Scalar:
        return sqrt(-expm1(-self._integral(t)))

    def dsigma(self, t: Scalar) -> Scalar:
        # of sigma^2 = 1 - alpha^2: the difference g^2 / (2 sigma) + f sigma cancels as alpha falls
        return 0.5 * self.beta(t) * exp(-self._integral(t)) / self.sigma(t)

    def g2(self, t: Scalar) -> Scalar:
        return self.beta(t)

    def t_at(self, lam: Scalar) -> Scalar:
        return self._inverse_integral(softplus(-2.0 * lam))


@dataclass(frozen=True)
class SubVPSDE(_LinearBeta):
    """Sub-VP: the drift of VP with g^2 = beta (1 - e^{-2B}), so that sigma = 1 - e^{-B}.

    Song et al. 2021, arXiv:2011.13456, eqs. 12, 29.
    """

    def sigma(self, t: Scalar) -> Scalar:
        return -expm1(-self._integral(t))

    def dsigma(self, t: Scalar) -> Scalar:
        return self.beta(t) * exp(-self._integral(t))

    def g2(self, t: Scalar) -> Scalar:
        return -self.beta(t) * expm1(-2.0 * self._integral(t))

    def t_at(self, lam: Scalar) -> Scalar:
        return self._inverse_integral(2.0 * asinh(0.5 * exp(-lam)))


@dataclass(frozen=True)
class VESDE(SDE):
    """Variance exploding: alpha = 1, sigma(t) = sigma_min (sigma_max / sigma_min)^t.

    Here sigma(t) is the deviation of the noise in x_t for data at noise 0, as in the code of Song
    et al. 2021 (arXiv:2011.13456, eq. 30): the process starts before t = 0, and x at t = 0 carries
    noise of deviation sigma_min. The SDE run from t = 0 adds sigma(t)^2 - sigma_min^2, which is
    what `transition(0, t)` returns.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    _: KW_ONLY
    t_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}: "
                f"need 0 < sigma_min < sigma_max < inf"
            )
        super().__post_init__()

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Scalar) -> Scalar:
        return _constant(1.0, t)

    def sigma(self, t: Scalar) -> Scalar:
        # from the nearer end, exactly at both: a long exponent has a long rounding error
        low, high = self.sigma_min * exp(self._rate * t), self.sigma_max * exp(self._rate * (t - 1))
        if isinstance(t, Tensor):
            return torch.where(t < 0.5, low, high)
        return low if t < 0.5 else high

    def f(self, t: Scalar) -> Scalar:
        return _constant(0.0, t)

    def g2(self, t: Scalar) -> Scalar:
        sigma = self.sigma(t)
        return 2.0 * self._rate * sigma * sigma

    def t_at(self, lam: Scalar) -> Scalar:
        return (-lam - math.log(self.sigma_min)) / self._rate


@dataclass(frozen=True)
class CosineVPSDE(SDE):
    """Variance preserving with alpha(t) = cos(theta(t)) / cos(theta(0)).

    theta(t) = (t + s) / (1 + s) pi / 2: the cosine schedule of Nichol and Dhariwal 2021,
    arXiv:2102.09672, eq. 17, in continuous time. alpha(1) = 0, where beta is infinite, so T is
    0.9946 by default (Lu et al. 2022, arXiv:2206.00927, App. D.4).
    """

    s: float = 0.008
    _: KW_ONLY
    T: float = 0.9946

    def __post_init__(self) -> None:
        if not (self.s > 0.0 and self.T < 1.0):
            raise ValueError(f"s={self.s}, T={self.T}: the cosine schedule needs s > 0 and T < 1")
        super().__post_init__()

    @property
    def _rate(self) -> float:
        return 0.5 * math.pi / (1.0 + self.s)

    def _theta(self, t: Scalar) -> Scalar:
        return (t + self.s) * self._rate

    def alpha(self, t: Scalar) -> Scalar:
        return cos(self._theta(t)) / math.cos(self._theta(0.0))

    def sigma(self, t: Scalar) -> Scalar:
        # cos^2 a - cos^2 b = sin(b - a) sin(b + a): 1 - alpha^2 without cancellation
        theta, start = self._theta(t), self._theta(0.0)
        return sqrt(sin(t * self._rate) * sin(theta + start)) / math.cos(start)

    def f(self, t: Scalar) -> Scalar:
        return -self._rate * tan(self._theta(t))

    def g2(self, t: Scalar) -> Scalar:
        return -2.0 * self.f(t)

    def dsigma(self, t: Scalar) -> Scalar:
        # of sigma^2 = 1 - alpha^2, as for VP
        return -self.dalpha(t) * self.alpha(t) / self.sigma(t)

    def t_at(self, lam: Scalar) -> Scalar:
        start = self._theta(0.0)
        # sin^2 a - sin^2 b = cos^2 b - cos^2 a: the inverse cosine alone is blunt near 1
        adjacent = math.cos(start) * exp(-0.5 * softplus(-2.0 * lam))
        opposite = hypot(math.cos(start) * exp(-0.5 * softplus(2.0 * lam)), math.sin(start))
        return atan2(opposite, adjacent) / self._rate - self.s


@dataclass(frozen=True)
class EDMSDE(SDE):
    """The process of EDM: alpha = 1, sigma = t, dx = sqrt(2 t) dw.

    Karras et al. 2022, arXiv:2206.00364, Table 1; t in [0.002, 80].
    """

    _: KW_ONLY
    T: float = 80.0
    t_min: float = 0.002

    def alpha(self, t: Scalar) -> Scalar:
        return _constant(1.0, t)

    def sigma(self, t: Scalar) -> Scalar:
        return t

    def f(self, t: Scalar) -> Scalar:
        return _constant(0.0, t)

    def g2(self, t: Scalar) -> Scalar:
        return 2.0 * t

    def t_at(self, lam: Scalar) -> Scalar:
        return exp(-lam)


@dataclass(frozen=True)
class RectifiedFlow(SDE):
    """Straight paths from data to noise: alpha = 1 - t, sigma = t.

    Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2023, arXiv:2210.02747 (with time reversed).
    At t = 1 alpha is 0 and f, g are infinite, though the probability flow is not: solvers that
    need f and g want T < 1.
    """

    def __post_init__(self) -> None:
        if not self.T <= 1.0:
            raise ValueError(f"T={self.T}: a rectified flow ends at T <= 1, where alpha is 0")
        super().__post_init__()

    def alpha(self, t: Scalar) -> Scalar:
        return 1.0 - t

    def sigma(self, t: Scalar) -> Scalar:
        return t

    def f(self, t: Scalar) -> Scalar:
        return -1.0 / (1.0 - t) if isinstance(t, Tensor) or t < 1.0 else -math.inf

    def g2(self, t: Scalar) -> Scalar:
        return -2.0 * t * self.f(t)

    def dalpha(self, t: Scalar) -> Scalar:
        return _constant(-1.0, t)

    def dsigma(self, t: Scalar) -> Scalar:
        return _constant(1.0, t)

    def t_at(self, lam: Scalar) -> Scalar:
        return exp(-softplus(lam))


def _constant(value: float, t: Scalar) -> Scalar:
    return torch.full_like(t, value) if isinstance(t, Tensor) else value
