"""Fourier features of a network's input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def fourier_features(x: Tensor, periods: Sequence[float]) -> Tensor:
    """Append sin(2 pi x / p) and cos(2 pi x / p), for each period p, to the channels of x.

    They let a network see differences as small as those between grey levels, on which likelihoods
    depend. Kingma et al. 2021, arXiv:2107.00630, App. C, take the periods 2^-6 and 2^-7 for 256
    grey levels in [-1, 1]: two bins and one.

    Args:
        x: (B, C, *), in a dtype that resolves the periods.
        periods: P lengths in units of x; none leave x as it is.

    Returns:
        (B, C (1 + 2 P), *).

    Raises:
        ValueError: a period that is not positive and finite.
    """
    for period in periods:
        if not 0.0 < period < math.inf:
            raise ValueError(f"periods={tuple(periods)} must be positive and finite")
    waves = (f(2.0 * math.pi / p * x) for p in periods for f in (torch.sin, torch.cos))
    return torch.cat([x, *waves], dim=1) if periods else x
