"""The maximum mean discrepancy with a Gaussian kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde.metrics.estimate import Estimate, Samples, pair
from scoresde.metrics.gram import distances, two_sample


def mmd(
    samples: Samples,
    reference: Samples,
    *,
    bandwidth: float | None = None,
    permutations: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Return the squared discrepancy E k(X, X') + E k(Y, Y') - 2 E k(X, Y), unbiased.

    k(x, y) = exp(-|x - y|² / (2 h²)), with the median distance of all samples for h unless it is
    given (Gretton et al. 2012, JMLR 13, eq. 3 and Sec. 8). It is 0 for equal laws only, and its
    estimate may be below 0. The standard error is the jackknife's; the p-value comes from random
    splits of all samples, and is valid for any number of them.

    Args:
        samples: (N, *), or their features.
        reference: (M, *) likewise.
        bandwidth: h, in the units of the data.
        permutations: random splits for the p-value.
        seed: of them.

    Raises:
        ValueError: as `pair`, with at least three samples in each; a bandwidth that is not
            positive, or that cannot be found since most samples are equal; fewer than one
            permutation.
    """
    both = pair(samples, reference, least=3)
    apart = distances(both.x, both.y)
    h = _median(apart) if bandwidth is None else bandwidth
    if not h > 0:
        raise ValueError(f"bandwidth={h}: must be positive; give the scale of what may differ")
    gram = (-0.5 * (apart / h).square()).exp()
    return both.estimate("MMD²", *two_sample(gram, len(both.x), permutations, seed))


def _median(apart: Tensor) -> float:
    above = torch.ones_like(apart, dtype=torch.bool).triu(1)
    return float(apart[above].median())
