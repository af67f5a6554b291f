"""Exact log-likelihoods, by the probability flow.

log p(x_0) = log p_T(x_T) + the integral of the flow's divergence along its path (Chen et al.
2018, arXiv:1806.07366; Song et al. 2021, arXiv:2011.13456, eq. 39). A likelihood is one solve of
an augmented state, by any deterministic solver.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from scoresde.denoiser import BaseDenoiser, Field, Prediction
from scoresde.grids import Grid
from scoresde.integrate import Solution, integrate
from scoresde.noise import Noise, SeededNoise
from scoresde.sampling import check_data, check_model, place_cond, placement
from scoresde.sde import Level, Prior
from scoresde.solvers import AdamsPC, AdaptiveSolver, Solver
from scoresde.tensors import cos, lincomb, sin


class Trace(ABC):
    """How to take the trace of the flow's Jacobian, from products with probes."""

    @abstractmethod
    def probes(self, x: Tensor, noise: Noise) -> Tensor:
        """Return the probes of a solve (B, K, *), drawn once."""

    @abstractmethod
    def reduce(self, integrals: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-determinant (B,) and its standard error (B,), of integrals (B, K)."""


@dataclass(frozen=True)
class ExactTrace(Trace):
    """The trace itself, by a product with every unit vector: D backward passes a call."""

    def probes(self, x: Tensor, noise: Noise) -> Tensor:
        d = math.prod(x.shape[1:])
        basis = torch.eye(d, dtype=x.dtype, device=x.device).reshape(1, d, *x.shape[1:])
        return basis.expand(len(x), *basis.shape[1:])

    def reduce(self, integrals: Tensor) -> tuple[Tensor, Tensor]:
        total = integrals.sum(1)
        return total, torch.zeros_like(total)


@dataclass(frozen=True)
class Hutchinson(Trace):
    """Hutchinson's estimate, the mean of e^T J e over probes e (doi:10.1080/03610919008812866).

    For S the symmetric part of J, a Rademacher probe has the variance 2 sum_{i != j} S_ij^2 and a
    Gaussian one 2 |S|_F^2. Probes are drawn once a solve, so that the integrand is smooth.

    Attributes:
        n: probes; the standard error needs two.
        gaussian: unit normals instead of signs.

    Raises:
        ValueError: n that is no integer from 1.
    """

    n: int = 8
    gaussian: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.n, int) and self.n >= 1):
            raise ValueError(f"n={self.n}: the number of probes is an integer, and at least 1")

    def probes(self, x: Tensor, noise: Noise) -> Tensor:
        draws = torch.stack([noise.fold(k).normal(x) for k in range(self.n)], 1)
        return draws if self.gaussian else torch.where(draws < 0, -1.0, 1.0).to(x.dtype)

    def reduce(self, integrals: Tensor) -> tuple[Tensor, Tensor]:
        mean = integrals.mean(1)
        squares = (integrals - mean[:, None]).square().sum(1)
        return mean, (squares / (self.n * (self.n - 1))).sqrt()  # 0 / 0 for a single probe


class Transform(Protocol):
    """A map from data to model space that knows its log-determinant."""

    @property
    def log_det(self) -> float:
        """Log |d model / d data| per dimension, in nats."""
        ...


@dataclass(frozen=True)
class LogLikelihood:
    """Log-likelihoods of samples, and what they are made of.

    Attributes:
        nats: log p(x) of the state at t_min, in model space, (B,).
        stderr: standard error of `nats` from the trace estimate (B,); 0 for an exact trace, NaN
            for a single probe.
        prior: log-density of the latent code (B,).
        log_det: log |d latent / d x| (B,), so that nats = prior + log_det.
        nfe: network calls per sample (B,).
        error: sum of the estimated errors of the integrator's steps in nats (B,); None on a grid.
        latent: the code at T (B, *).
        log_det_data: log |d model / d data| per dimension, of the data transform.
    """

    nats: Tensor
    stderr: Tensor
    prior: Tensor
    log_det: Tensor
    nfe: Tensor
    latent: Tensor
    log_det_data: float = 0.0
    error: Tensor | None = None

    @property
    def bits_per_dim(self) -> Tensor:
        """Bits per dimension of the data (B,): -(nats / D + log_det_data) / ln 2."""
        return -(self.nats / self._dim + self.log_det_data) / math.log(2.0)

    @property
    def bits_per_dim_stderr(self) -> Tensor:
        """Standard error of `bits_per_dim` (B,), from the trace estimate."""
        return self.stderr / (self._dim * math.log(2.0))

    @property
    def _dim(self) -> int:
        return math.prod(self.latent.shape[1:])


def log_likelihood(
    model: BaseDenoiser,
    x: Tensor,
    *,
    trace: Trace | None = None,
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
    grad: bool = False,
) -> LogLikelihood:
    """Return the log-likelihood of x under the probability flow of a model.

    The flow starts at t_min: x is taken as the state there. Discrete data are dequantised and
    mapped to model space first; `transform` is that map.

    Args:
        model: the denoiser.
        x: data in model space (B, *).
        trace: `ExactTrace()` up to 128 dimensions and `Hutchinson()` above, by default.
        transform: the data transform, for bits per dimension of the data; without it they are
            those of the density in model space.
        prior: the density at T; `model.sde.prior()` by default.
        solver: deterministic; `AdamsPC()` by default.
        grid, steps, nfe, cond, progress: as in `scoresde.sample`.
        noise: the source of the probes; or
        seed: its seed.
        grad: keep the graph, so that gradients flow to x, cond and the parameters.

    Raises:
        ValueError: integer or non-finite x; a stochastic solver; contradicting arguments.
        SolveError: as `scoresde.sample`.
    """
    check_model(model)
    if noise is not None and seed is not None:
        raise ValueError(f"seed={seed} and noise={noise}: give one of them")
    if cond and "probes" in cond:
        raise ValueError("cond: 'probes' names the probes of the trace; rename the argument")
    noise = noise or SeededNoise(seed)
    x = check_data(x, "x").to(**placement(model, x))
    trace = trace or (ExactTrace() if x[:1].numel() <= 128 else Hutchinson())
    # the divergence takes gradients, which inference mode has none of
    with torch.inference_mode(False), nullcontext() if grad else torch.no_grad():
        probes = trace.probes(x, noise)
        start = torch.cat([x.flatten(1), x.new_zeros(len(x), probes.shape[1])], 1)
        cond = {"probes": probes, **place_cond(cond, x.device)}
        norm, solver = Nats(x[:1].numel(), trace, model.data_std), solver or AdamsPC()
        solution = integrate(
            Field(_Augmented(model, x.shape[1:]), cond), start, solver, noise,
            grid=grid, steps=steps, nfe=nfe, encode=True, progress=progress, norm=norm,
        )  # fmt: skip
        found = _assemble(solution, trace, prior or model.sde.prior(), model, x.shape, transform)
        if isinstance(solver, AdaptiveSolver) and solution.error is not None:
            found = replace(found, error=norm.tolerance(solver) * solution.error)
        return found


def _assemble(
    solution: Solution,
    trace: Trace,
    prior: Prior,
    model: BaseDenoiser,
    shape: torch.Size,
    transform: Transform | None,
) -> LogLikelihood:
    d = math.prod(shape[1:])
    latent = solution.x[:, :d].reshape(shape)
    before, after = (
        float(at.radius(model.data_std)) for at in (solution.levels[0], solution.levels[-1])
    )
    divergence, stderr = trace.reduce(solution.x[:, d:] / after)
    log_det = divergence + d * math.log(after / before)
    density = prior.log_prob(latent)
    return LogLikelihood(
        nats=density + log_det,
        stderr=stderr,
        prior=density,
        log_det=log_det,
        nfe=solution.nfe,
        latent=latent,
        log_det_data=0.0 if transform is None else transform.log_det,
    )


@dataclass(frozen=True)
class Nats:
    """The size of an error of the state (x, r q) in nats, as a share of a tolerance.

    log p(x_0) is that of x at any level and the log-determinant q so far, so that an error
    (dx, dq) of a step moves it by dq - eps . dx / sigma. Its size is the root of
    dq^2 + |dx|^2 / sigma^2, as eps is of unit size along any one direction.

    Attributes:
        dim: dimensions D of x.
        trace: what makes q of the divergence along probes.
        data_std: of the radius r.
    """

    dim: int
    trace: Trace
    data_std: float

    def tolerance(self, solver: AdaptiveSolver) -> float:
        """Return the nats that a step may err by: atol + rtol D."""
        return solver.atol + solver.rtol * self.dim

    def __call__(
        self, error: Tensor, before: Tensor, after: Tensor, level: Level, solver: AdaptiveSolver
    ) -> Tensor:
        of_x = lincomb((1.0 / level.sigma, error[:, : self.dim]))
        of_q = lincomb((1.0 / level.radius(self.data_std), error[:, self.dim :]))
        log_det, _ = self.trace.reduce(of_q.double())
        size = torch.hypot(torch.linalg.vector_norm(of_x.double(), dim=1), log_det)
        return size / self.tolerance(solver)


class _Augmented(BaseDenoiser):
    """A denoiser of the state (x, r q), where q gathers the divergence of the flow.

    In the polar frame of `AdamsPC` the flow is dy/dphi = v(y), and q obeys dq/dphi = e^T (dv/dy) e
    for every probe e. So r q is a coordinate like any other, whose v is that product, and every
    solver integrates it along. The network is called once for both.
    """

    def __init__(self, model: BaseDenoiser, shape: torch.Size) -> None:
        super().__init__(model.sde, model.data_std)
        self.model, self.shape = model, shape

    def forward(self, x: Tensor, level: Level, *, probes: Tensor, **cond: Any) -> Prediction:
        c = self.data_std
        data = x[:, : math.prod(self.shape)].reshape(-1, *self.shape)
        own, keep = level.like(data), torch.is_grad_enabled()
        phi = own.angle(c)
        # by autograd and not torch.func, which knows no checkpointed activations; a product, since
        # a leaf would answer a network that writes to its input before the denoiser can
        with torch.enable_grad():
            data = data if keep and data.requires_grad else data.detach().requires_grad_()
            minus_v = self.model(1.0 * data, own, **cond).combine(x0=sin(phi) / c, eps=-cos(phi))
        products = [_products(minus_v, data, chunk, keep) for chunk in probes.split(_CHUNK, dim=1)]
        out = minus_v if keep else minus_v.detach()
        # dv/dy is r dv/dx
        full = torch.cat([out.flatten(1), lincomb((level.radius(c), torch.cat(products, 1)))], 1)
        return Prediction.of("edm", x, full, level, self.sde, c)


def _products(out: Tensor, x: Tensor, probes: Tensor, keep: bool) -> Tensor:
    """Return e^T (d out / dx) e (B, K), of probes e (B, K, *)."""
    if not out.requires_grad:
        return x.new_zeros(probes.shape[:2])
    (pulled,) = torch.autograd.grad(
        out, x, probes.movedim(1, 0), is_grads_batched=True,
        retain_graph=True, create_graph=keep, materialize_grads=True,
    )  # fmt: skip
    return (pulled.movedim(0, 1) * probes).flatten(2).sum(2)


_CHUNK = 16  # probes that go backward through the network at once
