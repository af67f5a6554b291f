"""Exact log-likelihoods, by the probability flow.

log p(x_0) = log p_T(x_T) + the integral of the flow's divergence along its path (Chen et al.
2018, arXiv:1806.07366; Song et al. 2021, arXiv:2011.13456, eq. 39). A likelihood is one solve of
an augmented state, by any deterministic solver.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from scoresde.denoiser import BaseDenoiser, Field
from scoresde.gradients import Gradient
from scoresde.grids import Grid
from scoresde.likelihood.jacobian import FlowJacobian, Route
from scoresde.likelihood.record import LogLikelihood, Transform
from scoresde.likelihood.traces import Estimate, ExactTrace, Flipped, Hutchinson, Trace
from scoresde.noise import Noise
from scoresde.sampling import check_data, check_model, noise_of, place_cond, placement
from scoresde.sde import Prior, forward_kernel
from scoresde.solvers import AdamsPC, AdaptiveAdams, AdaptiveSolver, Solver


def log_likelihood(
    model: BaseDenoiser,
    x: Tensor,
    *,
    trace: Trace | None = None,
    stderr: float | None = None,
    transform: Transform | None = None,
    prior: Prior | None = None,
    solver: Solver | None = None,
    grid: Grid | None = None,
    steps: int | None = None,
    nfe: int | None = None,
    noise: Noise | None = None,
    seed: int | None = None,
    cond: Mapping[str, Any] | None = None,
    progress: bool = False,
    gradient: Gradient | None = None,
) -> LogLikelihood:
    """Return the log-likelihood of x under the probability flow of a model.

    The flow starts at t_min: x is taken as the state there. Discrete data are dequantised and
    mapped to model space first; `transform` is that map.

    Args:
        model: the denoiser.
        x: data in model space (B, *).
        trace: by default `ExactTrace()` up to 128 dimensions. Above, `Flipped(Hutchinson())` under
            solvers of one call a step, unless they are adaptive with an rtol above 1e-4, and
            `Hutchinson()` under all others.
        stderr: standard error of the trace, in bits per dimension, that every sample shall have:
            estimates are repeated with fresh probes and averaged until it does, four times at least
            and to 16 probes, unless the trace is exact.
        transform: the data transform, for bits per dimension of the data; without it they are
            those of the density in model space.
        prior: the density at T; `model.sde.prior()` by default.
        solver: deterministic; `AdaptiveAdams()` by default, which holds every sample to rtol nats
            a dimension and atol nats a step; `AdamsPC()` where steps, nfe or a grid are given.
        grid, steps, nfe, cond, progress, gradient: as in `scoresde.sample`. One call more, on one
            sample, finds out whether the network takes forward mode; neither `nfe` nor the record
            counts it.
        noise: the source of the probes; or
        seed: its seed.

    Raises:
        ValueError: integer or non-finite x; a stochastic solver; contradicting arguments; a
            `stderr` that is not positive, or asked of a trace that knows none.
        SolveError: as `scoresde.sample`.
    """
    noise = noise_of(noise, seed)
    # the divergence takes gradients, which inference mode has none of
    with torch.inference_mode(False), nullcontext() if gradient else torch.no_grad():
        jacobian = flow_jacobian(
            model, x, solver=solver, grid=grid, steps=steps, nfe=nfe, cond=cond, progress=progress,
            gradient=gradient,
        )  # fmt: skip
        x, prior = jacobian.like, prior or model.sde.prior()
        trace = trace or default_trace(jacobian)
        found = _estimate(jacobian, trace, stderr, noise)
        density, log_det = prior.log_prob(jacobian.latent), found.trace + jacobian.volume
        return LogLikelihood(
            nats=density + log_det,
            parts={"prior": density, "log_det": log_det},
            stderr=found.stderr,
            error=jacobian.error,
            nfe=jacobian.nfe,
            products=jacobian.products,
            dim=math.prod(x.shape[1:]),
            mismatch=_mismatch(model, prior, x),
            latent=jacobian.latent,
            log_det_data=0.0 if transform is None else transform.log_det_at(x),
            method=f"{trace} in {jacobian.mode} mode, {jacobian.route.solver}, x at t_min",
        )


def default_trace(jacobian: FlowJacobian) -> Trace:
    """Return the trace that a flow's Jacobian gets where none is named."""
    if jacobian.like[:1].numel() <= 128:
        return ExactTrace()
    # flips suit even weights, which the stages of a step do not have, nor steps of high order that
    # are few
    solver = jacobian.route.solver
    few = isinstance(solver, AdaptiveSolver) and solver.rtol > 1e-4
    return Hutchinson() if solver.evals > 1 or few else Flipped(Hutchinson())


def flow_jacobian(
    model: BaseDenoiser,
    x: Tensor,
    *,
    solver: Solver | None = None,
    grid: Grid | None = None,
    steps: int | None = None,
    nfe: int | None = None,
    cond: Mapping[str, Any] | None = None,
    progress: bool = False,
    gradient: Gradient | None = None,
) -> FlowJacobian:
    """Return the Jacobian of the flow from x (B, *), for traces; the arguments of a likelihood.

    Raises:
        ValueError: as `log_likelihood`.
    """
    check_model(model)
    if cond and "probes" in cond:
        raise ValueError("cond: 'probes' names the probes of the trace; rename the argument")
    x = check_data(x, "x").to(**placement(model, x))

    fixed = grid is not None or steps is not None or nfe is not None
    solver = solver or (AdamsPC() if fixed else AdaptiveAdams())
    route = Route(solver, grid, steps, nfe, progress, gradient)
    return FlowJacobian(Field(model, place_cond(cond, x.device)), x, route)


def _estimate(jacobian: FlowJacobian, trace: Trace, stderr: float | None, noise: Noise) -> Estimate:
    """Return the trace, averaged until every sample's standard error is the one asked for."""
    if stderr is None:
        return trace.estimate(jacobian, noise)
    if not stderr > 0.0:
        raise ValueError(f"stderr={stderr}: a standard error to reach is positive")
    bound = stderr * math.prod(jacobian.like.shape[1:]) * math.log(2.0)
    found = trace.estimate(jacobian, noise)
    if found.stderr.isnan().any():
        raise ValueError(f"stderr={stderr}: {trace} knows no standard error; take two probes")
    total, variance = found.trace, found.stderr.square()
    count = torch.ones_like(total)
    # a few probes at least: who stops at the first small estimate stops at those by chance
    least = 16.0 * jacobian.nfe / jacobian.products
    if trace.exact_in(math.prod(jacobian.like.shape[1:])):
        return found
    for k in range(_ROUNDS):
        early = count < least.clamp(min=4.0)
        rows = (early | (variance.sqrt() / count > bound)).nonzero().flatten()
        if not len(rows):
            break
        some = jacobian.rows(rows)
        # negative, as traces fold by 0 and up
        again = trace.estimate(some, noise.rows(rows).fold(-2 - k))
        total = total.index_add(0, rows, again.trace)
        variance = variance.index_add(0, rows, again.stderr.square())
        count = count.index_add(0, rows, torch.ones_like(again.trace))
        jacobian.count(some, rows)
    else:
        warnings.warn(
            f"stderr: {_ROUNDS} rounds of {trace} did not reach it; take more probes a round",
            stacklevel=3,
        )
    return Estimate(total / count, variance.sqrt() / count)


def _mismatch(model: BaseDenoiser, prior: Prior, x: Tensor) -> Tensor | None:
    """Return KL(q(x_T | x) || prior) (B,), whose mean over the data bounds KL(p_T || prior).

    A mixture's divergence is at most the mean of its components', which are N(a x, s^2) here:
    1/2 sum (s^2 + (a x - mean)^2) / std^2 - 1 - log(s^2 / std^2).
    """
    if type(prior) is not Prior:
        return None
    a, s = forward_kernel(*(model.sde.level(t) for t in (model.sde.t_min, model.sde.T)))
    mean, std = (torch.as_tensor(v).to(x).double() for v in (prior.mean, prior.std))
    noise, shift = (float(s) / std).square(), ((float(a) * x.double() - mean) / std).square()
    return 0.5 * (noise - 1.0 - noise.log() + shift).flatten(1).sum(1)


_ROUNDS = 1000  # of estimates that a standard error is waited for
