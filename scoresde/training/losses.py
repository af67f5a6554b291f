"""Denoising score matching: the objective, its weightings, and the law its times are drawn from.

    J = E_{t ~ U[t_min, T]} w(t) E |eps_theta(x_t, t) - eps|^2 / D,    x_t = alpha x0 + sigma eps

(Vincent 2011; Song et al. 2021, arXiv:2011.13456, eq. 7.) A weighting is a function of the noise
level that multiplies the squared error of eps, whatever the network predicts, because

    sigma^2 |score error|^2 = |eps error|^2 = (alpha / sigma)^2 |x0 error|^2.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scoresde.denoiser import BaseDenoiser
from scoresde.sde import SDE, Level
from scoresde.tensors import Scalar, exp, lincomb, per_sample

Weighting = Callable[[Level, BaseDenoiser], Scalar]
"""The weight of the squared error of eps at a level, for a model's process and data_std."""


def sigma2(level: Level, model: BaseDenoiser) -> Scalar:
    """Weigh errors of eps alike, so errors of the score by sigma^2.

    The simple loss of Ho et al. 2020, arXiv:2006.11239, eq. 14.
    """
    return 1.0


def likelihood(level: Level, model: BaseDenoiser) -> Scalar:
    """Weigh by g^2 / sigma^2, so errors of the score by g^2.

    D (T - t_min) J / 2 then bounds the negative log-likelihood, in nats, up to a constant of the
    data and the process (Song et al. 2021, arXiv:2101.09258, Corollary 1). `ImportanceTimes` draws
    the times that go with it.
    """
    return model.sde.g2(level.t) / (level.sigma * level.sigma)


def edm(level: Level, model: BaseDenoiser) -> Scalar:
    """Weigh by (s^2 + c^2) / c^2, with s = sigma / alpha and c the model's data_std.

    That is (s^2 + c^2) / (s c)^2 on errors of x0, and 1 on errors of the output of a network that
    predicts "edm" (Karras et al. 2022, arXiv:2206.00364, Table 1 and eq. 8). `LogNormalTimes` draws
    the times that go with it.
    """
    return (level.radius(model.data_std) / (level.alpha * model.data_std)) ** 2


@dataclass(frozen=True)
class MinSNR:
    """Weigh by min(1, gamma / SNR), so errors of x0 by min(SNR, gamma), SNR = (alpha / sigma)^2.

    Hang et al. 2023, arXiv:2303.09556.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0.0:
            raise ValueError(f"gamma={self.gamma} must be positive")

    def __call__(self, level: Level, model: BaseDenoiser) -> Scalar:
        """Return the weight at a level."""
        ratio = self.gamma * exp(-2.0 * level.lam)
        return ratio.clamp(max=1.0) if isinstance(ratio, Tensor) else min(ratio, 1.0)


class Times(ABC):
    """A law of training times on [t_min, T], as its quantile function."""

    @abstractmethod
    def quantile(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        """Map u (B,), uniform on [0, 1), to times t (B,) and their importance ratios (B,).

        The ratio is the density of U[t_min, T] over that of the law: with it, any law that
        reaches all of [t_min, T] estimates the same objective J without bias.
        """


@dataclass(frozen=True)
class UniformTimes(Times):
    """Times uniform on [t_min, T]."""

    def quantile(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        return sde.t_min + (sde.T - sde.t_min) * u, torch.ones_like(u)


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
class LogNormalTimes(Times):
    """Times with log(sigma / alpha) normal, cut off at t_min and T.

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
        low, high = (_normal_cdf((end - self.mean) / self.std) for end in ends)
        if high - low < 1e-6:
            raise ValueError(
                f"times={self}: log(sigma / alpha) of {sde} lies in {ends}, which this law all "
                f"but misses; choose another mean or std"
            )
        z = torch.special.ndtri(low + (high - low) * u)
        return _times(sde, -(self.mean + self.std * z)), torch.ones_like(u)


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def _times(sde: SDE, lam: Tensor) -> Tensor:
    t = sde.t_at(lam)
    assert isinstance(t, Tensor)
    return t.clamp(sde.t_min, sde.T)  # the inverse may round beyond the ends


def dsm_loss(
    model: BaseDenoiser,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    weighting: Weighting = sigma2,
    cond: Mapping[str, Any] | None = None,
) -> Tensor:
    """Return each sample's loss w(t) |eps_theta(x_t, t) - eps|^2 / D, as (B,).

    Args:
        model: the denoiser.
        x0: data (B, *).
        t: times (B,), in float64 for exact levels.
        eps: unit normals (B, *).
        weighting: w.
        cond: keyword arguments for the network.

    Raises:
        ValueError: x0 of integers, or shapes that do not fit.
    """
    _require_floats(x0)
    if t.shape != x0.shape[:1] or eps.shape != x0.shape:
        raise ValueError(
            f"t {tuple(t.shape)}, eps {tuple(eps.shape)}: need (B,) and the shape of x0, "
            f"{tuple(x0.shape)}"
        )
    level = model.sde.level(per_sample(t, x0))
    x = lincomb((level.alpha, x0), (level.sigma, eps))
    error = model(x, level, **(cond or {})).eps - eps
    weight = weighting(level, model)
    weight = weight.reshape(-1) if isinstance(weight, Tensor) else weight
    return lincomb((weight, error.square().flatten(1).mean(1)))


def _require_floats(x0: Tensor) -> None:
    if not x0.is_floating_point():
        raise ValueError(
            f"x0: dtype {x0.dtype} where floats are meant; map integer data to model space with "
            f"the transform of the data set, such as scoresde.data.Affine"
        )


@dataclass(frozen=True)
class DSM:
    """The objective J of denoising score matching, estimated on a batch.

    Attributes:
        weighting: w, of the squared error of eps.
        times: the law of t.
        stratified: draw one t from each of B equal quantiles of the law, in random order, which
            takes the spread of t out of the loss's variance (Kingma et al. 2021,
            arXiv:2107.00630, App. I.1). The order is random so that every row of a batch sees
            every t, even where rows are sorted.
        label_dropout: probability of a label being replaced by -1, "no class", for classifier-free
            guidance (Ho and Salimans 2022, arXiv:2207.12598, Alg. 1).

    Raises:
        ValueError: label_dropout outside [0, 1]; when called, x0 of integers, or labels to drop
            but no `label`.
    """

    weighting: Weighting = sigma2
    times: Times = field(default_factory=UniformTimes)
    stratified: bool = True
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_dropout <= 1.0:
            raise ValueError(f"label_dropout={self.label_dropout} must be in [0, 1]")

    def __call__(
        self,
        model: BaseDenoiser,
        x0: Tensor,
        generator: torch.Generator,
        cond: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Return the batch's mean loss, of data x0 (B, *), with draws from the generator alone."""
        _require_floats(x0)
        t, ratio = self.times.quantile(model.sde, self._uniform(len(x0), generator))
        eps = torch.empty_like(x0).normal_(generator=generator)
        if self.label_dropout > 0.0:
            cond = self._drop_labels(cond or {}, generator)
        return lincomb((ratio, dsm_loss(model, x0, t, eps, self.weighting, cond))).mean()

    def _uniform(self, n: int, generator: torch.Generator) -> Tensor:
        kind = {"generator": generator, "device": generator.device}
        u = torch.rand(n, dtype=torch.float64, **kind)
        return (torch.randperm(n, **kind) + u) / n if self.stratified else u

    def _drop_labels(
        self, cond: Mapping[str, Any], generator: torch.Generator
    ) -> Mapping[str, Any]:
        if "label" not in cond:
            raise ValueError(
                f"label_dropout={self.label_dropout}: the condition has no 'label' to drop, "
                f"only {sorted(cond)}"
            )
        label = cond["label"]
        drop = torch.rand(label.shape, generator=generator, device=label.device)
        return {**cond, "label": label.masked_fill(drop < self.label_dropout, -1)}
