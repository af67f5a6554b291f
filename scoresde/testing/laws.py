"""The exact law of what a sampler puts out on Gaussian data, without Monte Carlo.

On Gaussian data the score is affine in x, so a sampler is an affine map of its start and of its
draws. Unit vectors sent through the real code give that map to the last bit, and the map gives
the mean and the covariance of the samples.
"""

from __future__ import annotations

from itertools import repeat

import torch

from scoresde.analytic import Gaussian
from scoresde.denoiser import BaseDenoiser
from scoresde.grids import Grid
from scoresde.noise import InjectedNoise, RecordedNoise
from scoresde.sampling import sample
from scoresde.sde import Level
from scoresde.solvers import Solver


class NotAffine(ValueError):
    """A sampler that is no affine map, so that unit vectors do not show its law."""


def marginal(data: Gaussian, level: Level) -> Gaussian:
    """Return the law of x_t = alpha x_0 + sigma eps: N(alpha m, alpha^2 C + sigma^2 I)."""
    a, s = float(level.alpha), float(level.sigma)
    noise = s * s * torch.eye(len(data.mean), dtype=data.mean.dtype)
    return Gaussian(a * data.mean, a * a * data.covariance + noise)


def law(
    model: BaseDenoiser,
    start: Gaussian,
    *,
    solver: Solver,
    grid: Grid | None = None,
    steps: int | None = None,
    denoise: bool = True,
) -> Gaussian:
    """Return the exact law of the samples, for a start at T of the law `start`.

    One batch goes through `scoresde.sample`: zeros, every unit vector of the start and of each
    draw, and a row of ones, which shows whether the sampler is affine at all. Zeros on their own
    show whether batch mates matter.

    Args:
        model: a denoiser that is affine in x, such as `Gaussian.denoiser(sde)`.
        start: the law of x at T, over R^D; `marginal(data, sde.level(sde.T))` is that of the data.
        solver, grid, steps, denoise: as in `scoresde.sample`.

    Raises:
        NotAffine: a sampler that is no affine map of each sample's own start and draws.
    """
    d, dtype = len(start.mean), start.mean.dtype
    how = {"solver": solver, "grid": grid, "steps": steps, "denoise": denoise}
    blank = torch.zeros(1, d, dtype=dtype)
    record = RecordedNoise(InjectedNoise(repeat(blank)))
    alone = sample(model, x=blank, noise=record, **how)
    inputs = d * (1 + len(record.draws))
    rows = torch.cat(
        [
            torch.zeros(1, inputs, dtype=dtype),
            torch.eye(inputs, dtype=dtype),
            torch.ones(1, inputs, dtype=dtype),
        ]
    )
    x, *draws = rows.split(d, 1)
    out = sample(model, x=x, noise=InjectedNoise(draws), **how)
    origin, moved = out[0], out[1:-1] - out[0]
    expected = torch.stack([alone[0], origin + moved.sum(0)])
    if not torch.allclose(out[[0, -1]], expected, rtol=1e-6, atol=1e-6):
        raise NotAffine(f"solver={solver}: no affine map of each sample's start and draws")
    of_start, of_draws = moved[:d], moved[d:]
    mean = origin + start.mean @ of_start
    covariance = of_start.mT @ start.covariance @ of_start + of_draws.mT @ of_draws
    return Gaussian(mean, 0.5 * (covariance + covariance.mT))


def weak_error(found: Gaussian, exact: Gaussian) -> float:
    """Return the largest error of a mean or covariance entry, in deviations of the exact law."""
    variance = float(exact.variances.max())
    mean = float((found.mean - exact.mean).abs().max()) / variance**0.5
    return max(mean, float((found.covariance - exact.covariance).abs().max()) / variance)
