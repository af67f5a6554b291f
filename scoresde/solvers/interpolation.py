"""Integrals of interpolated slopes: the weights of every multistep method.

A multistep method on dy/du = slope puts a polynomial in some coordinate z through the slopes at
the nodes behind it, and integrates that over u. Everything here is a function of lam, in which
frames and coordinates are smooth.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from scoresde.denoiser import Field
from scoresde.solvers.frames import Frame
from scoresde.solvers.phi import phi
from scoresde.tensors import Scalar, atan2, exp, expm1


class Coordinate(ABC):
    """What a slope is taken to be a polynomial in."""

    @abstractmethod
    def at(self, lam: Scalar, field: Field) -> Scalar:
        """Return z where the half log-SNR is lam."""


@dataclass(frozen=True)
class Lam(Coordinate):
    """The half log-SNR, lam = log(alpha / sigma)."""

    def at(self, lam: Scalar, field: Field) -> Scalar:
        return lam


@dataclass(frozen=True)
class Time(Coordinate):
    """The process's own time, t."""

    def at(self, lam: Scalar, field: Field) -> Scalar:
        return field.sde.t_at(lam)


@dataclass(frozen=True)
class Rho(Coordinate):
    """The ratio of noise to data, rho = sigma / alpha."""

    def at(self, lam: Scalar, field: Field) -> Scalar:
        return exp(-lam)


@dataclass(frozen=True)
class Phi(Coordinate):
    """The angle phi = atan2(sigma, alpha c), for data of deviation c."""

    def at(self, lam: Scalar, field: Field) -> Scalar:
        return atan2(exp(-lam), field.data_std)


class Blend(ABC):
    """How a straight line in lam, through the slopes at two nodes, is integrated.

    UniPC (Zhao et al. 2023, arXiv:2302.04867) leaves a function B(h) of the step h = lam_s - lam_t
    open, whose every choice has the same order. From three nodes on it cancels, and the weights
    are those of the exact integral. At two nodes the one unknown is set to 1/2, and B stays.
    """

    @abstractmethod
    def moment(self, exact: Scalar, h: Scalar, rise: Scalar, rate: Scalar) -> Scalar:
        """Return the integral of lam - lam_t over u.

        Args:
            exact: the integral.
            h: the step, in lam.
            rise: the step, in u.
            rate: du/dlam at its end.
        """


@dataclass(frozen=True)
class Vary(Blend):
    """The exact integral: varying coefficients."""

    def moment(self, exact: Scalar, h: Scalar, rise: Scalar, rate: Scalar) -> Scalar:
        return exact


@dataclass(frozen=True)
class BH1(Blend):
    """B_1(h) = h: half of h^2, at the rate of the step's end."""

    def moment(self, exact: Scalar, h: Scalar, rise: Scalar, rate: Scalar) -> Scalar:
        return 0.5 * h * h * rate


@dataclass(frozen=True)
class BH2(Blend):
    """B_2(h) = e^h - 1: the trapezoidal rule, half of h times the step in u."""

    def moment(self, exact: Scalar, h: Scalar, rise: Scalar, rate: Scalar) -> Scalar:
        return 0.5 * h * rise


def adams_weights(
    frame: Frame,
    coordinate: Coordinate,
    blend: Blend,
    lams: Sequence[Scalar],
    stop: Scalar,
    field: Field,
) -> list[Scalar]:
    """Return the weights of slopes in the rise of y from the first node to `stop`.

    Args:
        frame: of y, u and the slopes.
        coordinate: what the interpolating polynomial is one in.
        blend: the integral of the polynomial through two nodes.
        lams: of the nodes, as half log-SNR.
        stop: the end, as half log-SNR.
        field: whose process it is.
    """
    nodes = [coordinate.at(lam, field) for lam in lams]
    integrals = _moments(frame, coordinate, nodes, lams[0], stop, field)
    if len(nodes) == 2:
        rate = frame.rate(stop, field.sde, field.data_std)
        integrals[1] = blend.moment(integrals[1], stop - lams[0], integrals[0], rate)
    return of_slopes(integrals, nodes)


def exponential_weights(
    lams: Sequence[Scalar], start: Scalar, stop: Scalar, rate: Scalar
) -> tuple[Scalar, ...]:
    """Return the integrals of rate e^{-rate (stop - lam)} L_j(lam), L_j being 1 at lams[j] only.

    Over lam from start to stop. In closed form: with s = lam - start and h = stop - start, the
    power s^k has the integral k! rate h^{k+1} phi_{k+1}(-rate h).
    """
    h = stop - start
    powers = [-expm1(-rate * h)]  # h may be infinite for one node
    for k in range(1, len(lams)):
        powers.append(math.factorial(k) * rate * h ** (k + 1) * phi(k + 1, -rate * h))
    nodes = [lam - start for lam in lams]
    integrals: list[Scalar] = []
    newton: list[Scalar] = [1.0]  # coefficients of (s - s_0) ... (s - s_{n-1}), lowest first
    for node in nodes:
        integrals.append(sum(c * power for c, power in zip(newton, powers, strict=False)))
        shifted = zip([0.0, *newton], [*newton, 0.0], strict=True)
        newton = [raised - node * c for raised, c in shifted]
    return tuple(of_slopes(integrals, nodes))


def _moments(
    frame: Frame,
    coordinate: Coordinate,
    nodes: Sequence[Scalar],
    start: Scalar,
    stop: Scalar,
    field: Field,
) -> list[Scalar]:
    """Return the integrals of Newton's polynomials, (z - z_0) ... (z - z_{n-1}), over u."""
    totals: list[Scalar] = [0.0 for _ in nodes]
    for lam, weight in gauss(start, stop, _points(stop - start)):
        z, value = coordinate.at(lam, field), weight * frame.rate(lam, field.sde, field.data_std)
        totals[0] = totals[0] + value
        for n, node in enumerate(nodes[:-1], 1):
            value = value * (z - node)
            totals[n] = totals[n] + value
    return totals


def of_slopes(integrals: Sequence[Scalar], nodes: Sequence[Scalar]) -> list[Scalar]:
    """Return the weights of the slopes, from those of their divided differences.

    The n-th divided difference has the slope at node j over prod_{i <= n, i != j} (z_j - z_i).
    """
    weights = []
    for j, node in enumerate(nodes):
        total, product = 0.0, 1.0
        for n, (other, integral) in enumerate(zip(nodes, integrals, strict=True)):
            product = product if n == j else product * (node - other)
            total = total if n < j else total + integral / product
        weights.append(total)
    return weights


def gauss(start: Scalar, stop: Scalar, points: int) -> list[tuple[Scalar, Scalar]]:
    """Return the points and the weights of Gauss-Legendre quadrature over an interval."""
    middle, half = 0.5 * (stop + start), 0.5 * (stop - start)
    return [(middle + half * x, half * w) for x, w in _GAUSS[points]]


def _points(span: Scalar) -> int:
    """Return how many points are good to rounding over a span in lam.

    phi, t and rho of lam are analytic but for poles and branch points pi / 2 from the real axis,
    of VP, say, so that the error falls by the factor p + sqrt(1 + p^2) a point, twice, with
    p = pi / span (Trefethen 2013, Approximation Theory and Approximation Practice, Thm. 19.3).
    """
    if isinstance(span, Tensor):
        return max(_GAUSS)  # the size of a sample's own step is not read
    return next((n for n, longest in _REACH.items() if abs(span) <= longest), max(_GAUSS))


_REACH = {5: 0.1, 6: 0.2, 8: 0.6, 10: 1.0, 16: 2.0, 32: 5.0, 64: 10.0}
_GAUSS = {
    n: tuple(zip(*(a.tolist() for a in np.polynomial.legendre.leggauss(n)), strict=True))
    for n in (*_REACH, 128)
}
