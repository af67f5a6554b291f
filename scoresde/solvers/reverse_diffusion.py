"""The reverse diffusion sampler: the forward kernel, turned round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.sde import Kernel, Level, forward_kernel
from scoresde.solvers.base import Step, lacks_data
from scoresde.solvers.reverse import Tau, TauSolver
from scoresde.tensors import Scalar, lincomb


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
        tau, down = self.amount(here), forward_kernel(there, here)
        keep, square = _along(here, there, down)
        pull = -0.5 * (1.0 + tau * tau) * square / here.sigma
        mean = field(x, here).combine(x=keep, eps=pull)
        if not self.stochastic:
            return Step(mean)
        return Step(lincomb((1.0, mean), (tau * down.std, self.draw(x, here, there, noise))))

    def _require_data(self, field: Field, level: Level) -> None:
        if lacks_data(level):
            raise ValueError(
                f"solver={self}: alpha is 0 at t={level.t} of {field.sde}, so the forward kernel "
                f"forgets the state; choose a smaller T, or DDIM(eta=1)"
            )


def _along(here: Level, there: Level, down: Kernel) -> tuple[Scalar, Scalar]:
    """Return 1 + f dt and -g^2 dt of a step, by the forward kernel between its ends.

    To less noise it is the kernel turned round; to more, where a flow may go too, the kernel.
    """
    up, less = forward_kernel(here, there), there.lam > here.lam
    pairs = (2.0 - down.scale, up.scale), (down.std * down.std, -up.std * up.std)
    if isinstance(less, Tensor):
        keep, square = (torch.where(less, *map(torch.as_tensor, pair)) for pair in pairs)
        return keep, square
    return (pairs[0][0], pairs[1][0]) if less else (pairs[0][1], pairs[1][1])
