"""The reverse SDE with a step for every sample, whose rejected steps refine one Brownian path."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.sde import SDE, Level
from scoresde.solvers.base import Step
from scoresde.solvers.frames import X0Frame
from scoresde.solvers.phi import phi2
from scoresde.solvers.reverse import ReverseSolver, Tau, reverse_kernel
from scoresde.solvers.runge_kutta import AdaptiveSolver
from scoresde.solvers.seeds import require_data
from scoresde.tensors import Scalar, exp, lincomb


@dataclass(frozen=True)
class AdaptiveSDE(ReverseSolver, AdaptiveSolver):
    """An exponential predictor-corrector on the reverse SDE, adaptive, one network call a step.

    The exact step with x0 constant, then the same step, with the same noise, with x0 on a line in
    lam to the prediction made where the first one ended. What the second moves x by is the estimate
    of the error, and x0 moves along by the share that `StochasticAdamsPC` takes. Weak order 2. No
    step is longer than 1 in lam: what a denoiser makes of data of one scale sets in over some 2,
    and the ends of a longer step do not see it.

    Every sample has its own steps, and all its attempts are on one Brownian path: the parts of a
    rejected step have the noise of that step. Drawing anew, as adaptive samplers of the reverse
    SDE do (Jolicoeur-Martineau et al. 2021, arXiv:2105.14080, Alg. 1), leaves out the draws that
    were rejected, and so tilts the law.

    Attributes:
        rtol: relative tolerance.
        atol: absolute tolerance, in units of x.
        max_nfe: network calls that one sample may take, never exceeded.
        tau: amount of noise; a function of the level must serve levels of tensors.

    Raises:
        ValueError: as `AdaptiveSolver`; a negative tau; at the start of a solve, alpha = 0.
    """

    rtol: float = 1e-2
    atol: float = 1e-2
    tau: Tau = 1.0
    longest = 1.0
    order = 2

    def __post_init__(self) -> None:
        ReverseSolver.__post_init__(self)
        AdaptiveSolver.__post_init__(self)

    def nfe(self, steps: int, denoise: bool) -> int:
        return 1 + super().nfe(steps, denoise)

    def init(self, field: Field, x: Tensor, level: Level) -> Tensor:
        require_data(field, self)
        return field(x, level).x0

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Tensor, noise: Noise
    ) -> Step:
        tau = self.amount(here)
        keep, std = reverse_kernel(here, there, tau)
        predicted = lincomb((keep, x), (there.alpha - keep * here.alpha, state))
        if self.stochastic:
            predicted = lincomb((1.0, predicted), (std, self.draw(x, here, there, noise)))
        x0 = field(predicted, there).x0
        span = (1.0 + tau * tau) * (there.lam - here.lam)
        gain = span * phi2(-span)  # the integral of span e^{-span (1 - u)} u over [0, 1]
        move = lincomb((gain, x0), (-gain, state))
        error = lincomb((there.alpha, move))
        return Step(predicted + error, lincomb((1.0, x0), (0.75, move)), error)

    def position(self, level: Level, data_std: float) -> Scalar:
        return level.lam

    def level(self, position: Scalar, sde: SDE, data_std: float) -> Level:
        return X0Frame().level(exp(position), sde, data_std)
