"""Whether posteriors are as sure as they should be, by the ranks of what is true."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Calibration:
    """Ranks of true values among draws from their posteriors, held against uniform ones.

    Attributes:
        ranks: how many of the draws lie below the truth (B, *).
        draws: L, how many there are.
        counts: of ranks in equal bins, for each quantity (bins, *).
        p_value: of the chi-square test that ranks are uniform, for each quantity (*).
    """

    ranks: Tensor
    draws: int
    counts: Tensor
    p_value: Tensor


def ranks(samples: Tensor, truth: Tensor) -> Tensor:
    """Return how many of the draws (L, B, *) lie below the truth (B, *), ties by half.

    If each truth comes from the law that its draws come from, ranks are uniform on 0..L (Talts et
    al. 2018, arXiv:1804.06788, Thm. 1); too small a spread of the draws makes them gather at both
    ends, too large a spread in the middle.

    Raises:
        ValueError: shapes that do not fit; no truths; NaN among draws or truths.
    """
    if samples.shape[1:] != truth.shape or not len(samples):
        raise ValueError(
            f"samples: shape {tuple(samples.shape)} for a truth of {tuple(truth.shape)}; need "
            f"(L, *) of it"
        )
    if not truth.numel():
        raise ValueError(f"truth: shape {tuple(truth.shape)} has no values to rank")
    for name, values in {"samples": samples, "truth": truth}.items():
        if values.isnan().any():
            raise ValueError(f"{name}: has NaN in it, which has no rank; leave such posteriors out")
    return (samples < truth).sum(0) + (samples == truth).sum(0) // 2


def calibration(samples: Tensor, truth: Tensor, bins: int | None = None) -> Calibration:
    """Return the ranks of true values among posterior draws, and a test of their uniformity.

    Args:
        samples: L draws from each of B posteriors (L, B, *); of parameters, or of any function of
            them, such as their log-density, whose ranks test the posterior's regions of highest
            density (Hermans et al. 2022, arXiv:2110.06581).
        truth: what each was conditioned to find (B, *).
        bins: of the test, a divisor of L + 1; by default the largest that leaves ten ranks a bin.

    Raises:
        ValueError: as `ranks`; bins that do not divide L + 1; fewer than two.
    """
    found, total = ranks(samples, truth), len(samples) + 1
    divisors = [k for k in range(2, total + 1) if total % k == 0]
    if bins is None:
        bins = max((k for k in divisors if 10 * k <= len(truth)), default=0)
    if bins not in divisors:
        raise ValueError(
            f"bins={bins} for {len(samples)} draws of {len(truth)} posteriors: need a divisor of "
            f"{total}, such as {divisors[:4]}, and ten ranks a bin"
        )
    which = found // (total // bins)
    counts = torch.stack([(which == k).sum(0) for k in range(bins)])
    expected = len(truth) / bins
    statistic = ((counts - expected).double().square() / expected).sum(0)
    half = torch.full_like(statistic, 0.5 * (bins - 1))
    p_value = torch.special.gammaincc(half, 0.5 * statistic)
    return Calibration(found, len(samples), counts, p_value)
