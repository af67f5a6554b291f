"""Where the libraries put their steps, as grids of ours: all with the same ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scoresde import SDE, Grid, KarrasGrid, LogSNRGrid, QuadraticGrid, UniformGrid


@dataclass(frozen=True)
class RectifiedGrid(Grid):
    """Levels evenly spaced in sigma / (alpha + sigma): even times of azula's RectifiedSchedule."""

    def times(self, sde: SDE, steps: int) -> tuple[float, ...]:
        high, low = (self._share(float(sde.lam(t))) for t in (sde.T, sde.t_min))
        shares = ((1.0 - i / steps) * high + i / steps * low for i in range(1, steps))
        inner = (float(sde.t_at(math.log1p(-w) - math.log(w))) for w in shares)
        return (sde.T, *inner, sde.t_min)

    @staticmethod
    def _share(lam: float) -> float:
        return 1.0 / (1.0 + math.exp(lam))


GRIDS: dict[str, Grid] = {
    "uniform t": UniformGrid(),
    "quadratic t": QuadraticGrid(),
    "log-SNR": LogSNRGrid(),
    "Karras": KarrasGrid(),
    "rectified": RectifiedGrid(),
}
"""By the name that tables give them; every method is tried on each."""
