"""Traces that find the subspace where a matrix is large, and estimate the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scoresde.likelihood.jacobian import Jacobian
from scoresde.likelihood.probes import Probes, Rademacher, normals
from scoresde.likelihood.traces import Estimate, Trace, check_products, mean_of
from scoresde.noise import Noise


@dataclass(frozen=True)
class HutchPP(Trace):
    """Hutch++: the trace on the range of a third of the products, and Hutchinson's on the rest.

    With Q = orth(M S), k = n / 3 columns, and P = I - Q Q^T, tr(Q^T M Q) + mean of e^T P M P e
    (Meyer et al. 2021, arXiv:2010.09649, Algorithm 1). Exact where the rank is at most k. Takes
    two solves. Gradients are those of the estimate with Q held, which have no bias.

    Attributes:
        n: products in all; the standard error needs six.
        probes: law of S and e.

    Raises:
        ValueError: n that is no multiple of 3 from 3, or more than 3 D.
    """

    n: int = 24
    probes: Probes = field(default_factory=Rademacher)

    def __post_init__(self) -> None:
        check_products(self.n, 3)

    def estimate(self, jacobian: Jacobian, noise: Noise) -> Estimate:
        x, k = jacobian.like, self.n // 3
        _check_rank(self.n, k, x)
        q, _ = _orthogonal(jacobian.product(self.probes.draw(x, k, noise.fold(0))))
        e = self.probes.draw(x, k, noise.fold(1)).flatten(2).mT
        asked = torch.cat([q, e - q @ (q.mT @ e)], 2).mT
        values = jacobian.quadratic(asked.reshape(len(x), 2 * k, *x.shape[1:]))
        d = math.prod(x.shape[1:])
        rest = mean_of(values[:, k:], 0.0 if self.exact_in(d) else self.probes.left(k, d))
        return Estimate(values[:, :k].sum(1) + rest.trace, rest.stderr)

    def exact_in(self, d: int) -> bool:
        return self.n // 3 >= d


@dataclass(frozen=True)
class XTrace(Trace):
    """XTrace: every probe for the rest of the subspace that the others find.

    With Q_i = orth of M e_j, j != i, of k = n / 2 probes, and u_i = (I - Q_i Q_i^T) e_i,

        tr(Q_i^T M Q_i) + (D - k + 1) / |u_i|^2 u_i^T M u_i,

    averaged over i (Epperly, Tropp and Webber 2024, arXiv:2301.07825, Sec. 2.1 and 2.3). All are
    exact where the rank is below k. Takes two solves. The standard error is that of k independent
    estimates: too small where k is a good part of D and the rank is not low. Gradients are those
    of the estimate with Q held.

    Attributes:
        n: products in all; the standard error needs four.

    Raises:
        ValueError: n that is no multiple of 2 from 2, or more than 2 D.
    """

    n: int = 16

    def __post_init__(self) -> None:
        check_products(self.n, 2)

    def estimate(self, jacobian: Jacobian, noise: Noise) -> Estimate:
        x, k = jacobian.like, self.n // 2
        _check_rank(self.n, k, x)
        d, probes = math.prod(x.shape[1:]), normals(x, k, noise)
        product = jacobian.product(probes)
        q, r = _orthogonal(product)
        image = jacobian.product(q.mT.reshape(probes.shape)).flatten(2).mT
        e, y = probes.flatten(2).mT, product.flatten(2).mT
        # Q_i is the complement in Q of one direction s_i, which is orthogonal to the others' images
        s = _left_out(r)
        w = q.mT @ e
        kept = w - s * (s * w).sum(1, keepdim=True)
        u, mu = e - q @ kept, y - image @ kept
        h = q.mT @ image
        inside = h.diagonal(dim1=1, dim2=2).sum(1, keepdim=True) - (s * (h @ s)).sum(1)
        values = inside + (d - k + 1) * (u * mu).sum(1) / u.square().sum(1)
        return mean_of(values, 0.0 if self.exact_in(d) else 1.0)

    def exact_in(self, d: int) -> bool:
        return self.n // 2 >= d


def _orthogonal(product: Tensor) -> tuple[Tensor, Tensor]:
    """Return Q (B, D, K) and R (B, K, K) of products (B, K, *), without their gradients."""
    q, r = torch.linalg.qr(product.detach().flatten(2).mT)
    return q, r


def _left_out(r: Tensor) -> Tensor:
    """Return the unit vectors that are orthogonal to all columns of R but one, as columns."""
    size = r.diagonal(dim1=1, dim2=2)
    floor = torch.finfo(r.dtype).eps * size.abs().amax(1, keepdim=True).clamp(min=1e-30)
    # of a low rank R is singular, and any direction that completes the others does
    held = r + torch.diag_embed(torch.where(size.abs() < floor, floor, 0.0))
    identity = torch.eye(r.shape[1], dtype=r.dtype, device=r.device)
    inverse = torch.linalg.solve_triangular(held, identity.expand_as(r), upper=True).mT
    return inverse / inverse.norm(dim=1, keepdim=True)


def _check_rank(n: int, k: int, x: Tensor) -> None:
    d = math.prod(x.shape[1:])
    if k > d:
        raise ValueError(f"n={n}: finds a subspace of {k} dimensions, of {d}; take fewer products")
