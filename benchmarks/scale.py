"""How a step's cost besides the network grows with the data: by the batch, and by the image."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from benchmarks.cost import STEPS, floor, one_thread, seconds, walk
from scoresde import AdamsPC

SHAPES = (
    *((batch, 3, 32, 32) for batch in (1, 4, 16, 64, 256, 1024, 4096)),
    *((16, channels, size, size) for channels, size in ((3, 64), (4, 64), (3, 128), (4, 128))),
)


# numbers in the largest tensor, of 28 MiB, whose memory glibc may keep
_KEPT = 7 * 2**20


class Scale(NamedTuple):
    """Of the default solver, for one network call.

    Attributes:
        shape: of the state.
        numbers: how many numbers that is.
        microseconds: wall time on one thread, the network aside.
        floor: that of x * a + p * b.
    """

    shape: tuple[int, ...]
    numbers: int
    microseconds: float
    floor: float


def scale(shape: tuple[int, ...]) -> Scale:
    """Measure one shape."""
    with one_thread():
        torch.empty(_KEPT)  # once freed, smaller ones are kept for reuse, not handed back
        x = torch.randn(shape)
        steps = STEPS if x.numel() < 10**6 else 5
        spent = seconds(walk(AdamsPC(), x, steps), 5) / steps
        return Scale(shape, math.prod(shape), 1e6 * spent, 1e6 * floor(x))
