"""NCSN and NCSNv2: annealed Langevin dynamics, and the rules for its levels and steps.

A step at level i is x + e score + sqrt(2 e) z with e = q sigma_i^2: one relative step q for all
levels. With epsilon and the least level sigma_L of the papers q is

    epsilon / (2 sigma_L^2)   in NCSN (Song and Ermon 2019, arXiv:1907.05600, Alg. 1), and
    epsilon / sigma_L^2       in NCSNv2 (Song and Ermon 2020, arXiv:2006.09011, Alg. 1).

Of NCSNv2's five techniques, 1, 2 and 4 are functions here. The third, a network that is not told
the level and whose output over sigma is the score, is `Denoiser(net, sde, predicts="eps")` with a
net that ignores t; the fifth is `scoresde.training.EMA`. The last step to sigma = 0 is the paper's
final denoising.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.chains.ladder import GeometricSigmas
from scoresde.denoiser import Field
from scoresde.errors import require_integer, require_kind, require_number
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers import AnnealedLangevin, PredictorCorrector, Solver, Step
from scoresde.tensors import lincomb, normal_cdf


@dataclass(frozen=True)
class Hold(Solver):
    """Take x to the next level as it is, x_s = (alpha_s / alpha_t) x_t, and call no network.

    A predictor for a `PredictorCorrector` whose corrector does all the work.
    """

    order = 0
    stochastic = False
    evals = 0

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        return Step(lincomb((there.alpha / here.alpha, x)))


def annealed_langevin(step: float = 0.1, corrections: int = 100) -> PredictorCorrector:
    """Return annealed Langevin dynamics: at every level, from the noisiest down, the same steps.

    With `Respaced()` as the grid and n steps it visits the n levels of a ladder, and ends with the
    step to sigma = 0. The defaults are those of NCSN, epsilon = 2e-5 at sigma_L = 0.01.

    Args:
        step: q, the step relative to sigma^2.
        corrections: Langevin steps a level, the T of the papers.

    Raises:
        ValueError: a step that is negative or not finite; corrections below 1.
    """
    require_number(step, "step", least=0.0)
    return PredictorCorrector(
        predictor=Hold(),
        corrector=AnnealedLangevin(snr=math.sqrt(0.5 * step)),
        corrections=corrections,
        correct_first=True,
    )


def ncsnv2_ladder(x: Tensor, sigma_min: float = 0.01) -> GeometricSigmas:
    """Return the ladder that NCSNv2 chooses for data x (N, *), by its techniques 1 and 2.

    Raises:
        ValueError: as `largest_distance` and `level_count`.
    """
    top = largest_distance(x)
    return GeometricSigmas(level_count(top, sigma_min, x[0].numel()), top, sigma_min)


def ncsnv2_sampler(sde: GeometricSigmas, corrections: int = 5) -> PredictorCorrector:
    """Return the sampler that NCSNv2 chooses for a ladder, by its technique 4.

    Raises:
        TypeError: a ladder of other levels.
        ValueError: corrections below 1.
    """
    require_kind(sde, GeometricSigmas, "sde")
    lams = sde.lams
    return annealed_langevin(best_step(math.exp(lams[0] - lams[1]), corrections), corrections)


def largest_distance(x: Tensor, chunk: int = 1024) -> float:
    """Return the largest Euclidean distance between two of the data x (N, *).

    As sigma_max it lets the noise lead from any of the data to any other (technique 1). All pairs
    are measured, `chunk`^2 of them at a time.

    Raises:
        ValueError: less than two samples; samples that are all the same, or not finite.
    """
    require_integer(chunk, "chunk", 1)
    rows = x.flatten(1)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    parts = (rows - rows.mean(0)).split(chunk)
    pairs = ((a, b) for i, a in enumerate(parts) for b in parts[i:])
    # the product form of cdist cancels where distances are small beside the norms
    found = max((float(torch.cdist(a, b).max()) for a, b in pairs), default=0.0)
    if not 0.0 < found < math.inf:
        raise ValueError(
            f"x: {len(x)} samples whose largest distance is {found}; give two or more that differ "
            f"and are finite"
        )
    return found


def level_count(sigma_max: float, sigma_min: float, dim: int, overlap: float = 0.5) -> int:
    """Return how many levels in equal ratios gamma leave neighbours with an overlap.

    gamma solves Phi(sqrt(2 D) (gamma - 1) + 3 gamma) - Phi(sqrt(2 D) (gamma - 1) - 3 gamma) =
    overlap, the mass that a level's samples have where the one below has been trained (technique
    2, which says that about 0.5 is enough).

    Args:
        sigma_max, sigma_min: of the ladder.
        dim: D, dimensions of a sample. Below 5 levels overlap at any ratio, and the rule is silent.
        overlap: in (0, 0.99); the numbers of levels that the paper uses are those of 0.567.

    Raises:
        ValueError: an argument out of its range.
    """
    require_number(sigma_min, "sigma_min", above=0.0)
    require_number(sigma_max, "sigma_max", above=sigma_min)
    require_integer(dim, "dim", 5)
    require_number(overlap, "overlap", above=0.0, below=0.99)

    def mass(log_gamma: float) -> float:
        gamma = math.exp(log_gamma)
        shift = math.sqrt(2.0 * dim) * math.expm1(log_gamma)
        return normal_cdf(shift + 3.0 * gamma) - normal_cdf(shift - 3.0 * gamma)

    low, high = 0.0, math.log(sigma_max / sigma_min)
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if mass(middle) > overlap else (low, middle)
    return max(2, 1 + round(math.log(sigma_max / sigma_min) / high))


def best_step(ratio: float, corrections: int) -> float:
    """Return the relative step q that brings the noise of one level nearest to that of the next.

    T steps at sigma take noise of deviation ratio sigma to one of the variance s_T^2, with

        s_T^2 / sigma^2 = (1 - q)^{2T} (ratio^2 - 2 / (2 - q)) + 2 / (2 - q),

    and q has the least |s_T^2 / sigma^2 - 1| (technique 4, Prop. 3).

    Args:
        ratio: gamma of neighbouring levels, above 1.
        corrections: T.

    Raises:
        ValueError: a ratio that is not above 1; corrections below 1.
    """
    require_number(ratio, "ratio", above=1.0)
    require_integer(corrections, "corrections", 1)

    def variance(q: float) -> float:
        left = 2.0 / (2.0 - q)
        return (1.0 - q) ** (2 * corrections) * (ratio * ratio - left) + left

    # above 1 for every q, as left and ratio are, so that its least value is the nearest
    return _least(variance, 0.0, 1.0)


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function that falls and then rises is least, by golden sections."""
    golden = 0.5 * (math.sqrt(5.0) - 1.0)
    for _ in range(50):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if function(left) < function(right) else (left, high)
    return 0.5 * (low + high)
