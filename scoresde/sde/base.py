"""What a forward process is: its noise levels, transition kernels, prior and paths."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde.tensors import Scalar, atan2, hypot, lincomb, log, per_sample, softplus, sqrt


@dataclass(frozen=True, slots=True)
class Level:
    """One noise level of a process.

    Floats where the batch shares the level, tensors (B, 1, ..., 1) where each sample has its own.

    Attributes:
        t: time, in [0, T].
        alpha: coefficient of the data.
        sigma: coefficient of the noise.
    """

    t: Scalar
    alpha: Scalar
    sigma: Scalar

    @property
    def lam(self) -> Scalar:
        """Half log-SNR, log(alpha / sigma); inf at sigma = 0, -inf at alpha = 0."""
        return log(self.alpha) - log(self.sigma)

    def radius(self, data_std: float = 1.0) -> Scalar:
        """Return r = sqrt(alpha^2 c^2 + sigma^2), the scale of x_t for data of deviation c."""
        return hypot(self.alpha * data_std, self.sigma)

    def angle(self, data_std: float = 1.0) -> Scalar:
        """Return phi = atan2(sigma, alpha c), in [0, pi/2]."""
        return atan2(self.sigma, self.alpha * data_std)

    def information(self, data_std: float = 1.0) -> Scalar:
        """Return log(r / sigma) = log(1 + c^2 SNR) / 2, 0 at alpha = 0 and inf at sigma = 0.

        It is what x_t tells of white Gaussian data of deviation c, in nats a dimension.
        """
        return 0.5 * softplus(2.0 * (self.lam + math.log(data_std)))

    def like(self, x: Tensor) -> Level:
        """Return the level with its per-sample values, if it has them, in the rank of x (B, *).

        Raises:
            ValueError: tensors of another number of samples.
        """
        values = (self.t, self.alpha, self.sigma)
        for v in values:
            if isinstance(v, Tensor) and v.ndim and (v.numel() != len(x) or len(v) != len(x)):
                raise ValueError(
                    f"t: a level of shape {tuple(v.shape)} for {len(x)} samples; a level of "
                    f"each sample's own has the shape (B,) or (B, 1, ..., 1)"
                )
        return Level(*(per_sample(v, x) if isinstance(v, Tensor) else v for v in values))


CLEAN = Level(t=0.0, alpha=1.0, sigma=0.0)
"""The data itself, where a denoised sample ends."""


class Kernel(NamedTuple):
    """Gaussian transition x_t | x_s ~ N(scale x_s, std^2 I)."""

    scale: Scalar
    std: Scalar


@dataclass(frozen=True)
class Prior:
    """The Gaussian N(mean, std^2) from which a reverse solve starts.

    Attributes:
        mean: a float, or a tensor that broadcasts over (B, *).
        std: standard deviation, likewise.

    Raises:
        ValueError: std that is not positive and finite (checked in host memory).
    """

    mean: Scalar = 0.0
    std: Scalar = 1.0

    def __post_init__(self) -> None:
        if _any(~(torch.as_tensor(self.std) > 0.0)) or _any(torch.as_tensor(self.std).isinf()):
            raise ValueError(f"std={self.std} must be positive and finite")

    def draw(self, z: Tensor) -> Tensor:
        """Map unit normals z (B, *) to draws from the prior."""
        mean, std = self._like(z)
        return mean + std * z

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of x (B, *), in nats, as (B,)."""
        mean, std = self._like(x)
        z = (x - mean) / std
        each = -0.5 * z * z - std.log() - 0.5 * math.log(2 * math.pi)
        return each.flatten(1).sum(1)

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.as_tensor(self.mean, dtype=x.dtype, device=x.device)
        return mean, torch.as_tensor(self.std, dtype=x.dtype, device=x.device)


@dataclass(frozen=True)
class SDE(ABC):
    """A forward Gaussian diffusion on [0, T].

    Every function of time takes a float and returns a float, or takes a tensor and returns a
    tensor of its shape and dtype. Solves run on [t_min, T].

    Attributes:
        T: final time.
        t_min: the time at which solves end and training starts, with sigma(t_min) > 0.
    """

    _: KW_ONLY
    T: float = 1.0
    t_min: float = 1e-3

    def __post_init__(self) -> None:
        if not 0.0 <= self.t_min < self.T < math.inf:
            raise ValueError(
                f"t_min={self.t_min} and T={self.T}: a process needs 0 <= t_min < T < inf"
            )
        if not float(self.sigma(self.t_min)) > 0.0:
            raise ValueError(
                f"t_min={self.t_min}: sigma is 0 there; the score is defined for sigma > 0 only, "
                f"choose a larger t_min"
            )

    @abstractmethod
    def alpha(self, t: Scalar) -> Scalar:
        """Return the coefficient of the data at time t."""

    @abstractmethod
    def sigma(self, t: Scalar) -> Scalar:
        """Return the coefficient of the noise at time t."""

    @abstractmethod
    def f(self, t: Scalar) -> Scalar:
        """Return the drift rate d log alpha / dt, of dx = f x dt + g dw."""

    @abstractmethod
    def g2(self, t: Scalar) -> Scalar:
        """Return the squared diffusion g^2 = d sigma^2 / dt - 2 f sigma^2."""

    @abstractmethod
    def t_at(self, lam: Scalar) -> Scalar:
        """Return the time at which log(alpha / sigma) is lam."""

    def g(self, t: Scalar) -> Scalar:
        """Return the diffusion coefficient g(t)."""
        return sqrt(self.g2(t))

    def lam(self, t: Scalar) -> Scalar:
        """Return the half log-SNR, log(alpha / sigma), strictly decreasing in t."""
        return log(self.alpha(t)) - log(self.sigma(t))

    def dalpha(self, t: Scalar) -> Scalar:
        """Return d alpha / dt."""
        return self.f(t) * self.alpha(t)

    def dsigma(self, t: Scalar) -> Scalar:
        """Return d sigma / dt = g^2 / (2 sigma) + f sigma."""
        sigma = self.sigma(t)
        return self.g2(t) / (2.0 * sigma) + self.f(t) * sigma

    def level(self, t: Scalar) -> Level:
        """Return the noise level at time t.

        Raises:
            ValueError: t outside [0, T] (checked for floats and for tensors in host memory).
        """
        if not isinstance(t, Tensor):
            t = float(t)
            inside = 0.0 <= t <= self.T
        else:
            inside = not _any(~((t >= 0) & (t <= self.T)))
        if not inside:
            raise ValueError(f"t={t} is outside [0, {self.T}], the time span of {self}")
        return Level(t, self.alpha(t), self.sigma(t))

    def level_at(self, lam: Scalar) -> Level:
        """Return the noise level whose half log-SNR is lam."""
        t = self.t_at(lam)
        return Level(t, self.alpha(t), self.sigma(t))

    def transition(self, s: Scalar, t: Scalar) -> Kernel:
        """Return the kernel of x_t given x_s, for s <= t.

        scale = alpha_t / alpha_s and std^2 = sigma_t^2 - scale^2 sigma_s^2.

        For `VESDE` the kernel from time 0 has the variance sigma(t)^2 - sigma(0)^2.

        Raises:
            ValueError: t before s (checked for floats and for tensors in host memory).
        """
        if _any(torch.as_tensor(t < s)):
            raise ValueError(f"s={s}, t={t}: a transition leads from s to a time t >= s")
        return forward_kernel(self.level(s), self.level(t))

    def perturb(self, x0: Tensor, t: Scalar, eps: Tensor) -> Tensor:
        """Return x_t = alpha x0 + sigma eps, for x0 and eps (B, *), and t a float or (B,).

        Raises:
            ValueError: shapes that differ, x0 of integers, or NaN in it (checked in host memory).
        """
        if eps.shape != x0.shape:
            raise ValueError(f"eps: shape {tuple(eps.shape)} for an x0 of {tuple(x0.shape)}")
        if not x0.is_floating_point():
            raise ValueError(f"x0: dtype {x0.dtype} where floats are meant; map it to model space")
        if _any(x0.isnan()):
            raise ValueError("x0: has NaN in it; leave such samples out")
        level = self.level(t).like(x0)
        return lincomb((level.alpha, x0), (level.sigma, eps))

    def paths(self, x0: Tensor, times: Sequence[float], draws: Sequence[Tensor]) -> Tensor:
        """Return exact forward paths from x0 (B, *) through increasing times, as (n, B, *).

        The path starts as x_{t_1} = perturb(x0, t_1) and goes on by the transition kernels, so
        its law is that of the SDE at those times whatever their spacing.

        Args:
            x0: data (B, *).
            times: t_1 < ... < t_n in [0, T].
            draws: n tensors of unit normals, of the shape of x0.

        Raises:
            ValueError: times that do not increase, or another number of draws.
        """
        if len(draws) != len(times) or not times:
            raise ValueError(f"draws: {len(draws)} tensors for {len(times)} times, need one each")
        if any(a >= b for a, b in pairwise(times)):
            raise ValueError(f"times={list(times)} must increase strictly")
        path = [self.perturb(x0, times[0], draws[0])]
        for (s, t), z in zip(pairwise(times), draws[1:], strict=True):
            kernel = self.transition(s, t)
            path.append(lincomb((kernel.scale, path[-1]), (kernel.std, z)))
        return torch.stack(path)

    def prior(self, mean: Tensor | float = 0.0, variance: Tensor | float = 0.0) -> Prior:
        """Return the Gaussian that stands for p_T.

        With the data's own mean m and variance v (floats, or tensors of a sample's shape) it has
        the first two moments of p_T: N(alpha_T m, alpha_T^2 v + sigma_T^2). Without, it is
        N(0, sigma_T^2 I).
        """
        a, s = float(self.alpha(self.T)), float(self.sigma(self.T))
        return Prior(mean=a * mean, std=(a * a * variance + s * s) ** 0.5)


def _any(wrong: Tensor) -> bool:
    # tensors of a device pass unseen: to look would be to wait for it
    return bool(wrong.any() if wrong.device.type == "cpu" else False)


def forward_kernel(here: Level, there: Level) -> Kernel:
    """Return the Gaussian kernel from a level to a noisier one (`SDE.transition`)."""
    scale = there.alpha / here.alpha
    kept = scale * here.sigma
    # as a product, the difference of squares loses no more than rounding of the levels did; abs,
    # because between adjacent times that rounding decides its sign
    return Kernel(scale, sqrt(abs((there.sigma - kept) * (there.sigma + kept))))
