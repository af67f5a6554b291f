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
from scoresde.tensors import Scalar, lincomb, sqrt


@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """Euler-Maruyama in t on dx = [f x - (1 + eta^2) / 2 g^2 score] dt + eta g dw.

    eta = 1 is the reverse SDE of Song et al. 2021 (arXiv:2011.13456, eq. 6), eta = 0 the
    probability flow (eq. 13); every eta has the same marginals (Zhang and Chen 2021,
    arXiv:2110.07579, Prop. 1). The Brownian motion runs in t.

    Attributes:
        eta: amount of noise.

    Raises:
        ValueError: eta negative or infinite; at the start of a solve, f or g^2 infinite at its
            first level.
    """

    eta: float = 1.0
    order = 1
    strong_order = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta < math.inf:
            raise ValueError(f"eta={self.eta} must be finite and not negative")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0.0

    def init(self, field: Field, x: Tensor, level: Level) -> None:
        require_finite_drift(field, level, self)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        dt = there.t - here.t
        f, g2 = field.sde.f(here.t), field.sde.g2(here.t)
        drift = field(x, here).combine(
            x=1.0 + f * dt, eps=0.5 * (1.0 + self.eta**2) * g2 * dt / here.sigma
        )
        if not self.stochastic:
            return Step(drift)
        z = noise.increment(x, self.clock(there), self.clock(here))
        return Step(lincomb((1.0, drift), (self.eta * sqrt(g2 * -dt), z)))

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
