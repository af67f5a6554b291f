"""Reference solvers: no error at all, where the answer is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde.analytic import Gaussian
from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers import Solver, Step


@dataclass(frozen=True)
class ExactReverse(Solver):
    """The exact reverse kernels of Gaussian data: the law of the reverse SDE in any steps.

    It calls no network on its way, and so has the error of no other method: what `law` and
    `weak_error` say of it is their own rounding.

    Attributes:
        data: the data, whose denoiser the solve has.
    """

    data: Gaussian
    order = 1
    stochastic = True
    evals = 0

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        z = noise.increment(x, self.clock(there), self.clock(here))
        return Step(self.data.reverse(x, here, there, z))
