"""Mean and variance of data that may be larger than memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_VALUES = 2**22
"""How many values are in memory at once, 32 MiB in double precision."""


def moments(
    x: Tensor, to_model: Callable[[Tensor], Tensor] = Tensor.double
) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance (over N) of each element of x (N, *): two of (*), float64.

    One pass over the rows, a few at a time, by the pairwise update of Chan, Golub and LeVeque 1983,
    doi:10.1080/00031305.1983.10483115. They are taken about the first row, so that what is constant
    has a variance of exactly 0.

    Args:
        x: the data.
        to_model: maps rows of the data to those whose moments are wanted.
    """
    rows = max(1, _VALUES // x[0].numel())
    first = to_model(x[:1])[0].double()
    mean, total = torch.zeros_like(first), torch.zeros_like(first)
    for start in range(0, len(x), rows):
        chunk = to_model(x[start : start + rows]).double() - first
        variance, middle = torch.var_mean(chunk, 0, correction=0)
        share = len(chunk) / (start + len(chunk))
        apart = middle - mean
        mean += share * apart
        total += len(chunk) * variance + start * share * apart.square()
    return first + mean, total / len(x)
