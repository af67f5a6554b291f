"""The reverse diffusion sampler: the forward kernel, turned round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.sde import Level, forward_kernel
from scoresde.solvers.base import Step, lacks_data
from scoresde.solvers.reverse import Tau, TauSolver
from scoresde.tensors import lincomb


@dataclass(frozen=True)
class ReverseDiffusion(TauSolver):
    """Reverse diffusion sampling, with the exact forward kernel as the discretisation.

    For the kernel x_here = a x_there + s z, in which 1 - a stands for -f dt and s^2 for g^2 dt, it
    steps to

        (2 - a) x + (1 + tau^2) / 2 s^2 score + tau s z.

    tau = 1 is the reverse diffusion of Song et al. 2021 (arXiv:2011.13456, App. E, eq. 46), tau = 0
    its probability flow sampling (App. D.3).

    Attributes:
        tau: amount of noise, a number or a function of the level.

    Raises:
        ValueError: a tau that is negative or not finite; at the start of a solve, where alpha is 0
            and the kernel has no inverse.
    """

    tau: Tau = 1.0
    order = 1
    strong_order = 1

    def init(self, field: Field, x: Tensor, level: Level) -> None:
        self._require_data(field, level)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        self._require_data(field, there)  # where an encoding may end
        tau, a = self.amount(here), here.alpha / there.alpha
        kept = a * there.sigma
        square = (here.sigma - kept) * (here.sigma + kept)  # negative on the way to more noise
        pull = -0.5 * (1.0 + tau * tau) * square / here.sigma
        mean = field(x, here).combine(x=2.0 - a, eps=pull)
        if not self.stochastic:
            return Step(mean)
        std = tau * forward_kernel(there, here).std
        return Step(lincomb((1.0, mean), (std, self.draw(x, here, there, noise))))

    def _require_data(self, field: Field, level: Level) -> None:
        if lacks_data(level):
            raise ValueError(
                f"solver={self}: alpha is 0 at t={level.t} of {field.sde}, so the forward kernel "
                f"forgets the state; choose a smaller T, or DDIM(eta=1)"
            )
