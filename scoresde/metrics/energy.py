"""The energy distance."""

from __future__ import annotations

from scoresde.metrics.estimate import Estimate, Samples, pair
from scoresde.metrics.gram import distances, two_sample


def energy_distance(
    samples: Samples, reference: Samples, *, permutations: int = 1000, seed: int = 0
) -> Estimate:
    """Return 2 E|X - Y| - E|X - X'| - E|Y - Y'|, which is 0 for equal laws only.

    Székely and Rizzo 2013, doi:10.1016/j.jspi.2013.03.018. All pairs are of different samples: it
    is unbiased, and may be below 0. In the units of the data. Standard error by the jackknife,
    p-value by permutations, as in `mmd`; both take memory for (N + M)² numbers.

    Args:
        samples: (N, *), or their features.
        reference: (M, *) likewise.
        permutations: random splits for the p-value.
        seed: of them.

    Raises:
        ValueError: as `pair`, with at least three samples in each; fewer than one permutation.
    """
    both = pair(samples, reference, least=3)
    found = two_sample(-distances(both.x, both.y), len(both.x), permutations, seed)
    return both.estimate("energy distance", *found)
