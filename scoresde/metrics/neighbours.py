"""Precision, recall, density and coverage, by balls around every sample."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde.metrics.estimate import Estimate, Samples, pair


def precision_recall(
    samples: Samples, reference: Samples, *, k: int = 3
) -> tuple[Estimate, Estimate]:
    """Return the share of samples that lie among the reference, and the share of it among them.

    A point lies among others if it is in the ball around one of them that reaches to its k-th
    nearest neighbour (Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1-2). One outlier of the
    reference is enough to make a ball that takes in much: see `density_coverage`. Balls shrink as
    samples get more, so compare at equal N and M. The standard error is that of a share, with the
    balls held fixed; it is 0 at shares of 0 and 1.

    Args:
        samples: (N, *), or their features.
        reference: (M, *) likewise.
        k: which neighbour a ball reaches to.

    Raises:
        ValueError: as `pair`; k below 1, or more than there are neighbours.
    """
    both = pair(samples, reference)
    inside = [
        torch.cat([near.any(1) for near in _inside(points, centres, k)])
        for points, centres in ((both.x, both.y), (both.y, both.x))
    ]
    precision, recall = (_share(hits) for hits in inside)
    return both.estimate("precision", *precision), both.estimate("recall", *recall)


def density_coverage(
    samples: Samples, reference: Samples, *, k: int = 5
) -> tuple[Estimate, Estimate]:
    """Return how many balls of the reference hold a sample, over k; and the share that hold any.

    Naeem et al. 2020, arXiv:2002.09797, Sec. 3. Both balls and samples are counted rather than
    their union, so that an outlier of the reference weighs little. Of equal laws the density has
    the mean 1, and the coverage 1 - (M-1)...(M-k) / ((N+M-1)...(N+M-k)), where no distances are
    equal. The standard errors are over the samples and over the balls, with the other ones
    held fixed.

    Args:
        samples: (N, *), or their features.
        reference: (M, *) likewise.
        k: which neighbour a ball reaches to.

    Raises:
        ValueError: as `pair`; k below 1, or more than there are neighbours.
    """
    both = pair(samples, reference)
    counts, covered = [], torch.zeros(len(both.y), dtype=torch.bool, device=both.y.device)
    for near in _inside(both.x, both.y, k):
        counts.append(near.sum(1).double() / k)
        covered |= near.any(0)
    count = torch.cat(counts)
    spread = float(count.std()) / math.sqrt(len(count))
    return (
        both.estimate("density", float(count.mean()), spread),
        both.estimate("coverage", *_share(covered)),
    )


def _inside(points: Tensor, centres: Tensor, k: int) -> Iterator[Tensor]:
    """Yield whether points lie in the balls around centres, some of the points at a time."""
    if not 1 <= k < len(centres):
        raise ValueError(f"k={k}: need 1 to {len(centres) - 1}, the neighbours that there are")
    radii = torch.cat(
        # the nearest is the centre itself
        [torch.cdist(some, centres).kthvalue(k + 1).values for some in centres.split(_AT_ONCE)]
    )
    for some in points.split(_AT_ONCE):
        yield torch.cdist(some, centres) <= radii


_AT_ONCE = 1000


def _share(hits: Tensor) -> tuple[float, float]:
    share = float(hits.double().mean())
    return share, math.sqrt(share * (1.0 - share) / len(hits))
