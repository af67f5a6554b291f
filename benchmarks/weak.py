"""Exact weak error of the reverse SDE against network calls, beside the peers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from benchmarks.peers import Method, reverse_methods
from benchmarks.peers.grids import GRIDS
from benchmarks.titles import title
from scoresde import (
    DDIM,
    ERSDE,
    SEEDS,
    VPSDE,
    EulerMaruyama,
    Gaussian,
    Grid,
    SASolver,
    SDEDPMSolverPP,
    Solver,
    StochasticAdamsPC,
)
from scoresde.tensors import Scalar
from scoresde.testing import Sampler, law, marginal

CALLS = (10, 20, 50, 100)
SCALES = (0.1, 0.25, 0.5, 1.0, 2.0)
OURS = "scoresde"


def full_noise(rho: Scalar) -> Scalar:
    """Return the noise scale of ER-SDE, a function of sigma / alpha, of the reverse SDE."""
    return rho * rho


SOLVERS: tuple[Solver, ...] = (
    StochasticAdamsPC(),
    SASolver(),
    SDEDPMSolverPP(),
    SDEDPMSolverPP(nodes=3),
    SEEDS(),
    ERSDE(phi=full_noise),
    DDIM(eta=1.0),
    EulerMaruyama(),
)
"""Ours at full noise, on the default grid, the default first."""


class Row(NamedTuple):
    """The worst error of the output's variance over data N(0, c^2), c in `SCALES`.

    Attributes:
        library: whose solver.
        method: its name there.
        grid: where its steps were.
        calls: the budget of network calls.
        error: the largest |log(variance / exact variance)|.
    """

    library: str
    method: str
    grid: str
    calls: int
    error: float


def rows(sampler: Solver | Method, calls: Sequence[int] = CALLS) -> Iterator[Row]:
    """Measure one sampler, a peer's on every grid."""
    if isinstance(sampler, Solver):
        for n in calls:
            steps = n // sampler.evals
            yield Row(OURS, title(sampler), "default grid", n, weak_error(sampler, steps))
    else:
        for n in calls:
            for name, grid in GRIDS.items():
                error = weak_error(sampler.sampler, n // sampler.evals, grid)
                yield Row(sampler.library, sampler.name, name, n, error)


def weak_error(sampler: Solver | Sampler, steps: int, grid: Grid | None = None) -> float:
    """Return the largest |log(variance / exact)| at t_min over data N(0, c^2).

    The sampler is an affine map of its start and draws, so that unit vectors sent through it give
    the variance with no Monte Carlo. The data of all scales go through at once, an axis each.
    """
    sde = VPSDE()
    scales = torch.tensor(SCALES, dtype=torch.float64)
    data = Gaussian(torch.zeros_like(scales), torch.diag(scales**2))
    found = law(
        sampler, sde, data, grid, steps=steps, denoise=False, model=data.denoiser(sde, data_std=1.0)
    )
    exact = marginal(data, sde.level(sde.t_min))
    ratios = found.covariance.diagonal() / exact.covariance.diagonal()
    return max(abs(math.log(float(r))) for r in ratios)


def samplers(peers: bool) -> tuple[Solver | Method, ...]:
    """Return what is measured: ours and, if wanted, the peers'."""
    return (*SOLVERS, *(reverse_methods() if peers else ()))
