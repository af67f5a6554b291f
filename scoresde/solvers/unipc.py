"""UniPC: exponential Adams with a corrector that costs no network call, for any solver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from scoresde.denoiser import Field, Prediction
from scoresde.errors import require_integer, require_kind
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.adams import AdamsPC
from scoresde.solvers.base import Corrector, Solver, Step, lacks_data
from scoresde.solvers.dpm_solver_pp import DPMSolverPP
from scoresde.solvers.frames import EpsFrame, Frame, X0Frame
from scoresde.solvers.interpolation import BH2, Blend, Coordinate, Lam, adams_weights
from scoresde.solvers.multistep import ExponentialAdams, History, weighted
from scoresde.solvers.runge_kutta import AdaptiveSolver
from scoresde.solvers.stochastic_adams import SASolver, StochasticAdamsPC
from scoresde.tensors import Scalar, Term, lincomb


@dataclass(frozen=True)
class UniP(ExponentialAdams):
    """UniP, the predictor of UniPC: exponential Adams-Bashforth in lam.

    Zhao et al. 2023, arXiv:2302.04867, Alg. 2. With `BH2()` on x0 it is `DPMSolverPP`, and with
    `Vary()` it is `ExponentialAdams`.

    Attributes:
        order: from 1 to 6, beyond which few steps are lost; 1 is DDIM in `X0Frame` and `EpsFrame`.
        frame: `X0Frame()` for data prediction, `EpsFrame()` for noise prediction.
        blend: `BH1()`, `BH2()` or `Vary()`: the function B, for steps that interpolate two slopes.

    Raises:
        ValueError: another order.
    """

    order: int = 2
    frame: Frame = X0Frame()
    coordinate: Coordinate = field(default=Lam(), init=False, repr=False)
    blend: Blend = BH2()
    most = 6


@dataclass(frozen=True)
class UniPC(UniP):
    """UniPC: UniP, and UniC with as many nodes, at one network call a step.

    A step corrects the state it is given with the prediction made there, and goes on from the
    corrected state with the same prediction (Zhao et al. 2023, arXiv:2302.04867). Both moves are
    weighted sums of the same slopes, and made at once. At sigma = 0 the solve ends from the
    corrected state, whose eps is the one predicted.

    Attributes:
        order: of the predictor, from 1 to 6. The corrector lifts the order of the error to
            order + 1, of which the start from one node leaves 3 in the limit of many steps.
        frame: `X0Frame()` for data prediction, `EpsFrame()` for noise prediction.
        blend: `BH1()`, `BH2()` or `Vary()`: the function B, for steps that interpolate two slopes.

    Raises:
        ValueError: another order.
    """

    order: int = 3

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
            return super().step(field, x, here, there, state, noise)
        history = ((here.lam, self.frame.term(field, x, here)), *(state or ()))
        lams = [lam for lam, _ in history]
        ahead = [*self.weights(lams[: self.order], there.lam, field), 0.0]
        weights = [w + c for w, c in zip(ahead, self._correction(lams, field), strict=False)]
        scale, before = (self.frame.scale(at, field.data_std) for at in (there, here))
        new = lincomb((scale / before, x), *weighted(scale, weights, history))
        return Step(new, history[: self.order])

    def finish(
        self, field: Field, x: Tensor, here: Level, state: History | None, noise: Noise
    ) -> Step:
        prediction = field(x, here)
        if not state:
            return Step(prediction.x0)
        of_x0, of_eps = self.frame.coefficients(here, field.sde, field.data_std)
        history = ((here.lam, prediction.term(x0=of_x0, eps=of_eps)), *state)
        correction = self._correction([lam for lam, _ in history], field)
        share = self.frame.scale(here, field.data_std) / here.alpha  # x0 moves by dx / alpha
        return Step(lincomb((1.0, prediction.x0), *weighted(share, correction, history)))

    def _correction(self, lams: Sequence[Scalar], field: Field) -> list[Scalar]:
        """Return what the corrector adds to the last rise of y, as weights of the slopes."""
        new, *old = lams
        if not old:
            return [0.0]
        predicted = self.weights(old, new, field)
        corrected = corrector_weights(self.frame, self.blend, lams, field)
        return [c - p for c, p in zip(corrected, (0.0, *predicted), strict=True)]


@dataclass(frozen=True)
class UniC(Solver):
    """UniC, the corrector of UniPC, on any solver of the flow that does not correct itself.

    The step that led to a state is made again from the corrected state before it, by the
    polynomial through the last slopes and the one at the state itself (Zhao et al. 2023,
    arXiv:2302.04867, Alg. 1). The solver goes on from the corrected state, and is handed the slope
    that is known: no network call is added. Its order becomes
    min(order, nodes) + 1.

    Attributes:
        solver: deterministic, on a fixed grid, and with its first call at the start of a step.
        nodes: slopes that the corrector takes beside the newest, p of UniC-p.
        frame: where the corrector's slopes are: x0 in `X0Frame()`, eps in `EpsFrame()`.
        blend: `BH1()`, `BH2()` or `Vary()`: the function B, for steps that interpolate two slopes.

    Raises:
        TypeError: what is no solver.
        ValueError: nodes outside 1 to 6; a solver that draws noise, chooses its steps, stays at a
            level or corrects itself.
    """

    solver: Solver = DPMSolverPP()
    nodes: int = 2
    frame: Frame = X0Frame()
    blend: Blend = BH2()
    stochastic = False

    def __post_init__(self) -> None:
        require_kind(self.solver, Solver, "solver")
        require_integer(self.nodes, "nodes", 1, UniP.most)
        unfit = isinstance(self.solver, (AdaptiveSolver, Corrector)) or _corrects(self.solver)
        if unfit or self.solver.stochastic:
            raise ValueError(
                f"solver={self.solver}: UniC goes on a deterministic solver for fixed grids that "
                f"does not correct itself, such as DPMSolverPP()"
            )

    @property
    def order(self) -> int:
        return min(self.solver.order, self.nodes) + 1

    @property
    def evals(self) -> int:
        return self.solver.evals

    def nfe(self, steps: int, denoise: bool) -> int:
        return self.solver.nfe(steps, denoise)

    def init(self, field: Field, x: Tensor, level: Level) -> _State:
        return None, self.solver.init(field, x, level)

    def step(
        self,
        field: Field,
        x: Tensor,
        here: Level,
        there: Level,
        state: _State | None,
        noise: Noise,
    ) -> Step:
        past, inner = state or (None, None)
        prediction = field(x, here)
        corrected, slopes = self._correct(field, x, here, prediction, past)
        if corrected is not x:
            prediction = _moved(corrected, self.frame, slopes[0][1], here, field)
        known = _Known(field, here, prediction)
        new, inner, _ = self.solver.step(known, corrected, here, there, inner, noise)
        field.nfe += known.nfe
        scale = self.frame.scale(here, field.data_std)
        return Step(new, (_Past(scale, corrected, new, slopes) if slopes else None, inner))

    def finish(
        self, field: Field, x: Tensor, here: Level, state: _State | None, noise: Noise
    ) -> Step:
        past, inner = state or (None, None)
        prediction = field(x, here)
        corrected, _ = self._correct(field, x, here, prediction, past)
        if corrected is not x:
            prediction = _moved(corrected, EpsFrame(), prediction.term(eps=1.0), here, field)
        known = _Known(field, here, prediction)
        return self.solver.finish(known, corrected, here, inner, noise)

    def _correct(
        self, field: Field, x: Tensor, here: Level, prediction: Prediction, past: _Past | None
    ) -> tuple[Tensor, History]:
        """Return the corrected x, and the slopes with that of the prediction."""
        if lacks_data(here):  # lam is no node of a polynomial
            return x, ()
        of_x0, of_eps = self.frame.coefficients(here, field.sde, field.data_std)
        newest = (here.lam, prediction.term(x0=of_x0, eps=of_eps))
        if past is None:
            return x, (newest,)
        history = (newest, *past.slopes)
        weights = corrector_weights(self.frame, self.blend, [lam for lam, _ in history], field)
        scale = self.frame.scale(here, field.data_std)
        # a state that was moved after the step stays moved
        since = () if x is past.new else ((1.0, x), (-1.0, past.new))
        start = (scale / past.scale, past.x)
        return lincomb(start, *weighted(scale, weights, history), *since), history[: self.nodes]


class _Past(NamedTuple):
    """The step that led to a state.

    Attributes:
        scale: x / y where it started.
        x: the corrected state there.
        new: the state that it led to.
        slopes: the last ones, newest first, each with its lam.
    """

    scale: Scalar
    x: Tensor
    new: Tensor
    slopes: History


_State = tuple[_Past | None, Any]
"""The last step, if it can be corrected, and the state of the solver that is corrected."""


def corrector_weights(
    frame: Frame, blend: Blend, lams: Sequence[Scalar], field: Field
) -> list[Scalar]:
    """Return the weights of slopes, newest first, in the rise of y to the newest from the last."""
    new, last, *older = lams
    start, end, *others = adams_weights(frame, Lam(), blend, [last, new, *older], new, field)
    return [end, start, *others]


def _corrects(solver: Solver) -> bool:
    """Say whether a solver, or one that it wraps, makes the step that led to a state again."""
    if isinstance(solver, SASolver):
        return solver.corrector > 0
    wrapped = getattr(solver, "solver", None)
    own = isinstance(solver, (AdamsPC, StochasticAdamsPC, UniC, UniPC))
    return own or (isinstance(wrapped, Solver) and _corrects(wrapped))


class _Known(Field):
    """A field whose prediction at one level has been made, and is handed out again.

    Its `nfe` are the calls that a solver made past it, on fields of its own for some rows.
    """

    def __init__(self, field: Field, level: Level, prediction: Prediction) -> None:
        super().__init__(field.model, field.cond)
        self.field, self.level, self.prediction = field, level, prediction

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        return self.prediction if level is self.level else self.field(x, level)


def _moved(x: Tensor, frame: Frame, slope: Term, level: Level, field: Field) -> Prediction:
    """Return a prediction at another x that has the same slope a x0 + b eps in a frame."""
    a, b = frame.coefficients(level, field.sde, field.data_std)
    share, out = slope
    alpha, sigma = level.alpha, level.sigma
    w = b * alpha - a * sigma
    of_x0, of_eps = (b / w, -sigma * share / w), (-a / w, alpha * share / w)
    return Prediction(x, out, level.like(x), field.sde, of_x0, of_eps)
