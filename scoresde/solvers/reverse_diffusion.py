"""The reverse diffusion sampler: the forward kernel, turned round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.sde import Level, forward_kernel
from scoresde.solvers.base import Solver, Step, lacks_data
from scoresde.tensors import lincomb


@dataclass(frozen=True)
class ReverseDiffusion(Solver):
    """Reverse diffusion sampling, with the exact forward kernel as the discretisation.

    For the kernel x_here = a x_there + s z it steps to (2 - a) x + s^2 score + s z
    (Song et al. 2021, arXiv:2011.13456, App. E, eq. 46).

    Raises:
        ValueError: at the start of a solve, where alpha is 0 and the kernel has no inverse.
    """

    order = 1
    strong_order = 1
    stochastic = True

    def init(self, field: Field, x: Tensor, level: Level) -> None:
        if lacks_data(level):
            raise ValueError(
                f"solver={self}: alpha is 0 at t={level.t} of {field.sde}, so the forward kernel "
                f"forgets the state; choose a smaller T, or DDIM(eta=1)"
            )

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        a, s = forward_kernel(there, here)
        mean = field(x, here).combine(x=2.0 - a, eps=-s * s / here.sigma)
        z = noise.increment(x, self.clock(there), self.clock(here))
        return Step(lincomb((1.0, mean), (s, z)))
