"""The flow's Jacobian along the path of every sample, by its products with probes."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from scoresde.adaptive import Norm
from scoresde.analytic import Gaussian
from scoresde.denoiser import BaseDenoiser, Field, Prediction
from scoresde.errors import SolveError
from scoresde.gradients import Gradient
from scoresde.grids import Grid
from scoresde.integrate import Solution, integrate
from scoresde.likelihood.products import Mode, find_mode, flow_of, products
from scoresde.noise import SeededNoise
from scoresde.sde import Level
from scoresde.solvers import AdaptiveSolver, Solver
from scoresde.tensors import cos, lincomb, sin


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

    def flipped(self) -> Jacobian:
        """Return the integral of F dM F, where F are signs that change with the level."""
        ...

    def less(self, gaussian: Gaussian) -> tuple[Jacobian, float]:
        """Return M less the same of a Gaussian's flow, and the trace of what it is less."""
        ...


@dataclass
class _Found:
    """What the questions to a flow have found and cost so far."""

    nfe: Tensor
    products: Tensor
    latent: Tensor | None = None
    error: Tensor | None = None

    @staticmethod
    def nothing(x: Tensor) -> _Found:
        zeros = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return _Found(zeros, zeros)


@dataclass(frozen=True)
class Route:
    """How the flow is followed from t_min to T, in the terms of `scoresde.solve`."""

    solver: Solver
    grid: Grid | None = None
    steps: int | None = None
    nfe: int | None = None
    progress: bool = False
    gradient: Gradient | None = None

    def follow(self, field: Field, start: Tensor, norm: Norm) -> Solution:
        """Return the solve from a start."""
        return integrate(
            field, start, self.solver, SeededNoise(0), grid=self.grid, steps=self.steps,
            nfe=self.nfe, encode=True, progress=self.progress, gradient=self.gradient, norm=norm,
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
        mode, route: as above.
    """

    def __init__(self, field: Field, x: Tensor, route: Route, mode: Mode | None = None) -> None:
        self._field, self._x, self.route = field, x, route
        self.mode: Mode = mode or find_mode(field, x)
        self._found = _Found.nothing(x)
        self._flips, self._gaussian = False, None

    @property
    def like(self) -> Tensor:
        return self._x

    @property
    def nfe(self) -> Tensor:
        """Network calls so far, per sample (B,)."""
        return self._found.nfe

    @property
    def products(self) -> Tensor:
        """Products with the network's Jacobian so far, per sample (B,)."""
        return self._found.products

    @property
    def error(self) -> Tensor | None:
        """An adaptive solve's error in nats (B,), by the first question; None if that has flips."""
        return self._found.error

    @property
    def latent(self) -> Tensor:
        """The code at T (B, *), which the first question finds."""
        assert self._found.latent is not None, "nothing was asked of the flow"
        return self._found.latent

    @property
    def volume(self) -> float:
        """The log |det| that M does not know of, D log(r_T / r_0)."""
        before, after = self._radii()
        return math.prod(self._x.shape[1:]) * math.log(after / before)

    def quadratic(self, probes: Tensor) -> Tensor:
        return self._integrals(probes, whole=False).flatten(1)

    def product(self, probes: Tensor) -> Tensor:
        return self._integrals(probes, whole=True).reshape(probes.shape)

    def flipped(self) -> Self:
        """Return the integral of F (dv/dy) F dphi, of signs F = diag(+-1) that change with phi.

        The trace is that of M, and the diagonal. Elsewhere the signs make terms of either sign of
        what adds up in M. They are the same for every sample and seed.
        """
        other = copy.copy(self)  # one record of calls for both
        other._flips = True
        return other

    def less(self, gaussian: Gaussian) -> tuple[Self, float]:
        """Return M less the same of a Gaussian's flow, and the latter's trace.

        Along an axis of variance l the Gaussian's flow multiplies y = x / r by sqrt(V_T / V_0) r_0
        / r_T on the whole, with V = alpha^2 l + sigma^2, whatever the path.
        """
        other = copy.copy(self)
        other._gaussian = gaussian
        sde, (variances,) = self._field.sde, gaussian.variances.double()
        before, after = (
            float((level.alpha**2 * variances + level.sigma**2).log().sum())
            for level in (sde.level(sde.t_min), sde.level(sde.T))
        )
        return other, 0.5 * (after - before) - self.volume

    def rows(self, index: Tensor) -> Self:
        """Return the same for some of the samples, with no calls so far."""
        part = copy.copy(self)
        part._field, part._x = self._field.rows(index, len(self._x)), self._x[index]
        part._found = _Found.nothing(part._x)
        return part

    def count(self, part: FlowJacobian, index: Tensor) -> None:
        """Count the calls made for some of the samples."""
        found = self._found
        found.nfe = found.nfe.index_add(0, index, part.nfe)
        found.products = found.products.index_add(0, index, part.products)

    def _radii(self) -> tuple[float, float]:
        sde, c = self._field.sde, self._field.data_std
        return float(sde.level(sde.t_min).radius(c)), float(sde.level(sde.T).radius(c))

    def _integrals(self, probes: Tensor, whole: bool) -> Tensor:
        """Return the integrals (B, N) along the flow, for one row of numbers each of the probes."""
        x, field, found = self._x, self._field, self._found
        d, count = math.prod(x.shape[1:]), math.prod(probes.shape[1 : None if whole else 2])
        start = torch.cat([x.flatten(1), x.new_zeros(len(x), 1 + count)], 1)
        flow = _Augmented(field.model, x.shape[1:], self.mode, whole, self._flips, self._gaussian)
        norm, bound = Nats(d, field.data_std), {"probes": probes, **field.cond}
        try:
            solution = self.route.follow(Field(flow, bound), start, norm)
        except SolveError as error:
            error.x = error.x[:, :d].reshape(x.shape)
            raise
        if found.latent is None:
            found.latent = solution.x[:, :d].reshape(x.shape)
            off, solver = solution.error, self.route.solver
            if isinstance(solver, AdaptiveSolver) and off is not None and not self._flips:
                found.error = norm.tolerance(solver) * off
        found.nfe = found.nfe + solution.nfe
        found.products = found.products + solution.nfe * probes.shape[1]
        return solution.x[:, d + 1 :] / self._radii()[1]


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


class _Augmented(BaseDenoiser):
    """A denoiser of the state (x, r p, r q), where q gathers products with the flow's Jacobian.

    q obeys dq/dphi = e^T (dv/dy) e, or (dv/dy) e, for every probe e. So r q is a coordinate like
    any other, whose v is that product, and every solver integrates it along. The network is called
    once for all. p is the trace that the probes make of it, D sum e^T (dv/dy) e / sum e^T e,
    whatever they are: it tells an adaptive solver what errors of q are worth (`Nats`). Flipped
    signs make q rough, and no step smooths that: p is 0 then, and the steps are those of x alone.
    """

    def __init__(
        self,
        model: BaseDenoiser,
        shape: torch.Size,
        mode: Mode,
        whole: bool,
        flips: bool,
        gaussian: Gaussian | None,
    ) -> None:
        super().__init__(model.sde, model.data_std)
        self.model, self.shape, self.whole = model, shape, whole
        self.mode: Mode = mode
        self.flips, self.gaussian = flips, gaussian

    def forward(self, x: Tensor, level: Level, *, probes: Tensor, **cond: Any) -> Prediction:
        d = math.prod(self.shape)
        data = x[:, :d].reshape(-1, *self.shape)
        own, c = level.like(data), self.data_std
        signs = _signs(data, own)[:, None] if self.flips else None
        e = probes if signs is None else signs * probes
        minus_v, pulled = products(flow_of(self.model, own, cond), data, e, self.mode)
        # dv/dy is r dv/dx
        slopes = lincomb((level.radius(c), pulled.flatten(1))).reshape(probes.shape)
        if self.gaussian is not None:
            slopes = slopes + _gaussian_product(self.gaussian, level, c, e)
        slopes = slopes if signs is None else signs * slopes
        forms = (slopes * probes).flatten(2).sum(2)
        length = probes.square().flatten(1).sum(1, keepdim=True)
        trace = (0.0 if self.flips else d) * forms.sum(1, keepdim=True) / length
        gathered = slopes.flatten(1) if self.whole else forms
        full = torch.cat([minus_v.flatten(1), trace, gathered], 1)
        return Prediction.of("edm", x, full, level, self.sde, c)


def _signs(x: Tensor, level: Level) -> Tensor:
    """Return signs (1, *) or (B, *) that are a function of the level alone."""
    like = x if isinstance(level.t, Tensor) else x[:1]
    alike = torch.zeros(len(like), dtype=torch.long, device=x.device)
    draws = SeededNoise(0, indices=alike).normal(like, level.t)
    return torch.where(draws < 0, -1.0, 1.0).to(x.dtype)


def _gaussian_product(gaussian: Gaussian, level: Level, c: float, probes: Tensor) -> Tensor:
    """Return (dv/dy) e of a Gaussian's flow: d log(sqrt(V) / r) / dphi along its axes."""
    # a product a sample: those of the whole batch would be rounded as its size makes them
    flat, axes = probes.flatten(2), gaussian.axes[0].to(probes).expand(len(probes), -1, -1)
    share = gaussian.variances[0].to(probes) / c**2
    phi = level.angle(c)
    phi = phi.reshape(-1, 1, 1).to(probes) if isinstance(phi, Tensor) else phi
    s, k = sin(phi), cos(phi)
    rates = s * k * (1.0 - share) / (k * k * share + s * s)
    return (flat.bmm(axes) * rates).bmm(axes.mT).reshape(probes.shape)
