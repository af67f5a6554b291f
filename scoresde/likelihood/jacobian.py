"""The flow's Jacobian along the path of every sample, by its products with probes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from scoresde.adaptive import Norm
from scoresde.denoiser import BaseDenoiser, Field, Prediction
from scoresde.errors import SolveError
from scoresde.grids import Grid
from scoresde.integrate import Solution, integrate
from scoresde.noise import SeededNoise
from scoresde.sde import Level
from scoresde.solvers import AdaptiveSolver, Solver
from scoresde.tensors import cos, lincomb, sin

Mode = Literal["forward", "reverse"]
"""How products with the network's Jacobian are had: forward mode keeps no graph."""


class Jacobian(Protocol):
    """A matrix M (D, D) for each of B samples, known by its products with probes (B, K, *)."""

    @property
    def like(self) -> Tensor:
        """A tensor of the samples' shape, dtype and device (B, *)."""
        ...

    def quadratic(self, probes: Tensor) -> Tensor:
        """Return e^T M e (B, K) for probes e (B, K, *)."""
        ...

    def product(self, probes: Tensor) -> Tensor:
        """Return M e (B, K, *) for probes e (B, K, *), or M^T e in reverse mode."""
        ...


@dataclass(frozen=True)
class Route:
    """How the flow is followed from t_min to T, in the terms of `scoresde.solve`."""

    solver: Solver
    grid: Grid | None = None
    steps: int | None = None
    nfe: int | None = None
    progress: bool = False

    def follow(self, field: Field, start: Tensor, norm: Norm) -> Solution:
        """Return the solve from a start."""
        return integrate(
            field, start, self.solver, SeededNoise(0), grid=self.grid, steps=self.steps,
            nfe=self.nfe, encode=True, progress=self.progress, norm=norm,
        )  # fmt: skip


class FlowJacobian:
    """M = integral of dv/dy dphi along each sample's path from t_min to T, one solve a question.

    In the polar frame of `AdamsPC` the flow is dy/dphi = v(y), and with r = sqrt(alpha^2 c^2 +
    sigma^2) the map from x to the code has log |det| = tr M + D log(r_T / r_0). M is an integral
    of matrices, so each of its products is an integral of products with one and the same probe.

    Args:
        field: the denoiser and its condition.
        x: samples at t_min (B, *).
        route: how the flow is followed.
        mode: of the products; found out by one call on one sample by default.

    Attributes:
        error: of an adaptive solve, in nats (B,), once something was asked.
        nfe: network calls so far, per sample (B,).
        products: products with the network's Jacobian so far, per sample (B,).
    """

    def __init__(
        self,
        field: Field,
        x: Tensor,
        route: Route,
        mode: Mode | None = None,
    ) -> None:
        self._field, self._x, self.route = field, x, route
        self.mode: Mode = mode or find_mode(field, x)
        self._latent: Tensor | None = None
        self.error: Tensor | None = None
        self.nfe = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.products = torch.zeros_like(self.nfe)

    @property
    def like(self) -> Tensor:
        return self._x

    @property
    def latent(self) -> Tensor:
        """The code at T (B, *), which the first question finds."""
        assert self._latent is not None, "nothing was asked of the flow"
        return self._latent

    @property
    def volume(self) -> float:
        """The log |det| that M does not know of, D log(r_T / r_0)."""
        sde, c = self._field.sde, self._field.data_std
        before, after = (float(sde.level(t).radius(c)) for t in (sde.t_min, sde.T))
        return math.prod(self._x.shape[1:]) * math.log(after / before)

    def quadratic(self, probes: Tensor) -> Tensor:
        return self._integrals(probes, whole=False).flatten(1)

    def product(self, probes: Tensor) -> Tensor:
        return self._integrals(probes, whole=True).reshape(probes.shape)

    def rows(self, index: Tensor) -> FlowJacobian:
        """Return the same for some of the samples, with no calls so far."""
        field = self._field.rows(index, len(self._x))
        return FlowJacobian(field, self._x[index], self.route, self.mode)

    def count(self, part: FlowJacobian, index: Tensor) -> None:
        """Count the calls made for some of the samples."""
        self.nfe = self.nfe.index_add(0, index, part.nfe)
        self.products = self.products.index_add(0, index, part.products)

    def _integrals(self, probes: Tensor, whole: bool) -> Tensor:
        """Return the integrals (B, N) along the flow, for one row of numbers each of the probes."""
        x, field = self._x, self._field
        d, count = math.prod(x.shape[1:]), probes[0].numel() if whole else probes.shape[1]
        start = torch.cat([x.flatten(1), x.new_zeros(len(x), 1 + count)], 1)
        norm = Nats(d, field.data_std)
        flow = _Augmented(field.model, x.shape[1:], self.mode, whole)
        try:
            solution = self.route.follow(Field(flow, {"probes": probes, **field.cond}), start, norm)
        except SolveError as error:
            error.x = error.x[:, :d].reshape(x.shape)
            raise
        if self._latent is None:
            self._latent = solution.x[:, :d].reshape(x.shape)
            if isinstance(self.route.solver, AdaptiveSolver) and solution.error is not None:
                self.error = norm.tolerance(self.route.solver) * solution.error
        self.nfe = self.nfe + solution.nfe
        self.products = self.products + solution.nfe * probes.shape[1]
        return solution.x[:, d + 1 :] / float(solution.levels[-1].radius(field.data_std))


@dataclass(frozen=True)
class Nats:
    """The size of an error of the state (x, r p, r q) in nats, as a share of a tolerance.

    log p(x_0) is that of x at any level and the log-determinant p so far, so that an error
    (dx, dp) of a step moves it by dp - eps . dx / sigma. Its size is the root of
    dp^2 + |dx|^2 / sigma^2, as eps is of unit size along any one direction.

    Attributes:
        dim: dimensions D of x.
        data_std: of the radius r.
    """

    dim: int
    data_std: float

    def tolerance(self, solver: AdaptiveSolver) -> float:
        """Return the nats that a step may err by: atol + rtol D."""
        return solver.atol + solver.rtol * self.dim

    def __call__(
        self, error: Tensor, before: Tensor, after: Tensor, level: Level, solver: AdaptiveSolver
    ) -> Tensor:
        of_x = lincomb((1.0 / level.sigma, error[:, : self.dim])).double()
        of_p = lincomb((1.0 / level.radius(self.data_std), error[:, self.dim, None])).double()
        size = torch.hypot(torch.linalg.vector_norm(of_x, dim=1), of_p[:, 0])
        return size / self.tolerance(solver)


def find_mode(field: Field, x: Tensor) -> Mode:
    """Return forward where the network takes forward mode, found out by one call on one sample.

    Operations without a forward derivative, checkpointed activations and work in place do not.
    """
    if not len(x):
        return "reverse"
    one = field.rows(torch.zeros(1, dtype=torch.long, device=x.device), len(x))
    level = field.sde.level(field.sde.t_min)
    with warnings.catch_warnings():
        # of torch, in loading its own derivatives
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        try:
            _forward(_flow(one.model, level, one.cond), x[:1], x[:1, None])
        except (RuntimeError, NotImplementedError):
            return "reverse"
    return "forward"


class _Augmented(BaseDenoiser):
    """A denoiser of the state (x, r p, r q), where q gathers products with the flow's Jacobian.

    q obeys dq/dphi = e^T (dv/dy) e, or (dv/dy) e, for every probe e. So r q is a coordinate like
    any other, whose v is that product, and every solver integrates it along. The network is called
    once for all. p is the trace that the probes make of it, sum e^T (dv/dy) e / sum e^T e / D,
    whatever they are: it tells an adaptive solver what the other errors are worth (`Nats`).
    """

    def __init__(self, model: BaseDenoiser, shape: torch.Size, mode: Mode, whole: bool) -> None:
        super().__init__(model.sde, model.data_std)
        self.model, self.shape, self.whole = model, shape, whole
        self.mode: Mode = mode

    def forward(self, x: Tensor, level: Level, *, probes: Tensor, **cond: Any) -> Prediction:
        data = x[:, : math.prod(self.shape)].reshape(-1, *self.shape)
        own = level.like(data)
        minus_v, pulled = products(_flow(self.model, own, cond), data, probes, self.mode)
        forms = (pulled * probes).flatten(2).sum(2)
        length = probes.square().flatten(1).sum(1, keepdim=True)
        trace = math.prod(self.shape) * forms.sum(1, keepdim=True) / length
        c = self.data_std
        gathered = torch.cat([trace, pulled.flatten(1) if self.whole else forms], 1)
        # dv/dy is r dv/dx
        slopes = lincomb((level.radius(c), gathered))
        full = torch.cat([minus_v.flatten(1), slopes], 1)
        return Prediction.of("edm", x, full, level, self.sde, c)


def _flow(model: BaseDenoiser, level: Level, cond: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """Return -v of the flow in the polar frame, as a function of x (B, *)."""
    c = model.data_std
    phi = level.angle(c)
    return lambda x: model(x, level, **cond).combine(x0=sin(phi) / c, eps=-cos(phi))


def products(
    flow: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor, mode: Mode
) -> tuple[Tensor, Tensor]:
    """Return a flow's value at x (B, *), and its Jacobian's products with probes (B, K, *)."""
    return (_forward if mode == "forward" else _reverse)(flow, x, probes)


def _forward(flow: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the flow (B, *) and its Jacobian's products J e (B, K, *) with probes e."""

    def along(e: Tensor) -> tuple[Tensor, Tensor]:
        out, pushed = torch.func.jvp(flow, (x,), (e,))[:2]
        return out, pushed

    out, pushed = torch.func.vmap(along, 1, chunk_size=_CHUNK)(probes)
    return out[0], pushed.movedim(0, 1)


def _reverse(flow: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the flow (B, *) and its Jacobian's products J^T e (B, K, *) with probes e."""
    keep = torch.is_grad_enabled()
    # by autograd and not torch.func, which knows no checkpointed activations; a product, since a
    # leaf would answer a network that writes to its input before the denoiser can
    with torch.enable_grad():
        x = x if keep and x.requires_grad else x.detach().requires_grad_()
        out = flow(1.0 * x)
    parts = [_pull(out, x, chunk, keep) for chunk in probes.split(_CHUNK, dim=1)]
    return out if keep else out.detach(), torch.cat(parts, 1)


def _pull(out: Tensor, x: Tensor, probes: Tensor, keep: bool) -> Tensor:
    if not out.requires_grad:
        return torch.zeros_like(probes)
    (pulled,) = torch.autograd.grad(
        out, x, probes.movedim(1, 0), is_grads_batched=True,
        retain_graph=True, create_graph=keep, materialize_grads=True,
    )  # fmt: skip
    return pulled.movedim(0, 1)


_CHUNK = 16  # probes that go through the network at once
