"""Two-sample statistics that are sums over pairs, with their null distributions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Return |x - y| of all samples together, those of x first (n + m, n + m)."""
    pooled = torch.cat([x, y])
    # by differences rather than products, which leave equal samples apart
    return torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist")


class Tested(NamedTuple):
    """A statistic with its standard error and its p-value."""

    value: float
    stderr: float
    p_value: float


def two_sample(gram: Tensor, n: int, permutations: int, seed: int) -> Tested:
    """Return the mean of k over pairs in the one, plus in the other, minus twice that between.

    All pairs are of different samples, which makes the statistic unbiased (Gretton et al. 2012,
    JMLR 13, eq. 3). The standard error is the jackknife's, which is too large rather than too small
    (Efron and Stein 1981, doi:10.1214/aos/1176345462). The p-value counts random splits of all
    samples whose statistic is as large, the one at hand among them (Phipson and Smyth 2010,
    arXiv:1603.05766): under equal laws it is at most a with probability at most a, for every a.

    Args:
        gram: k of all pairs, the n samples first (n + m, n + m), symmetric.
        n: how many there are.
        permutations: random splits.
        seed: of them.

    Raises:
        ValueError: fewer than one permutation.
    """
    if permutations < 1:
        raise ValueError(f"permutations={permutations}: at least 1")
    gram = gram - gram.diagonal().diag()
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(permutations, len(gram), generator=generator).argsort(1)
    observed = torch.arange(len(gram))[None]
    splits = (torch.cat([observed, order]) < n).to(gram)
    found = statistics(gram, splits)
    return Tested(float(found[0]), _jackknife(gram, n), p_value(found))


def statistics(gram: Tensor, splits: Tensor) -> Tensor:
    """Return the statistic of every split (P, n + m), 1 for the one sample and 0 for the other."""
    n, total = float(splits[0].sum()), gram.shape[0]
    m = total - n
    rows = splits @ gram
    one = (rows * splits).sum(1)
    between = rows.sum(1) - one
    other = gram.sum() - one - 2.0 * between
    return one / (n * (n - 1)) + other / (m * (m - 1)) - 2.0 * between / (n * m)


def p_value(found: Tensor) -> float:
    """Return the share of statistics that are as large as the first, which is the one at hand."""
    # equal ones may differ by rounding
    slack = 1e-12 * float(found.abs().max())
    return float((found >= found[0] - slack).double().mean())


def _jackknife(gram: Tensor, n: int) -> float:
    """Return the standard error from leaving out every sample in turn, in closed form."""
    m = len(gram) - n
    variance = 0.0
    for rows, own, count, others in (
        (gram[:n], slice(0, n), n, m),
        (gram[n:], slice(n, None), m, n),
    ):
        within = rows[:, own].sum(1)
        between = rows.sum(1) - within
        # what changes from one to the next without one sample
        left = -2.0 * within / ((count - 1) * (count - 2))
        left += 2.0 * between / ((count - 1) * others)
        variance += (count - 1) * float(left.var(correction=0))
    return math.sqrt(variance)
