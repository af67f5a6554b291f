"""From the state at t_min to the data: the noise there is left out of no likelihood."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scoresde.denoiser import BaseDenoiser, Field, Prediction
from scoresde.errors import require_integer
from scoresde.likelihood.draws import importance_bound, log_normal, with_parts
from scoresde.likelihood.record import Density, LogLikelihood, Transform
from scoresde.noise import Noise
from scoresde.sampling import check_data, place_cond, placement
from scoresde.tensors import Scalar, lincomb


class Decoder(ABC):
    """A law p(x0 | x_t) of data given the network's prediction at the state at t_min.

    Attributes:
        discrete: whether it is of integers, a probability, and no density.
    """

    @property
    def discrete(self) -> bool:
        return False

    @abstractmethod
    def log_prob(self, x: Tensor, prediction: Prediction, data_std: float) -> Tensor:
        """Return log p(x | x_t) of data x (B, *) in model space, as (B,) in float64."""


@dataclass(frozen=True)
class GaussianDecoder(Decoder):
    """N(E[x0 | x_t], s^2) with s = c sigma / sqrt(alpha^2 c^2 + sigma^2), a density.

    s is the exact deviation for white Gaussian data of deviation c, and sigma / alpha for small
    sigma whatever c is.
    """

    def log_prob(self, x: Tensor, prediction: Prediction, data_std: float) -> Tensor:
        mean, std = _law(prediction, data_std)
        return log_normal((x.double() - mean) / std, std)


@dataclass(frozen=True)
class DiscretisedGaussian(Decoder):
    """The same Gaussian's probability of the bin that holds x; the end bins have its tails.

    A law of grey levels, so that integers need no dequantiser: x is `transform.forward(integers)`,
    the middles of their bins (Ho et al. 2020, arXiv:2006.11239, eq. 13). It suits models of data
    that were not dequantised. The states of others fill the bins at t_min, and the bound, which
    draws them from the middles, is loose where sigma(t_min) is small against a bin.

    Attributes:
        transform: from grey levels to model space.

    Raises:
        ValueError: a transform of continuous data.
    """

    transform: Transform

    def __post_init__(self) -> None:
        if self.transform.levels is None:
            raise ValueError(
                f"transform={self.transform}: continuous data have no bins; give the number of "
                f"levels, or take GaussianDecoder()"
            )

    @property
    def discrete(self) -> bool:
        return True

    def log_prob(self, x: Tensor, prediction: Prediction, data_std: float) -> Tensor:
        return log_bins(x, *_law(prediction, data_std), self.transform)


def _law(prediction: Prediction, data_std: float) -> tuple[Tensor, float]:
    level = prediction.level
    std = data_std * float(level.sigma) / float(level.radius(data_std))
    return prediction.x0.double(), std


def log_bins(x: Tensor, mean: Tensor, std: Scalar, transform: Transform) -> Tensor:
    """Return the log-probability (B,) of the bins that hold x (B, *), by N(mean, std^2)."""
    assert transform.levels is not None
    k = transform.to_pixels(x).double()
    low, high = ((transform.embed(k + h) - mean) / std for h in (-0.5, 0.5))
    low = low.masked_fill(k == 0, -math.inf)
    high = high.masked_fill(k == transform.levels - 1, math.inf)
    return _log_mass(low, high).flatten(1).sum(1)


def _log_mass(low: Tensor, high: Tensor) -> Tensor:
    """Return log(Phi(high) - Phi(low)) for low < high, by the tail that holds it."""
    flip = low > 0.0
    a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
    a, b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
    return b + torch.log(-torch.expm1(a - b))


@dataclass(frozen=True)
class Decoded:
    """The density of data x0 themselves, bounded by the density at t_min and a decoder.

        log p(x0) >= E log 1/k sum_i p(x_i) p(x0 | x_i) / q(x_i | x0),
        x_i = alpha x0 + sigma z_i at t_min

    Song et al. 2021, arXiv:2101.09258; Kim et al. 2022, arXiv:2106.05527. By itself
    `scoresde.log_likelihood` takes x as the state at t_min instead, and adds no noise to it. The
    part "decoder" is log p(x0 | x) - log q(x | x0).

    Attributes:
        density: of states at t_min.
        model: the denoiser.
        decoder: the law of the data given the state; discretised for integers.
        k: draws of the state, which share the density's probes; the standard error needs two.
        cond: keyword arguments for the network.

    Raises:
        ValueError: k that is no integer from 1.
    """

    density: Density
    model: BaseDenoiser
    decoder: Decoder = GaussianDecoder()
    k: int = 1
    cond: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        require_integer(self.k, "k", 1)

    def __call__(self, x: Tensor, *, noise: Noise) -> LogLikelihood:
        """Return lower bounds of the log-densities of x (B, *), or of its bins' probabilities.

        Raises:
            ValueError: integer or non-finite x; a density with a decoder already, or of integers.
        """
        x = check_data(x, "x").to(**placement(self.model, x))
        draws = [self._draw(x, noise, i) for i in range(self.k)]
        found = importance_bound(draws, f"{self.k} x {self.decoder}")
        return replace(found, probability=self.decoder.discrete)

    def _draw(self, x: Tensor, noise: Noise, i: int) -> LogLikelihood:
        sde = self.model.sde
        level = sde.level(sde.t_min)
        z = noise.fold(1).fold(i).normal(x)
        state = lincomb((level.alpha, x), (level.sigma, z))
        found = self.density(state, noise=noise.fold(0))
        field = Field(self.model, place_cond(self.cond, x.device))
        with torch.set_grad_enabled(found.nats.requires_grad):  # as the density was asked
            decoded = self.decoder.log_prob(x, field(state, level), self.model.data_std)
        found = replace(found, nfe=found.nfe + field.nfe)
        return with_parts(found, {"decoder": decoded - log_normal(z, float(level.sigma))})
