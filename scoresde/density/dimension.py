"""The local dimension of the data, from the score's spectrum at small noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.denoiser import BaseDenoiser, Field
from scoresde.likelihood.products import find_mode, products
from scoresde.sampling import check_data, check_model, place_cond, placement


@dataclass(frozen=True)
class LocalSpectrum:
    """How much of a small noise the expected data follow, direction by direction.

    Attributes:
        shares: the share of each direction, largest first (B, D): near 1 along the data and near
            0 across them.
    """

    shares: Tensor

    @property
    def dimension(self) -> Tensor:
        """The local intrinsic dimension (B,): directions that are followed by more than half."""
        return (self.shares > 0.5).sum(1)

    @property
    def effective(self) -> Tensor:
        """The sum of the shares (B,), which counts directions in part."""
        return self.shares.sum(1)


def local_spectrum(
    model: BaseDenoiser,
    x: Tensor,
    ratio: float,
    *,
    cond: Mapping[str, Any] | None = None,
) -> LocalSpectrum:
    """Return the spectrum of the denoiser's Jacobian at samples, at a small sigma / alpha.

    The Jacobian of E[x0 | x_t] with respect to x_t / alpha is I + sigma^2 times the score's, and
    Cov[x0 | x_t] alpha^2 / sigma^2. For data on a smooth surface and small sigma it is the
    projection on the tangent space, so its large eigenvalues count the dimensions of the surface
    (Stanczuk et al. 2024, arXiv:2212.12611; Kamkari et al. 2024, arXiv:2406.03537). What small
    means is the user's choice: the noise has to be below the bends of the surface and above the
    errors of the network; directions in which the data vary by less than it count for nothing.

    Args:
        model: the denoiser.
        x: samples in model space, at sigma = 0 (B, *); alpha x is what the network sees.
        ratio: sigma / alpha of the noise, in units of model space.
        cond: keyword arguments for the network.

    Raises:
        ValueError: a ratio that the process does not reach between t_min and T; non-finite x.
    """
    check_model(model)
    x = check_data(x, "x").to(**placement(model, x))
    lows, highs = (math.exp(-float(model.sde.lam(t))) for t in (model.sde.t_min, model.sde.T))
    if not lows <= ratio <= highs:
        raise ValueError(
            f"ratio={ratio}: sigma / alpha of {model.sde} goes from {lows:.3g} to {highs:.3g}"
        )
    level = model.sde.level_at(-math.log(ratio))
    field = Field(model, place_cond(cond, x.device))
    d = math.prod(x.shape[1:])
    basis = torch.eye(d, dtype=x.dtype, device=x.device).reshape(1, d, *x.shape[1:])
    with torch.inference_mode(False), torch.no_grad():
        state = level.alpha * x
        _, columns = products(
            lambda y: field(y, level).x0,
            state,
            basis.expand(len(x), *basis.shape[1:]),
            find_mode(field, x),
        )
        jacobian = level.alpha * columns.flatten(2)
        # a network's need not be symmetric; the score's is
        values = torch.linalg.eigvalsh(0.5 * (jacobian + jacobian.mT))
    return LocalSpectrum(values.flip(1))
