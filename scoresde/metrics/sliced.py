"""The sliced Wasserstein distance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde.metrics.estimate import Estimate, Samples, pair


def sliced_wasserstein(
    samples: Samples,
    reference: Samples,
    *,
    p: float = 2.0,
    projections: int = 500,
    seed: int = 0,
) -> Estimate:
    """Return (E W_p(u'x, u'y)^p)^(1/p) over directions u that are uniform on the sphere.

    Rabin et al. 2011, doi:10.1007/978-3-642-24785-9_37. On a line the distance is exact, by
    sorting. In the units of the data, and smaller by about the root of the dimension than a
    distance between points. The standard error is over the directions, not over the samples: of
    samples of equal laws the distance is not 0, but falls with their number.

    Args:
        samples: (N, *), or their features.
        reference: (M, *) likewise.
        p: at least 1, and finite.
        projections: directions; one is enough on a line, where there are no others.
        seed: of the directions.

    Raises:
        ValueError: as `pair`; p out of range; fewer than two directions.
    """
    if not 1 <= p < math.inf:
        raise ValueError(f"p={p}: at least 1, and finite")
    if projections < 2:
        raise ValueError(f"projections={projections}: at least 2, for a standard error")
    both = pair(samples, reference, least=1)
    generator = torch.Generator().manual_seed(seed)
    shape = (both.x.shape[1], projections)
    directions = torch.randn(shape, generator=generator, dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(both.x.device)
    powers = transport(both.x @ directions, both.y @ directions, p)
    mean = float(powers.mean())
    value = mean ** (1 / p)
    spread = float(powers.std()) / math.sqrt(projections)
    # of the p-th root, to first order
    stderr = spread * value / (p * mean) if mean else 0.0
    return both.estimate(f"sliced W{p:g}", value, stderr)


def transport(x: Tensor, y: Tensor, p: float) -> Tensor:
    """Return W_p^p between columns of x (N, L) and of y (M, L), by their quantiles (L,)."""
    n, m = len(x), len(y)
    x, y = x.sort(0).values, y.sort(0).values
    # in units of 1 / (N M), quantiles jump at multiples of M and of N: whole numbers
    jumps = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    widths = jumps.diff(prepend=jumps.new_zeros(1)).to(x) / (n * m)
    i, j = (((jumps - 1) // step).to(x.device) for step in (m, n))
    return widths @ (x[i] - y[j]).abs() ** p
