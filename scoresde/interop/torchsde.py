"""Brownian motions of torchsde as a source of noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from scoresde.noise import Noise, SeededNoise
from scoresde.tensors import Scalar


class TorchsdeNoise(Noise):
    """The increments of a `torchsde.BrownianInterval`, of the batch as a whole.

    For a path that another solver follows too. One interval has one seed for the whole batch:
    unlike with `BrownianNoise`, a sample changes with the batch that it is drawn in. Kidger et al.
    2021, arXiv:2105.13493, Sec. 4.

    Args:
        path: the interval, of size (B, D) for states (B, *) of D values, over the clock of the
            solve: from `Solver.clock` of its last level to that of its first.
        seed: of the draws that are no increments, such as a corrector's.
    """

    def __init__(self, path: Callable[..., Any], seed: int | None = None) -> None:
        self._path, self._fresh = path, SeededNoise(seed)

    def normal(self, like: Tensor, *address: Scalar) -> Tensor:
        return self._fresh.normal(like, *address)

    def increment(self, like: Tensor, start: Scalar, stop: Scalar) -> Tensor:
        if isinstance(start, Tensor) or isinstance(stop, Tensor):
            raise ValueError("start, stop: an interval has one clock for the whole batch")
        low, high = min(start, stop), max(start, stop)
        sign = 1.0 if start <= stop else -1.0
        walked = self._path(low, high).reshape(like.shape).to(like)
        return walked * (sign * (high - low) ** -0.5)

    def fold(self, key: int) -> Noise:
        """Return independent draws: a repeated visit cannot follow the same path."""
        return self._fresh.fold(key)

    def rows(self, index: Tensor) -> Noise:
        raise ValueError("path: an interval serves whole batches only; use BrownianNoise")
