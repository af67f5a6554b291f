"""Learning rates, as functions of the step: factors of the optimizer's own rates."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Warmup:
    """The factor min(1, (k + 1) / steps) at step k."""

    steps: int = 1000

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1, which is no warm-up")

    def __call__(self, step: int) -> float:
        """Return the factor of step k = 0, 1, ..."""
        return min(1.0, (step + 1) / self.steps)


@dataclass(frozen=True)
class CosineDecay:
    """Warm-up, times a half cosine from 1 at step 0 to 0 at step `steps`.

    Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5, without restarts.
    """

    steps: int
    warmup: int = 1000

    def __post_init__(self) -> None:
        if not 1 <= self.warmup <= self.steps:
            raise ValueError(f"steps={self.steps}, warmup={self.warmup}: need 1 <= warmup <= steps")

    def __call__(self, step: int) -> float:
        """Return the factor of step k = 0, 1, ..."""
        decay = 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / self.steps)))
        return min(1.0, (step + 1) / self.warmup) * decay
