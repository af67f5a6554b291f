"""The exact law of what a sampler puts out on Gaussian data, without Monte Carlo.

On Gaussian data the score is affine in x, so a sampler is an affine map of its start and of its
draws. Unit vectors sent through the real code give that map to the last bit, and the map gives
the mean and the covariance of the samples.
"""

from __future__ import annotations

from itertools import repeat

import torch
from torch import Tensor

from scoresde.analytic import Gaussian
from scoresde.denoiser import BaseDenoiser
from scoresde.grids import Grid
from scoresde.noise import InjectedNoise, Noise, RecordedNoise
from scoresde.sde import SDE, Level
from scoresde.solvers import Solver
from scoresde.testing.samplers import Sampler, run


class NotAffine(ValueError):
    """A sampler that is no affine map, so that unit vectors do not show its law."""


def marginal(data: Gaussian, level: Level) -> Gaussian:
    """Return the law of x_t = alpha x_0 + sigma eps: N(alpha m, alpha^2 C + sigma^2 I)."""
    a, s = float(level.alpha), float(level.sigma)
    noise = s * s * torch.eye(len(data.mean), dtype=data.mean.dtype)
    return Gaussian(a * data.mean, a * a * data.covariance + noise)


def law(
    sampler: Solver | Sampler,
    sde: SDE,
    data: Gaussian,
    grid: Grid | None = None,
    *,
    steps: int | None = None,
    denoise: bool = True,
    model: BaseDenoiser | None = None,
    start: Gaussian | None = None,
) -> Gaussian:
    """Return the exact law of the samples that a sampler makes of Gaussian data.

    One batch goes through the sampler: zeros, every unit vector of the start and of each draw,
    and a row of ones, which shows whether the sampler is affine at all. Zeros on their own show
    whether batch mates matter.

    Args:
        sampler: a solver, or a whole loop.
        sde: the process.
        data: the data, over R^D.
        grid, steps, denoise: as in `scoresde.sample`.
        model: what the sampler sees, affine in x; the exact denoiser of the data by default.
        start: the law of x at T; that of the data there by default.

    Raises:
        NotAffine: a sampler that is no affine map of each sample's own start and draws.
    """
    model, start = model or data.denoiser(sde), start or marginal(data, sde.level(sde.T))
    d, dtype = len(start.mean), start.mean.dtype

    def end(x: Tensor, noise: Noise) -> Tensor:
        return run(sampler, model, x, grid=grid, steps=steps, noise=noise, denoise=denoise)[0]

    blank = torch.zeros(1, d, dtype=dtype)
    record = RecordedNoise(InjectedNoise(repeat(blank)))
    alone = end(blank, record)
    inputs = d * (1 + len(record.draws))
    rows = torch.cat(
        [
            torch.zeros(1, inputs, dtype=dtype),
            torch.eye(inputs, dtype=dtype),
            torch.ones(1, inputs, dtype=dtype),
        ]
    )
    x, *draws = rows.split(d, 1)
    out = end(x, InjectedNoise(draws))
    origin, moved = out[0], out[1:-1] - out[0]
    expected = torch.stack([alone[0], origin + moved.sum(0)])
    if not torch.allclose(out[[0, -1]], expected, rtol=1e-6, atol=1e-6):
        raise NotAffine(f"sampler={sampler}: no affine map of each sample's start and draws")
    of_start, of_draws = moved[:d], moved[d:]
    mean = origin + start.mean @ of_start
    covariance = of_start.mT @ start.covariance @ of_start + of_draws.mT @ of_draws
    return Gaussian(mean, 0.5 * (covariance + covariance.mT))


def weak_error(found: Gaussian, exact: Gaussian) -> float:
    """Return the largest error of a mean or covariance entry, in deviations of the exact law."""
    variance = float(exact.variances.max())
    mean = float((found.mean - exact.mean).abs().max()) / variance**0.5
    return max(mean, float((found.covariance - exact.covariance).abs().max()) / variance)
