"""Exponential Adams-Bashforth methods: multistep, one network call a step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import require_integer
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.base import Solver, Step, lacks_data
from scoresde.solvers.frames import EpsFrame, Frame, X0Frame
from scoresde.solvers.interpolation import Coordinate, Lam, Time, Vary, adams_weights
from scoresde.tensors import Scalar, Term, lincomb

History = tuple[tuple[Scalar, Term], ...]
"""The last slopes, newest first, each with its lam."""


class Multistep(Solver):
    """A multistep method: y moves by a weighted sum of the last slopes dy/du, in some frame.

    A subclass says which weights. A step from or to alpha = 0, where lam is infinite, is that of
    DDIM and leaves no history: it is the first of a solve, or the last of an encoding.

    Attributes:
        frame: where y and u are.
        nodes: the most slopes that a step sums up; the first steps have fewer.
    """

    frame: Frame
    nodes: int
    stochastic = False

    @abstractmethod
    def weights(self, lams: Sequence[Scalar], stop: Scalar, field: Field) -> Sequence[Scalar]:
        """Return the weights of the slopes at lams, newest first, in the rise of y to `stop`."""

    def step(
        self,
        field: Field,
        x: Tensor,
        here: Level,
        there: Level,
        state: History | None,
        noise: Noise,
    ) -> Step:
        if lacks_data(here) or lacks_data(there):
            return Step(field(x, here).combine(x0=there.alpha, eps=there.sigma))
        history = ((here.lam, self.frame.term(field, x, here)), *(state or ()))
        weights = self.weights([lam for lam, _ in history], there.lam, field)
        scale, before = (self.frame.scale(at, field.data_std) for at in (there, here))
        new = lincomb((scale / before, x), *weighted(scale, weights, history))
        return Step(new, history[: self.nodes - 1])


@dataclass(frozen=True)
class ExponentialAdams(Multistep):
    """Exponential Adams-Bashforth: the integral of a polynomial through the last slopes.

    y moves by the integral over u, which is good to rounding at steps of any size. In `X0Frame`
    the slope is x0, in `EpsFrame` eps, and in `PolarFrame` v: there the part that is solved
    exactly is the flow of white Gaussian data, and the method a Rosenbrock method. Hochbruck and
    Ostermann 2010, doi:10.1017/S0962492910000048.

    Attributes:
        order: nodes of the polynomial, from 1 to 4; the first steps have fewer.
        frame: the slopes in this frame are taken to be smooth,
        coordinate: as functions of this.

    Raises:
        ValueError: another order.
    """

    order: int = 3
    frame: Frame = X0Frame()
    coordinate: Coordinate = Lam()
    blend = Vary()
    most = 4

    def __post_init__(self) -> None:
        require_integer(self.order, "order", 1, self.most)

    @property
    def nodes(self) -> int:
        return self.order

    def weights(self, lams: Sequence[Scalar], stop: Scalar, field: Field) -> Sequence[Scalar]:
        return adams_weights(self.frame, self.coordinate, self.blend, lams, stop, field)


@dataclass(frozen=True)
class DEIS(ExponentialAdams):
    """DEIS: exponential Adams-Bashforth on eps, in t or in rho = sigma / alpha.

    With P the polynomial through the last eps,

        x_s / alpha_s = x_t / alpha_t + integral of P drho from t to s

    (Zhang and Chen 2022, arXiv:2204.13902, Sec. 3). `Time()` gives their tAB and `Rho()` their
    rhoAB: Adams-Bashforth with variable steps for x / alpha in rho, which is also known as LMS
    and as the variable-step iPNDM.

    Attributes:
        order: from 1 to 4, one more than the degree by which the paper counts; 1 is DDIM.
        coordinate: what eps is interpolated in.

    Raises:
        ValueError: another order.
    """

    frame: Frame = field(default=EpsFrame(), init=False, repr=False)
    coordinate: Coordinate = Time()


def weighted(scale: Scalar, weights: Sequence[Scalar], history: History) -> list[Term]:
    """Return the terms of a weighted sum of slopes, times a scale."""
    return [(scale * w * c, y) for w, (_, (c, y)) in zip(weights, history, strict=True)]
