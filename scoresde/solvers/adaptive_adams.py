"""The Adams predictor-corrector with steps of every sample's own, one network call a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import require_integer
from scoresde.noise import Noise
from scoresde.sde import SDE, Level
from scoresde.solvers.base import Step
from scoresde.solvers.frames import PolarFrame
from scoresde.solvers.interpolation import gauss, of_slopes
from scoresde.solvers.runge_kutta import AdaptiveSolver, DormandPrince
from scoresde.tensors import Scalar, asinh, lincomb, sinh

History = tuple[Scalar, tuple[Scalar, ...], tuple[Tensor, ...]]
"""How many nodes are known; their angles and slopes, newest first, filled up to a fixed length."""


@dataclass(frozen=True)
class AdaptiveAdams(AdaptiveSolver):
    """Adams-Bashforth-Moulton of variable steps in the polar frame, one network call a step.

    On dy/dphi = v (`PolarFrame`), let p be the polynomial in u through the last k slopes, and u'
    the end of the step. Predict with p, find the slope v' there, and correct by its surprise:

        y' = y + int p dphi + g_k (v' - p(u')),    g_n = I_n / P_n,
        I_n = int (u - u_0) ... (u - u_{n-1}) dphi,    P_n = (u' - u_0) ... (u' - u_{n-1}).

    The error is (g_k - g_{k-1}) (v' - p(u')), by which the correctors of k + 1 and of k nodes
    differ: Milne's, of the lower order. Hairer, Norsett and Wanner 1993, Solving Ordinary
    Differential Equations I, Sec. III.5; Shampine and Gordon 1975, Computer Solution of Ordinary
    Differential Equations. The slope is kept as it was at the predicted state.

    Steps are even in u = asinh(phi / 0.2): in phi at low noise, where data with a density have
    smooth slopes, and in its logarithm above.

    A solve starts with few nodes, and k grows by one a step. One that starts at low noise has two
    from the first call: the score is a function of sigma^2, so that the flow goes on to -sigma
    with x even and v odd, and -v at -phi is a node. Where the data are thinner than the noise the
    estimate of the error tells, and steps stay short until these nodes are out.

    Attributes:
        rtol: relative tolerance.
        atol: absolute tolerance, in units of x.
        max_nfe: network calls that one sample may take, never exceeded.
        order: of the corrector, from 2 to 6; k is order - 1 at most.

    Raises:
        ValueError: as `AdaptiveSolver`; another order.
    """

    order: int = 6
    stochastic = False
    first = 0.02
    growth = 3.0

    def __post_init__(self) -> None:
        require_integer(self.order, "order", 2, 6)
        super().__post_init__()

    @property
    def back(self) -> DormandPrince:
        """The same steps the other way round would begin with the longest, at the lowest order."""
        return DormandPrince(self.rtol, self.atol, self.max_nfe)

    def nfe(self, steps: int, denoise: bool) -> int:
        return 1 + super().nfe(steps, denoise)

    def init(self, field: Field, x: Tensor, level: Level) -> History:
        phi, slope = level.angle(field.data_std), _FRAME.slope(field, x, level)
        size = self.order - 1
        # nodes that are not known yet have angles apart from all others
        angles = tuple((1.0 - 2.0 * n) * phi for n in range(size))
        slopes = (slope, -slope, *(slope,) * (size - 2))
        return _at_most(1 + (phi <= _BEND), size), angles, slopes[:size]

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: History, noise: Noise
    ) -> Step:
        count, angles, slopes = state
        size, c, end = len(slopes), field.data_std, there.angle(field.data_std)
        nodes, r = tuple(map(_coordinate, angles)), there.radius(c)
        integrals, products = _newton(nodes, angles[0], end)
        ahead = of_slopes([i * (n < count) for n, i in enumerate(integrals[:-1])], nodes)
        predicted = lincomb((r / here.radius(c), x), *_scaled(r, ahead, slopes))
        slope = _FRAME.slope(field, predicted, there)
        expected = of_slopes([p * (n < count) for n, p in enumerate(products[:-1])], nodes)
        surprise = lincomb((1.0, slope), *_scaled(-1.0, expected, slopes))
        # a sample that stays where it is has no step to divide by
        gains = [i / (p + (p == 0.0)) for i, p in zip(integrals, products, strict=True)]
        gain = _pick(gains, count)
        history = (end, *angles)[:size], (slope, *slopes)[:size]
        return Step(
            lincomb((1.0, predicted), (r * gain, surprise)),
            (_at_most(count + 1, size), *history),
            lincomb((r * (gain - _pick(gains, count - 1)), surprise)),
        )

    def position(self, level: Level, data_std: float) -> Scalar:
        return _coordinate(level.angle(data_std))

    def level(self, position: Scalar, sde: SDE, data_std: float) -> Level:
        phi = _BEND * sinh(position)
        return _FRAME.level(_at_most(phi, 0.5 * math.pi), sde, data_std)


def _newton(
    nodes: tuple[Scalar, ...], start: Scalar, end: Scalar
) -> tuple[list[Scalar], list[Scalar]]:
    """Return I_n and P_n of all n: integrals over a step, and values at its end."""

    def polynomials(phi: Scalar) -> list[Scalar]:
        u, values = _coordinate(phi), [1.0 + 0.0 * phi]
        for node in nodes:
            values.append(values[-1] * (u - node))
        return values

    rows = [[w * z for z in polynomials(phi)] for phi, w in gauss(start, end, 8)]
    return [sum(column) for column in zip(*rows, strict=True)], polynomials(end)


def _coordinate(phi: Scalar) -> Scalar:
    return asinh(phi / _BEND)


def _pick(values: list[Scalar], index: Scalar) -> Scalar:
    if not isinstance(index, Tensor):
        return values[int(index)]
    picked, *others = map(torch.as_tensor, values)
    for n, value in enumerate(others, 1):
        picked = torch.where(index == n, value, picked)
    return picked


def _at_most(value: Scalar, bound: float) -> Scalar:
    return value.clamp(max=bound) if isinstance(value, Tensor) else min(value, bound)


def _scaled(
    size: Scalar, weights: list[Scalar], slopes: tuple[Tensor, ...]
) -> list[tuple[Scalar, Tensor]]:
    return [(size * w, v) for w, v in zip(weights, slopes, strict=True)]


_FRAME = PolarFrame()

# u is phi below this angle, and its logarithm above
_BEND = 0.2
