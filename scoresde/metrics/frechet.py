"""The Frechet distance between Gaussians of the moments of two sets of features."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from scoresde.metrics.estimate import Estimate, Samples, pair, shuffled

# torchmetrics has the distance, but no standard error of it, and takes square roots of eigenvalues
# of a product that is not symmetric; what is below needs the same factors for both, and no more.


def frechet_distance(
    samples: Samples, reference: Samples, *, extrapolate: bool = False, seed: int = 0
) -> Estimate:
    """Return |m - n|² + tr(S + T - 2 (S T)^(1/2)) of means m, n and covariances S, T of features.

    On features of the Inception network it is the FID (Heusel et al. 2017, arXiv:1706.08500,
    eq. 6). With S = A' A and T = B' B it equals |m - n|² + |A - Q B|² for the rotation Q that makes
    this least (Bhatia, Jain and Lim 2019, arXiv:1712.01504), which neither cancels nor falls below
    0, even where a covariance is singular.

    The standard error is that of its first-order expansion in both empirical laws (Rippl, Munk and
    Sturm 2016, arXiv:1507.04090). Between equal laws the first order vanishes, and what is left is
    bias: the value is too large by about c / N, so compare at equal N only. `extrapolate` removes
    that term, in the manner of Chong and Forsyth (2020, arXiv:1911.07023), by the line in 1 / N
    through all of both sets and the mean of their two halves, which may fall below 0.

    Args:
        samples: (N, *), or their features.
        reference: (M, *) likewise.
        extrapolate: to infinitely many of both.
        seed: of the halves.

    Raises:
        ValueError: as `pair`; too few samples to extrapolate from, which half of them have to
            outnumber the features.
    """
    both = pair(samples, reference)
    whole = _Distance.of(both.x, both.y)
    if not extrapolate:
        return both.estimate("Frechet distance", whole.value, whole.stderr)
    least = min(len(both.x), len(both.y)) // 2
    if least <= both.x.shape[1]:
        raise ValueError(
            f"extrapolate=True: {least} samples in a half, with {both.x.shape[1]} features; give "
            f"more than {2 * both.x.shape[1] + 1} of both, or leave it out"
        )
    generator = torch.Generator().manual_seed(seed)
    halves = zip(*(shuffled(rows, generator).tensor_split(2) for rows in both[:2]), strict=True)
    mean = sum(_Distance.of(x, y).value for x, y in halves) / 2
    # to first order both halves together move as the whole does, so its standard error stays
    return both.estimate("Frechet distance at infinity", 2.0 * whole.value - mean, whole.stderr)


class _Distance(NamedTuple):
    value: float
    stderr: float

    @staticmethod
    def of(x: Tensor, y: Tensor) -> _Distance:
        gap = x.mean(0) - y.mean(0)
        x, y = x - x.mean(0), y - y.mean(0)
        (p, a), (q, b) = _factors(x), _factors(y)
        u, s, v = torch.linalg.svd(a @ b.mT)
        value = gap.square().sum() + (a - u @ v @ b).square().sum()
        # |x|² - x' G x + 2 x (m - n), where G = S^(-1/2) (S^(1/2) T S^(1/2))^(1/2) S^(-1/2) takes
        # one Gaussian to the other; on whitened rows it is u s u', and needs no inverse
        first = x.square().sum(1) - (p @ u).square() @ s + 2.0 * x @ gap
        second = y.square().sum(1) - (q @ v.mT).square() @ s - 2.0 * y @ gap
        variance = first.var() / len(x) + second.var() / len(y)
        return _Distance(float(value), math.sqrt(float(variance)))


def _factors(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Return whitened rows (N, F), and the factor A (F, F) of their covariance A' A."""
    count, features = centred.shape
    q, r = torch.linalg.qr(centred)
    missing = features - len(r)  # where samples are fewer than features
    scale = math.sqrt(count - 1)
    return pad(q * scale, (0, missing)), pad(r / scale, (0, 0, 0, missing))
