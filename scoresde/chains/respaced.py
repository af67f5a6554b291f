"""Fewer steps than a chain has levels, at levels that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass, field

from scoresde.chains.ladder import require_ladder
from scoresde.grids import Grid, UniformGrid
from scoresde.sde import SDE


@dataclass(frozen=True)
class Respaced(Grid):
    """Levels of a ladder, the nearest to where another grid has its nodes.

    A solve of n steps with `denoise=True` takes all n levels of the ladder. Fewer steps take evenly
    spaced levels, both ends among them (Nichol and Dhariwal 2021, arXiv:2102.09672, Sec. 4), or
    with `QuadraticGrid()` those of DDIM (Song et al. 2021, arXiv:2010.02502, App. D.2). Where two
    nodes round to one level, the nodes above move up.

    Attributes:
        spacing: where the nodes are before rounding.

    Raises:
        ValueError: at a solve, a process without levels, or more steps than it has.
    """

    spacing: Grid = field(default_factory=UniformGrid)

    @property
    def steps(self) -> int | None:
        return self.spacing.steps

    def times(self, sde: SDE, steps: int) -> tuple[float, ...]:
        n = require_ladder(sde, f"grid={self}").n
        if steps >= n:
            raise ValueError(
                f"steps: {steps} between levels, but {sde} has {n} levels and {n - 1} steps "
                f"between them; with the step to sigma = 0 take {n} at most"
            )
        levels = [0]
        for k, t in enumerate(reversed(self.spacing.times(sde, steps))):
            # at least one above the last, and with room for those to come
            levels.append(min(max(round(t), levels[-1] + 1), n - steps + k))
        return tuple(float(i) for i in reversed(levels[1:]))
