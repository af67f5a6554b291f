"""Stochastic exponential Adams methods: multistep on the reverse SDE, one network call a step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import require_integer
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.base import Step, lacks_data
from scoresde.solvers.interpolation import exponential_weights
from scoresde.solvers.reverse import ReverseSolver, Tau, reverse_kernel
from scoresde.tensors import Scalar, Term, expm1, lincomb

Weights = tuple[Scalar, ...]
"""One weight for each node, newest first."""


class Past(NamedTuple):
    """What a step leaves for the next.

    Attributes:
        rate: 1 + tau^2 of the step.
        nodes: the last predictions of x0, newest first, each with its lam.
    """

    rate: Scalar
    nodes: tuple[tuple[Scalar, Term], ...]


class StochasticAdams(ReverseSolver):
    """A multistep method on x0, in lam, for the exact form of a step of the reverse SDE.

        x_s = sigma_s / sigma_t e^{-tau^2 h} x_t + sigma_s sqrt(1 - e^{-2 tau^2 h}) z
              + alpha_s * integral of rate e^{-rate (lam_s - lam)} x0(lam) dlam from t to s,

    with h = lam_s - lam_t and rate = 1 + tau^2 (Xue et al. 2023, arXiv:2309.05019, eqs. 11-14). A
    subclass says with which weights the last x0 stand for the integral, and may correct the step
    before with the prediction made at its end: the corrected step has the noise it had.

    Attributes:
        memory: predictions that a step leaves for the next.
        carry: x0 moves by this share of dx / alpha where a correction moves x by dx.
    """

    memory: int
    carry: float = 0.0

    @abstractmethod
    def predict(self, lams: Sequence[Scalar], stop: Scalar, rate: Scalar) -> Weights:
        """Return the weights of the first x0 at lams, over the step from lams[0] to stop."""

    def correct(self, lams: Sequence[Scalar], rate: Scalar) -> Weights:
        """Return by how much the weights of the step from lams[1] to lams[0] change."""
        return ()

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Past | None, noise: Noise
    ) -> Step:
        if lacks_data(there):  # lam = -inf: what an encoding ends with, at tau = 0
            return Step(field(x, here).combine(eps=there.sigma))
        lams, terms, change = self._evaluate(field, x, here, state)
        tau = self.amount(here)
        rate = 1.0 + tau * tau
        keep, std = reverse_kernel(here, there, tau)
        weights = self.predict(lams, there.lam, rate)
        # a change of d moves x by alpha d, and x0 by the share of d that is carried
        shift = keep * here.alpha + there.alpha * weights[0] * self.carry
        pairs = zip(_padded(weights, terms), _padded(change, terms), strict=True)
        moves = [there.alpha * w + shift * c for w, c in pairs]
        drift = [(keep, x), *_scaled(moves, terms)]
        if self.stochastic:
            drift.append((std, self.draw(x, here, there, noise)))
        nodes = ((lams[0], self._x0(terms, change)), *(state.nodes if state else ()))
        if lacks_data(here):
            nodes = ()  # lam = -inf: no polynomial goes through it
        return Step(lincomb(*drift), Past(rate, nodes[: self.memory]))

    def finish(
        self, field: Field, x: Tensor, here: Level, state: Past | None, noise: Noise
    ) -> Step:
        """Return the expected data of the corrected state."""
        _, terms, change = self._evaluate(field, x, here, state)
        return Step(lincomb(self._x0(terms, change)))

    def _evaluate(
        self, field: Field, x: Tensor, here: Level, state: Past | None
    ) -> tuple[list[Scalar], list[Term], Weights]:
        """Return the nodes' lams and x0, and the change of the last step's weights."""
        rate, nodes = state or Past(1.0, ())
        lams = [here.lam, *(lam for lam, _ in nodes)]
        terms = [field(x, here).term(x0=1.0), *(term for _, term in nodes)]
        return lams, terms, self.correct(lams, rate) if nodes else ()

    def _x0(self, terms: Sequence[Term], change: Weights) -> Term:
        if not (change and self.carry):
            return terms[0]
        moved = [self.carry * c + (j == 0) for j, c in enumerate(change)]
        return 1.0, lincomb(*_scaled(moved, terms))


@dataclass(frozen=True)
class SDEDPMSolverPP(StochasticAdams):
    """Multistep SDE-DPM-Solver++: exponential Adams-Bashforth on the reverse SDE.

    Two nodes take h / 2 times the weight of x0 for the weight of its slope, as `DPMSolverPP` does;
    one and three have the exact integrals (Lu et al. 2022, arXiv:2211.01095, Sec. 5 and App. B).
    With tau = 0 it is `DPMSolverPP`; one node with tau = 1 is `DDIM(eta=1)`, given the same draws.

    The weak order is 1 with one node. With two it is 2, and no more with three: the slopes of x0
    along a Brownian path make up for what noise does within a step, to second order.

    Attributes:
        nodes: 1, 2 or 3: the order of the papers and of the flow.
        tau: amount of noise.

    Raises:
        ValueError: another number of nodes, or a negative tau.
    """

    nodes: int = 2
    tau: Tau = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer(self.nodes, "nodes", 1, 3)

    @property
    def order(self) -> int:
        return min(self.nodes, 2) if self.stochastic else self.nodes

    @property
    def memory(self) -> int:
        return self.nodes - 1

    def predict(self, lams: Sequence[Scalar], stop: Scalar, rate: Scalar) -> Weights:
        if len(lams) != 2:
            return exponential_weights(lams, lams[0], stop, rate)
        h = stop - lams[0]
        total = -expm1(-rate * h)
        slope = 0.5 * total * h / (lams[0] - lams[1])
        return total + slope, -slope


@dataclass(frozen=True)
class SASolver(StochasticAdams):
    """SA-Solver: stochastic exponential Adams, a predictor and a corrector.

    The weights are the exact integrals of the polynomial through the last x0: `predictor` of them
    before the step, the new one and the `corrector` before it after. The prediction made at the
    predicted point is the corrector's and the next step's (Xue et al. 2023, arXiv:2309.05019,
    Sec. 5 and Alg. 1). The weak order is 2, but 1 for one node that nothing corrects; that of the
    flow rises with the nodes.

    Attributes:
        predictor: nodes of the predictor, from 1 to 4.
        corrector: nodes of the corrector before the new one, from 0 to 4; 0 corrects nothing.
        tau: amount of noise.

    Raises:
        ValueError: another number of nodes, or a negative tau.
    """

    predictor: int = 3
    corrector: int = 3
    tau: Tau = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer(self.predictor, "predictor", 1, 4)
        require_integer(self.corrector, "corrector", 0, 4)

    @property
    def order(self) -> int:
        flow = min(self.predictor, self.corrector) + 1 if self.corrector else self.predictor
        return min(flow, 2) if self.stochastic else flow

    @property
    def memory(self) -> int:
        return max(self.predictor, self.corrector)

    def predict(self, lams: Sequence[Scalar], stop: Scalar, rate: Scalar) -> Weights:
        return exponential_weights(lams[: self.predictor], lams[0], stop, rate)

    def correct(self, lams: Sequence[Scalar], rate: Scalar) -> Weights:
        if self.corrector == 0:
            return ()
        new = exponential_weights(lams[: self.corrector + 1], lams[1], lams[0], rate)
        old = (0.0, *self.predict(lams[1:], lams[0], rate))
        return tuple(n - o for n, o in zip(_padded(new, lams), _padded(old, lams), strict=True))


@dataclass(frozen=True)
class StochasticAdamsPC(StochasticAdams):
    """The stochastic exponential Adams predictor-corrector: the default where noise is wanted.

    The predictor carries x0 on along the line through the last two. Along a Brownian path that
    line swings, so its slope is divided by 1 + 0.8 (1 + tau^2) h, which tends to 1 with the step
    and to no extrapolation as it grows. The corrector replaces the line by the one to the
    prediction at the step's end. The point it is for moves by dx, and x0 there by 3/4 dx / alpha:
    between the 0 of data finer than the noise, where x0 stays, and the 1 of data far wider, where
    eps does. Weak order 2 at one network call a step; both numbers are the best of a search on
    Gaussian data of deviation 0.02 to 2 under five processes.

    The step's form, the noise and the reuse of the call are those of `SASolver`.

    Attributes:
        tau: amount of noise.

    Raises:
        ValueError: a negative tau.
    """

    tau: Tau = 1.0
    order = 2
    memory = 2
    carry = 0.75

    def predict(self, lams: Sequence[Scalar], stop: Scalar, rate: Scalar) -> Weights:
        if len(lams) == 1:
            return exponential_weights(lams, lams[0], stop, rate)
        first, second = exponential_weights(lams[:2], lams[0], stop, rate)
        damped = second * _damping(stop - lams[0], rate)
        return first + second - damped, damped

    def correct(self, lams: Sequence[Scalar], rate: Scalar) -> Weights:
        gain, _ = exponential_weights(lams[:2], lams[1], lams[0], rate)
        if len(lams) == 2:
            return gain, -gain
        h = lams[0] - lams[1]
        rise = gain * _damping(h, rate) * h / (lams[1] - lams[2])
        return gain, -gain - rise, rise


def _damping(h: Scalar, rate: Scalar) -> Scalar:
    return 1.0 / (1.0 + 0.8 * rate * h)


def _padded(weights: Weights, like: Sequence[object]) -> Weights:
    return (*weights, *(0.0,) * (len(like) - len(weights)))


def _scaled(weights: Sequence[Scalar], terms: Sequence[Term]) -> list[Term]:
    return [(w * c, y) for w, (c, y) in zip(weights, terms, strict=False)]
