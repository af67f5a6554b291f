"""DPM-Solver: single-step exponential methods in lam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import require_integer
from scoresde.noise import Noise
from scoresde.sde import SDE, Level
from scoresde.solvers.base import Solver, Step
from scoresde.solvers.frames import EpsFrame, Frame, LogFrame, X0Frame
from scoresde.solvers.phi import phi1, phi2
from scoresde.solvers.runge_kutta import AdaptiveSolver
from scoresde.solvers.tableau import Tableau
from scoresde.tensors import Scalar, exp

_EPS, _X0 = LogFrame(EpsFrame()), LogFrame(X0Frame())


class _SingleStep(Solver):
    """An exponential Runge-Kutta method of order 1, 2 or 3 on eps or x0, in lam."""

    frame: ClassVar[Frame]
    order: int
    stochastic = False

    def __post_init__(self) -> None:
        require_integer(self.order, "order", 1, 3)

    @property
    def evals(self) -> int:
        return self.order

    def init(self, field: Field, x: Tensor, level: Level) -> None:
        self.frame.check(self, field.sde, level)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: None, noise: Noise
    ) -> Step:
        self.frame.check(self, field.sde, there)  # an encoding may end where it cannot start
        return Step(_step(self.order, self.frame, field, x, here, there))


@dataclass(frozen=True)
class DPMSolver(_SingleStep):
    """Single-step DPM-Solver: the exact integral of a polynomial for eps in lam.

    Order 1 is DDIM, order 2 the midpoint rule, order 3 has its stages at 1/3 and 2/3 of the step
    in lam, with order calls a step (Lu et al. 2022, arXiv:2206.00927, Algs. 1, 2).

    Attributes:
        order: 1, 2 or 3.

    Raises:
        ValueError: another order; at the start of a solve, alpha = 0, where lam is infinite.
    """

    order: int = 2
    frame = _EPS


@dataclass(frozen=True)
class DPMSolverPPSingle(_SingleStep):
    """Single-step DPM-Solver++: the exact integral of a polynomial for x0 in lam.

    Order 2 is DPM-Solver++(2S) with r = 1/2 (Lu et al. 2022, arXiv:2211.01095, Alg. 1), and order
    3 is to it as DPM-Solver-3 is to DPM-Solver-2. Order 1 is DDIM.

    Attributes:
        order: 1, 2 or 3.

    Raises:
        ValueError: another order; at the start of a solve, alpha = 0, where lam is infinite.
    """

    order: int = 2
    frame = _X0


@dataclass(frozen=True)
class DPMSolverFast(Solver):
    """DPM-Solver with the orders that use up a budget of network calls.

    Steps of order 3 as long as more than 3 calls are left, then of order 2 and 1: 3, ..., 3, 2, 1
    or 3, ..., 3, 1 or 3, ..., 3, 2 (Lu et al. 2022, arXiv:2206.00927, Sec. 3.4). Steps beyond the
    budget are of order 1. The call of the step to sigma = 0 comes on top:

        sample(model, shape, solver=DPMSolverFast(19), nfe=20)

    Attributes:
        calls: network calls from T to t_min.

    Raises:
        ValueError: calls below 1; at the start of a solve, alpha = 0, where lam is infinite.
    """

    calls: int = 19
    order = 2
    stochastic = False
    evals = 3

    def __post_init__(self) -> None:
        require_integer(self.calls, "calls", 1)

    def init(self, field: Field, x: Tensor, level: Level) -> int:
        _EPS.check(self, field.sde, level)
        return self.calls

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: int, noise: Noise
    ) -> Step:
        """Step with the order that the calls left (`state`) allow."""
        _EPS.check(self, field.sde, there)
        order = _order_for(state)
        return Step(_step(order, _EPS, field, x, here, there), state - order)

    def nfe(self, steps: int, denoise: bool) -> int:
        left = self.calls
        for _ in range(steps - denoise):
            left -= _order_for(left)
        return self.calls - left + denoise


@dataclass(frozen=True)
class DPMSolverAdaptive(AdaptiveSolver):
    """DPM-Solver-12 and -23: single-step DPM-Solver with the next lower order embedded.

    Steps are measured in lam. The lower orders are DDIM, and DPM-Solver-2 with r1 = 1/3 (Lu et
    al. 2022, arXiv:2206.00927, App. C); the step size is that of every sample by itself.

    Attributes:
        order: 2 or 3, the higher of the two.

    Raises:
        ValueError: another order; at the start of a solve, alpha = 0 at T, where lam is infinite.
    """

    order: int = 3
    stochastic = False

    def __post_init__(self) -> None:
        require_integer(self.order, "order", 2, 3)
        super().__post_init__()

    @property
    def evals(self) -> int:
        return self.order

    def init(self, field: Field, x: Tensor, level: Level) -> Tensor:
        _EPS.check(self, field.sde, field.sde.level(field.sde.T))
        return x  # it has no history

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Tensor, noise: Noise
    ) -> Step:
        tableau = _tableau(self.order, _length(_EPS, field, here, there))
        first = _EPS.term(field, x, here)
        new, slopes = tableau.step(_EPS, field, x, here, there, first)
        (error,) = tableau.estimates(_EPS, field, here, there, slopes)
        return Step(new, new, error)

    def position(self, level: Level, data_std: float) -> Scalar:
        return -level.lam  # infinite where alpha is 0, for init to refuse

    def level(self, position: Scalar, sde: SDE, data_std: float) -> Level:
        return _EPS.level(position, sde, data_std)


def _order_for(calls: int) -> int:
    """Return the order of the next step, for the calls that are left."""
    return 3 if calls > 3 else 2 if calls > 1 else 1


def _step(order: int, frame: Frame, field: Field, x: Tensor, here: Level, there: Level) -> Tensor:
    tableau = _tableau(order, _length(frame, field, here, there))
    return tableau.step(frame, field, x, here, there, frame.term(field, x, here))[0]


def _length(frame: Frame, field: Field, here: Level, there: Level) -> Scalar:
    return frame.variable(there, field.data_std) - frame.variable(here, field.data_std)


def _tableau(order: int, h: Scalar) -> Tableau:
    """Return the coefficients of a step of h in w = log u, for slopes dy/dw = u k.

    With k = k0 + (w - w0) k' from there on, y moves by u h (phi1(-h) k0 + h phi2(-h) k'), where u
    is that of the end: larger by e^{(1 - c) h} than that of a slope at the share c of the step.
    """
    if order == 1:
        return Tableau((), (), (phi1(h),))
    if order == 2:
        whole = phi1(-h) * exp(0.5 * h)
        return Tableau((1 / 2,), ((0.5 * phi1(0.5 * h),),), (0.0, whole), ((-phi1(h), whole),))
    s = 2.0 / 3.0 * h
    second = (phi1(-s) - 2.0 * phi2(-s)) * exp(s), 2.0 * phi2(-s) * exp(0.5 * s)
    rows = ((phi1(h / 3.0) / 3.0,), tuple(2.0 / 3.0 * a for a in second))
    start, middle, end = exp(h), exp(s), exp(h / 3.0)
    bend = 1.5 * phi2(-h)
    weights = ((phi1(-h) - bend) * start, 0.0, bend * end)
    # less those of order 2 through the stage at 1/3: -phi1 / 2 and 3 phi1 / 2
    errors = ((1.5 * phi1(-h) - bend) * start, -1.5 * phi1(-h) * middle, bend * end)
    return Tableau((1 / 3, 2 / 3), rows, weights, (errors,))
