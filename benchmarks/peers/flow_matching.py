"""flow_matching's likelihood (Lipman et al. 2024, arXiv:2412.06264), by torchdiffeq's dopri5.

It solves in the time of a straight path, z = (1 - w) x0 + w eps, from the data at s = 1 back to
s = 0. Its own samples are those of ours at z = x / (alpha + sigma), w = sigma / (alpha + sigma), so
that s runs over the w of the same solve.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.base import require
from benchmarks.peers.odes import Density
from benchmarks.problems import DensityProblem
from scoresde import Level
from scoresde.denoiser import Field

_library = require("flow_matching.solver")


def _solve(problem: DensityProblem, tol: float) -> tuple[Tensor, float]:
    field, d = Field(problem.model), problem.x.shape[1]
    levels = [field.sde.level(t) for t in (field.sde.t_min, field.sde.T)]
    before, after = (float(at.alpha + at.sigma) for at in levels)
    low, high = float(levels[0].sigma / before), float(levels[1].sigma / after)

    def velocity(x: Tensor, t: Tensor, **extras: Any) -> Tensor:
        # past s = 0, where the integrator interpolates back to, alpha is negative
        w = high + float(t) * (low - high)
        return (low - high) * field(x, Level(w, 1.0 - w, w)).combine(x0=-1.0, eps=1.0)

    def prior(z: Tensor) -> Tensor:
        return problem.prior.log_prob(after * z) + d * math.log(after)

    _, found = _library.ODESolver(velocity).compute_likelihood(
        problem.x / before, prior, None, "dopri5", tol, tol,
        torch.tensor([1.0, 0.0], dtype=torch.float64), exact_divergence=True,
    )  # fmt: skip
    return found - d * math.log(before), field.nfe


INTEGRATORS = ()
"""Its samplers are torchdiffeq's."""

DENSITIES = (Density("flow_matching", "dopri5 on the velocity", _solve),)
"""What it has for likelihoods."""
