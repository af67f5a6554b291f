"""The laws that training draws its times from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.errors import require_integer
from scoresde.sde import SDE
from scoresde.tensors import normal_cdf


class Times(ABC):
    """A law of training times on [t_min, T], as its quantile function."""

    @abstractmethod
    def quantile(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        """Map u (B,), uniform on [0, 1), to times t (B,) and their importance ratios (B,).

        The ratio is the density of U[t_min, T] over that of the law: with it, any law that
        reaches all of [t_min, T] estimates the same objective J without bias.
        """

    def draw(
        self, sde: SDE, n: int, generator: torch.Generator, stratified: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return n times (n,) and their ratios (n,), one from each n-th of the law if stratified.

        The order of the strata is random, so that every row of a batch sees every t, even where
        rows are sorted.
        """
        kind = {"generator": generator, "device": generator.device}
        u = torch.rand(n, dtype=torch.float64, **kind)
        if stratified:
            # the last stratum may round to 1, where a law may end at alpha = 0
            u = ((torch.randperm(n, **kind) + u) / n).clamp(max=1.0 - 2.0**-53)
        return self.quantile(sde, u)


@dataclass(frozen=True)
class UniformTimes(Times):
    """Times uniform on [t_min, T]."""

    def quantile(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        t = sde.t_min + (sde.T - sde.t_min) * u
        return t.clamp(max=_last(sde)), torch.ones_like(u)


@dataclass(frozen=True)
class ImportanceTimes(Times):
    """Times whose half log-SNR lam is uniform, which makes the `likelihood` weight constant.

    Importance sampling as in Song et al. 2021, arXiv:2101.09258. No table of a numerical
    distribution function is needed: g^2 / sigma^2 = -2 d lam / dt for every Gaussian diffusion.

    Raises:
        ValueError: alpha(T) = 0, where lam is infinite.
    """

    def quantile(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        high, low = float(sde.lam(sde.t_min)), float(sde.lam(sde.T))
        if low == -math.inf:
            raise ValueError(
                f"times={self}: alpha is 0 at T={sde.T} of {sde}, where lam is infinite and "
                f"cannot be uniform; choose a smaller T"
            )
        t = _times(sde, high + (low - high) * u)
        sigma = sde.sigma(t)
        slope = sde.g2(t) / (2.0 * sigma * sigma)
        return t, torch.as_tensor((high - low) / (sde.T - sde.t_min) / slope)


@dataclass(frozen=True)
class InformationTimes(Times):
    """Times whose s = log(r / sigma) is uniform, with r = sqrt(alpha^2 c^2 + sigma^2).

    s = log(1 + c^2 SNR) / 2 is what x_t tells of white Gaussian data of deviation c, in nats per
    dimension. With the `likelihood` weight, (T - t_min) J / 2 is the integral of |v - v^|^2 / D ds
    in the polar frame: the diffusion term of `scoresde.elbo`, by the same law of levels. The mean
    of |v|^2 / D is 1 for such data, so its variance is bounded where lam falls to -inf as well.

    Attributes:
        data_std: c, of the data in model space.

    Raises:
        ValueError: data_std that is not positive and finite.
    """

    data_std: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.data_std < math.inf:
            raise ValueError(f"data_std={self.data_std} must be positive and finite")

    def quantile(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        ends = (sde.level(t) for t in (sde.t_min, sde.T))
        high, low = (float(level.information(self.data_std)) for level in ends)
        s = low + (high - low) * (1.0 - u)  # in this order: above 0 where low is 0
        lam = 0.5 * torch.log(torch.expm1(2.0 * s)) - math.log(self.data_std)
        t = _times(sde, lam)
        # ds / dlam = (alpha c / r)^2, and -dlam / dt = g^2 / (2 sigma^2)
        slope = -torch.expm1(-2.0 * s) * sde.g2(t) / (2.0 * torch.as_tensor(sde.sigma(t)) ** 2)
        return t, (high - low) / (sde.T - sde.t_min) / slope


@dataclass(frozen=True)
class LogNormalTimes(Times):
    """Times with log(sigma / alpha) normal, cut off at t_min and T.

    On a rectified flow that is log(t / (1 - t)), and the law the logit-normal one of Esser et al.
    2024, arXiv:2403.03206, section 3.1, whose best is mean 0 and std 1.

    This law is part of the objective, as in EDM: the ratio is 1, and J is an expectation over
    this law in place of U[t_min, T] (Karras et al. 2022, arXiv:2206.00364, Table 1).

    Raises:
        ValueError: mean not finite; std not positive and finite; less than 1e-6 of the law's mass
            in the range of the process.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0.0 < self.std < math.inf):
            raise ValueError(
                f"mean={self.mean}, std={self.std}: need finite numbers, and a positive std"
            )

    def quantile(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        ends = -float(sde.lam(sde.t_min)), -float(sde.lam(sde.T))
        low, high = (normal_cdf((end - self.mean) / self.std) for end in ends)
        if high - low < 1e-6:
            raise ValueError(
                f"times={self}: log(sigma / alpha) of {sde} lies in {ends}, which this law all "
                f"but misses; choose another mean or std"
            )
        z = torch.special.ndtri(low + (high - low) * u)
        return _times(sde, -(self.mean + self.std * z)), torch.ones_like(u)


@dataclass(frozen=True)
class DiscreteTimes(Times):
    """Times uniform on n points, t_k = t_min + (T - t_min) k / (n - 1).

    The law is part of the objective: J is the mean over the n levels, and the ratio 1. On `VESDE`
    with t_min = 0 they are the geometric levels of SMLD, and `sigma2` its loss (Song et al. 2021,
    arXiv:2011.13456, eqs. 1 and 30). On `VPSDE` they are those of DDPM (eq. 3) in the limit of
    many: its products of 1 - beta_i differ from the integral by O(1 / n). Where alpha(T) = 0, and
    weights may be infinite, the last point is the float before T.

    Attributes:
        n: how many.

    Raises:
        ValueError: n that is no integer from 2.
    """

    n: int = 1000

    def __post_init__(self) -> None:
        require_integer(self.n, "n", 2)

    def quantile(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        k = (u * self.n).floor().clamp(max=self.n - 1)
        t = sde.t_min + (sde.T - sde.t_min) * (k / (self.n - 1))
        return t.clamp(max=_last(sde)), torch.ones_like(u)


def _times(sde: SDE, lam: Tensor) -> Tensor:
    t = sde.t_at(lam)
    assert isinstance(t, Tensor)
    return t.clamp(sde.t_min, _last(sde))  # the inverse may round beyond the ends


def _last(sde: SDE) -> float:
    """Return T, or the float below it where alpha(T) is 0 and a weight may be infinite."""
    return sde.T if float(sde.alpha(sde.T)) > 0.0 else math.nextafter(sde.T, 0.0)
