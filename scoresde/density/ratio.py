"""The ratio of two densities, and what a condition tells of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.analytic import Gaussian
from scoresde.denoiser import BaseDenoiser
from scoresde.grids import Grid
from scoresde.likelihood import Trace
from scoresde.likelihood.flow import default_trace, flow_jacobian
from scoresde.likelihood.jacobian import FlowJacobian
from scoresde.noise import Noise
from scoresde.sampling import noise_of
from scoresde.sde import Prior
from scoresde.solvers import Solver


@dataclass(frozen=True)
class LogRatio:
    """The log of the ratio of two densities at samples.

    Attributes:
        nats: log p(x) - log q(x) (B,).
        stderr: its standard error, from the trace of the difference (B,).
        nfe: network calls per sample, of both models (B,).
    """

    nats: Tensor
    stderr: Tensor
    nfe: Tensor

    @property
    def mean(self) -> float:
        """Mean over samples; of samples of p, it estimates the divergence KL(p || q), in nats."""
        return float(self.nats.double().mean())

    @property
    def mean_stderr(self) -> float:
        """Standard error of the mean, over samples; NaN of a single one."""
        return float(self.nats.double().std() / math.sqrt(len(self.nats)))


def log_ratio(
    model: BaseDenoiser,
    other: BaseDenoiser,
    x: Tensor,
    *,
    cond: Mapping[str, Any] | None = None,
    other_cond: Mapping[str, Any] | None = None,
    trace: Trace | None = None,
    prior: Prior | None = None,
    other_prior: Prior | None = None,
    solver: Solver | None = None,
    grid: Grid | None = None,
    steps: int | None = None,
    noise: Noise | None = None,
    seed: int | None = None,
) -> LogRatio:
    """Return log p(x) - log q(x) of two models, each under its own flow.

    Both traces are taken with the same probes, as one trace of the difference of the Jacobians:
    what the models have in common has no part in the standard error.

    Args:
        model: the denoiser whose density is p.
        other: the one whose density is q; the same one where two conditions are compared.
        x: data in the model space of both (B, *), as states at t_min.
        cond, other_cond: conditions of each.
        prior, other_prior: densities at T of each.
        trace, solver, grid, steps, noise, seed: as in `scoresde.log_likelihood`.

    Raises:
        ValueError, SolveError: as `scoresde.log_likelihood`.
    """
    noise = noise_of(noise, seed)
    with torch.inference_mode(False), torch.no_grad():
        p, q = (
            flow_jacobian(m, x, solver=solver, grid=grid, steps=steps, cond=c)
            for m, c in ((model, cond), (other, other_cond))
        )
        chosen = trace or default_trace(p)
        found = chosen.estimate(_Difference(p, q), noise)
        density = (prior or model.sde.prior()).log_prob(p.latent)
        other_density = (other_prior or other.sde.prior()).log_prob(q.latent)
        nats = density - other_density + found.trace + (p.volume - q.volume)
        return LogRatio(nats, found.stderr, p.nfe + q.nfe)


def mutual_information(
    model: BaseDenoiser,
    x: Tensor,
    cond: Mapping[str, Any],
    without: Mapping[str, Any] | None = None,
    *,
    trace: Trace | None = None,
    prior: Prior | None = None,
    other_prior: Prior | None = None,
    solver: Solver | None = None,
    grid: Grid | None = None,
    steps: int | None = None,
    noise: Noise | None = None,
    seed: int | None = None,
) -> LogRatio:
    """Return log p(x | c) - log p(x) of pairs (x, c) of data; its mean is I(x; c), in nats.

    Args:
        model: a denoiser that knows both laws, as training for classifier-free guidance leaves
            it (Ho and Salimans 2022, arXiv:2207.12598).
        x: data in model space (B, *).
        cond: the condition of each.
        without: the condition that stands for none.
        prior, other_prior: densities at T with the condition and without.
        trace, solver, grid, steps, noise, seed: as in `log_ratio`.

    Raises:
        ValueError, SolveError: as `log_ratio`.
    """
    return log_ratio(
        model, model, x, cond=cond, other_cond=without, trace=trace, prior=prior,
        other_prior=other_prior, solver=solver, grid=grid, steps=steps, noise=noise, seed=seed,
    )  # fmt: skip


class _Difference:
    """The difference of two flows' Jacobians."""

    def __init__(self, one: FlowJacobian, other: FlowJacobian) -> None:
        self.one, self.other = one, other

    @property
    def like(self) -> Tensor:
        return self.one.like

    def quadratic(self, probes: Tensor) -> Tensor:
        return self.one.quadratic(probes) - self.other.quadratic(probes)

    def product(self, probes: Tensor) -> Tensor:
        return self.one.product(probes) - self.other.product(probes)

    def flipped(self) -> _Difference:
        return _Difference(self.one.flipped(), self.other.flipped())

    def less(self, gaussian: Gaussian) -> tuple[_Difference, float]:
        (one, known), (other, other_known) = (m.less(gaussian) for m in (self.one, self.other))
        return _Difference(one, other), known - other_known
