"""The Adams predictor-corrector in the polar frame: the default solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import require_integer
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.base import Solver, Step
from scoresde.solvers.frames import PolarFrame
from scoresde.solvers.interpolation import gauss
from scoresde.tensors import Scalar, Term, cos, lincomb, log, sin, tan

History = tuple[tuple[Scalar, Term], ...]
"""The last corrected values of v, newest first, each with its angle."""


@dataclass(frozen=True)
class AdamsPC(Solver):
    """Adams-Bashforth-Moulton on the probability flow in polar form, one network call a step.

    For data of deviation c let r = sqrt(alpha^2 c^2 + sigma^2), phi = atan2(sigma, alpha c) and
    y = x / r. Then every Gaussian diffusion has the probability flow

        dy/dphi = v(y, phi) = cos(phi) eps - sin(phi) x0 / c,

    and v = 0 for white Gaussian data of deviation c: the linear part of the flow costs no steps.
    v is interpolated by a polynomial in u = log tan(phi), which is -lam up to a constant, bent to
    stay finite at sigma = 0 and at alpha = 0.

    A step corrects the state it is given with the prediction made there (Moulton, one order
    above), moves v along with it, and extrapolates from the corrected state (Bashforth). The
    corrector so reuses the call of the predictor, as UniC does for data prediction (Zhao et al.
    2023, arXiv:2302.04867). Predictor-corrector pairs of this kind: Hairer, Norsett and Wanner
    1993, Solving Ordinary Differential Equations I, Sec. III.1.

    How v moves with x decides whether many nodes pay on few steps. It follows from how much of
    the move dx the expected data make, d x0 = theta dx / alpha: all of it where the data fill the
    space (eps stays), none where they are points (x0 stays). No network call tells; theta = 1/3
    does well on mixtures of Gaussians from 2 to 512 dimensions.

    Old values far in lam from where a step ends say little of it, and are left out: the second of
    a line beyond 3.5, those of a curve beyond 1.5. Long steps are so of lower order, and do not
    carry a learned network's wiggles far. Distance in u would not do: it shrinks towards alpha = 0,
    where steps grow, and a curve through values on growing steps magnifies their wiggles; those of
    a network of eps rise as 1 / alpha besides.

    Attributes:
        order: nodes of the predictor, from 1 to 4. The corrector lifts the order of the error to
            order + 1, of which the start from one node leaves 3 in the limit of many steps.

    Raises:
        ValueError: another order.
    """

    order: int = 4
    stochastic = False

    def __post_init__(self) -> None:
        require_integer(self.order, "order", 1, 4)

    def step(
        self,
        field: Field,
        x: Tensor,
        here: Level,
        there: Level,
        state: History | None,
        noise: Noise,
    ) -> Step:
        c = field.data_std
        terms, surprise, gain, angles = self._evaluate(field, x, here, state or ())
        # v moves with y by cot(phi) at constant x0, and by -tan(phi) at constant eps
        tangent = tan(angles[0])
        swing = ((1.0 - _SHARE) / tangent - _SHARE * tangent) * gain if state else 0.0
        end = there.angle(c)
        weights = bashforth(end, angles[: self.order])
        weights += (0.0,) * (len(terms) - len(weights))
        shift = gain + weights[0] * swing
        r = there.radius(c)
        ahead = tuple(r * (w + shift * s) for w, s in zip(weights, surprise, strict=True))
        new = lincomb((r / here.radius(c), x), *_scaled(ahead, terms))
        corrected = tuple(float(j == 0) + swing * s for j, s in enumerate(surprise))
        v = terms[0] if state is None else (1.0, lincomb(*_scaled(corrected, terms)))
        return Step(new, ((angles[0], v), *(state or ()))[: self.order])

    def finish(
        self, field: Field, x: Tensor, here: Level, state: History | None, noise: Noise
    ) -> Step:
        """Return x0 = c (cos(phi) y - sin(phi) v), of the corrected y and v."""
        c = field.data_std
        terms, surprise, gain, angles = self._evaluate(field, x, here, state or ())
        shift = _SHARE * gain / cos(angles[0])  # cos(phi) dy - sin(phi) dv
        sine = sin(angles[0])
        weights = tuple(c * (shift * s - sine * (j == 0)) for j, s in enumerate(surprise))
        start = c * cos(angles[0]) / here.radius(c)
        return Step(lincomb((start, x), *_scaled(weights, terms)))

    def _evaluate(
        self, field: Field, x: Tensor, here: Level, state: History
    ) -> tuple[tuple[Term, ...], tuple[Scalar, ...], Scalar, tuple[Scalar, ...]]:
        """Call the network, and return what the corrector makes of it.

        Returns:
            terms: v here and at the nodes of the history.
            surprise: coefficients, over terms, of v here less its extrapolation from the history.
            gain: what the corrector adds to y, as a multiple of the surprise.
            angles: of the terms.
        """
        terms = (PolarFrame().term(field, x, here), *(term for _, term in state))
        angles = (here.angle(field.data_std), *(angle for angle, _ in state))
        if not state:
            return terms, (1.0,), 0.0, angles
        surprise, gain = moulton(angles)
        return terms, surprise, gain, angles


def bashforth(there: Scalar, angles: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    """Return the weights of v at angles, newest first, in the integral from angles[0] to there.

    What lies too far from `there` has the weight 0.
    """
    points = _quadrature(angles[0], there)

    def weigh(near: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        nodes = tuple(map(_coordinate, near))
        return tuple(sum(w * _lagrange(u, j, nodes) for u, w in points) for j in range(len(nodes)))

    return _of_near(weigh, there, angles)


def moulton(angles: tuple[Scalar, ...]) -> tuple[tuple[Scalar, ...], Scalar]:
    """Return the corrector of the step from angles[1] to angles[0].

    The interpolant through all angles and the one through the old angles differ by the surprise,
    v_0 less the extrapolation of the old ones, times the Lagrange polynomial of angles[0]. The old
    angles are those that `bashforth` takes.

    Returns:
        surprise: coefficients of the surprise over v at angles.
        gain: integral of that Lagrange polynomial over the step.
    """
    new, points = _coordinate(angles[0]), _quadrature(angles[1], angles[0])

    def weigh(near: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        old = tuple(map(_coordinate, near))
        gain = sum(w * _lagrange(u, 0, (new, *old)) for u, w in points)
        return gain, 1.0, *(-_lagrange(new, j, old) for j in range(len(old)))

    gain, *surprise = _of_near(weigh, angles[0], angles[1:])
    return tuple(surprise), gain


def _of_near(
    weigh: Callable[[tuple[Scalar, ...]], tuple[Scalar, ...]],
    end: Scalar,
    angles: tuple[Scalar, ...],
) -> tuple[Scalar, ...]:
    """Return the weights of the newest angle and of those within reach of `end`; 0 for others."""
    at = _log_tan(end, _FINE, _LEAST)
    near: list[Any] = [
        abs(_log_tan(angle, _FINE, _LEAST) - at) <= reach
        for angle, reach in zip(angles[1:], _REACH, strict=False)
    ]
    if not isinstance(end, Tensor):
        count = 1 + sum(near)
        return weigh(angles[:count]) + (0.0,) * (len(angles) - count)
    weights = weigh(angles[:1]) + (0.0,) * (len(angles) - 1)
    for count, reached in enumerate(near, 2):
        more = weigh(angles[:count]) + (0.0,) * (len(angles) - count)
        pairs = zip(more, weights, strict=True)
        weights = tuple(torch.where(reached, *map(torch.as_tensor, pair)) for pair in pairs)
    return weights


def _quadrature(start: Scalar, stop: Scalar) -> list[tuple[Scalar, Scalar]]:
    """Return Gauss-Legendre points, as coordinates u, and weights over an interval of angles."""
    return [(_coordinate(phi), weight) for phi, weight in gauss(start, stop, 8)]


def _coordinate(phi: Scalar) -> Scalar:
    return _log_tan(phi, _BEND, _BEND)


def _log_tan(phi: Scalar, low: float, high: float) -> Scalar:
    return log((sin(phi) + low) / (cos(phi) + high))


def _lagrange(u: Scalar, j: int, nodes: tuple[Scalar, ...]) -> Scalar:
    value: Scalar = 1.0
    for i, node in enumerate(nodes):
        if i != j:
            value = value * (u - node) / (nodes[j] - node)
    return value


def _scaled(weights: tuple[Scalar, ...], terms: tuple[Term, ...]) -> list[Term]:
    return [(w * c, y) for w, (c, y) in zip(weights, terms, strict=True)]


# theta: what the expected data make of a correction of the state
_SHARE = 1.0 / 3.0

# how far back, in lam, the values of v are of use that are older than the newest
_REACH = (3.5, 1.5, 1.5)

# sines and cosines below this count as 0 in u; there v is a polynomial in sigma, or in alpha
_BEND = 0.1

# And in lam, that it may be finite. Noise finer than this is all alike. Of alpha only the rounding
# of a right angle counts as 0: towards it an eps or score network's error in v grows as 1 / alpha.
_FINE, _LEAST = 0.01, 1e-6
