"""Euler-Maruyama on the reverse SDE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.base import Solver, Step
from scoresde.solvers.frames import TimeFrame
from scoresde.solvers.reverse import Tau, TauSolver
from scoresde.tensors import Scalar, lincomb, sqrt


@dataclass(frozen=True)
class EulerMaruyama(TauSolver):
    """Euler-Maruyama in t on dx = [f x - (1 + tau^2) / 2 g^2 score] dt + tau g dw.

    tau = 1 is the reverse SDE of Song et al. 2021 (arXiv:2011.13456, eq. 6), and tau = 0 is
    `Euler()` on the probability flow (eq. 13), bit for bit. The Brownian motion runs in t.

    Attributes:
        tau: amount of noise, a number or a function of the level.

    Raises:
        ValueError: a tau that is negative or not finite; at the start of a solve with noise, f or
            g^2 infinite at its first level.
    """

    tau: Tau = 1.0
    order = 1
    strong_order = 1

    def init(self, field: Field, x: Tensor, level: Level) -> None:
        if self.stochastic:
            require_finite_drift(field, level, self)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        tau, dt = self.amount(here), there.t - here.t
        g2 = field.sde.g2(here.t) if self.stochastic else 0.0  # it may be infinite at T
        # what the noise takes away beside the flow, -tau^2 / 2 g^2 score
        pull = 0.5 * tau * tau * g2 / here.sigma
        of_x0, of_eps = TimeFrame().coefficients(here, field.sde, field.data_std)
        rate, slope = field(x, here).term(x0=of_x0, eps=of_eps + pull)
        drift = (1.0, x), (dt * rate, slope)
        if not self.stochastic:
            return Step(lincomb(*drift))
        shock = tau * sqrt(g2 * -dt), self.draw(x, here, there, noise)
        return Step(lincomb(*drift, shock))

    def clock(self, level: Level) -> Scalar:
        return level.t


def require_finite_drift(field: Field, level: Level, solver: Solver) -> None:
    """Refuse a process whose drift or diffusion is infinite where a solve starts.

    Raises:
        ValueError: naming the solver, the process and the remedy.
    """
    if isinstance(level.t, float) and not math.isfinite(field.sde.g2(level.t)):
        raise ValueError(
            f"solver={solver}: f and g of {field.sde} are infinite at t={level.t}; choose a "
            f"smaller T, or a solver that works in alpha and sigma, such as DDIM or AdamsPC"
        )
