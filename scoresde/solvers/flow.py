"""Euler and Heun on the probability flow, in t."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.sde import Level, forward_kernel
from scoresde.solvers.base import Solver, Step
from scoresde.tensors import lincomb


@dataclass(frozen=True)
class Euler(Solver):
    """Euler's method on the probability flow dx/dt = f x - g^2 score / 2, in t.

    Song et al. 2021, arXiv:2011.13456, eq. 13.
    """

    order = 1
    stochastic = False

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        return Step(lincomb((1.0, x), (there.t - here.t, field(x, here).velocity)))


@dataclass(frozen=True)
class Heun(Solver):
    """Heun's second-order method on the probability flow, in t, with the churn of EDM.

    On `EDMSDE` it is Algorithm 2 of Karras et al. 2022 (arXiv:2206.00364). Churn first raises
    sigma / alpha by a factor 1 + churn with fresh noise, by the exact transition of the process,
    where sigma / alpha lies in churn_range, and never beyond T.

    Attributes:
        churn: relative rise of the noise before a step; gamma = S_churn / N of the paper. It is
            what has to fall with the number of steps N for the solver to converge.
        churn_range: (S_min, S_max) of the paper, in sigma / alpha.
        churn_noise: inflation of the added noise, S_noise of the paper.

    Raises:
        ValueError: a negative churn.
    """

    churn: float = 0.0
    churn_range: tuple[float, float] = (0.0, math.inf)
    churn_noise: float = 1.0
    order = 2
    evals = 2

    def __post_init__(self) -> None:
        if not self.churn >= 0.0:
            raise ValueError(f"churn={self.churn} must not be negative")

    @property
    def stochastic(self) -> bool:
        return self.churn > 0.0

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        if self.stochastic:
            x, here = self._raise(field, x, here, noise)
        dt = there.t - here.t
        first = field(x, here).velocity
        second = field(lincomb((1.0, x), (dt, first)), there).velocity
        return Step(lincomb((1.0, x), (0.5 * dt, first), (0.5 * dt, second)))

    def finish(self, field: Field, x: Tensor, here: Level, state: Any, noise: Noise) -> Step:
        if self.stochastic:
            x, here = self._raise(field, x, here, noise)
        return super().finish(field, x, here, state, noise)

    def _raise(self, field: Field, x: Tensor, here: Level, noise: Noise) -> tuple[Tensor, Level]:
        ratio = math.exp(-here.lam)
        if not self.churn_range[0] <= ratio <= self.churn_range[1]:
            return x, here
        t = min(field.sde.t_at(here.lam - math.log1p(self.churn)), field.sde.T)
        if t <= here.t:
            return x, here
        hat = field.sde.level(t)
        scale, std = forward_kernel(here, hat)
        z = noise.normal(x, here.t)
        return lincomb((scale, x), (std * self.churn_noise, z)), hat
