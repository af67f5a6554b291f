"""The kernel distance of Bińkowski et al., unbiased, over blocks that do not overlap."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde.metrics.estimate import Estimate, Samples, pair, shuffled


def kid(
    samples: Samples, reference: Samples, *, blocks: int | None = None, seed: int = 0
) -> Estimate:
    """Return the squared maximum mean discrepancy under the kernel (x'y / F + 1)³.

    On features of the Inception network it is the KID (Bińkowski et al. 2018, arXiv:1801.01401,
    Sec. 4). It is unbiased, whatever the number of samples: it may be below 0. Both sets are cut
    into blocks that do not overlap, so that the spread of the blocks gives the standard error of
    their mean (Zaremba et al. 2013, arXiv:1307.1954); random subsets that share samples, as others
    take, give no such thing.

    Args:
        samples: (N, *), or their features.
        reference: (M, *) likewise.
        blocks: their number; ten, or as many as leave no more than 1000 samples in one.
        seed: of what goes into which.

    Raises:
        ValueError: as `pair`; fewer than two blocks, or than two samples in one.
    """
    both = pair(samples, reference)
    most, fewest = max(len(both.x), len(both.y)), min(len(both.x), len(both.y))
    count = max(10, math.ceil(most / 1000)) if blocks is None else blocks
    if not 2 <= count <= fewest // 2:
        raise ValueError(
            f"blocks={count}: need at least two, with two samples in each; there are {fewest}: "
            f"give more samples, or other blocks"
        )
    generator = torch.Generator().manual_seed(seed)
    parts = zip(*(shuffled(rows, generator).tensor_split(count) for rows in both[:2]), strict=True)
    found = torch.stack([_discrepancy(x, y) for x, y in parts])
    return both.estimate("KID", float(found.mean()), float(found.std()) / math.sqrt(count))


def _discrepancy(x: Tensor, y: Tensor) -> Tensor:
    return _within(x) + _within(y) - 2.0 * _kernel(x, y).mean()


def _within(x: Tensor) -> Tensor:
    k = _kernel(x, x)
    return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.mT / x.shape[1] + 1.0) ** 3
