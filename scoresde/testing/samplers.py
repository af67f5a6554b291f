"""Whole samplers, ours and other people's, run over the same levels with the same draws."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scoresde.denoiser import BaseDenoiser, Field
from scoresde.gradients import Gradient
from scoresde.grids import Grid, default_grid
from scoresde.integrate import DEFAULT_STEPS, levels_of
from scoresde.noise import Noise, SeededNoise
from scoresde.sampling import solve
from scoresde.sde import Level
from scoresde.solvers import Solver

Loop = Callable[[Field, Tensor, tuple[Level, ...], Noise], Tensor]
"""A sampler as a function: carries x (B, *) from the first level to the last one."""


@dataclass(frozen=True)
class Sampler:
    """A whole sampling loop, and what it says of itself: how other libraries' code is tested.

    Attributes:
        run: called as `run(field, x, levels, noise)` with x (B, *) at levels[0]; returns the
            state at levels[-1], which may be `CLEAN`. `field(x, level)` is a `Prediction`.
        order: as `Solver.order`; None is held to no order, only to the right limit.
        stochastic: whether it draws noise, from `noise` (see `InjectedDraws`).
        evals: network calls a step; None is held to no number.
    """

    run: Loop
    order: int | None = None
    stochastic: bool = False
    evals: int | None = None

    def __str__(self) -> str:
        return getattr(self.run, "__qualname__", repr(self.run))


def run(
    sampler: Solver | Sampler,
    model: BaseDenoiser,
    x: Tensor,
    *,
    grid: Grid | None = None,
    steps: int | None = None,
    noise: Noise | None = None,
    denoise: bool = True,
    gradient: Gradient | None = None,
) -> tuple[Tensor, int]:
    """Carry x (B, *) from T to where `denoise` says, and return it with the network calls made.

    The arguments are those of `scoresde.sample`.
    """
    if isinstance(sampler, Solver):
        solution = solve(
            model, x=x, solver=sampler, grid=grid, steps=steps, noise=noise, denoise=denoise,
            gradient=gradient,
        )  # fmt: skip
        return solution.x, int(solution.nfe.max())
    grid = grid or default_grid(model.data_std, sampler.stochastic)
    levels = levels_of(model.sde, grid, steps or DEFAULT_STEPS, denoise, part=True)
    field = Field(model)
    with nullcontext() if gradient else torch.no_grad():
        out = sampler.run(field, x, levels, noise or SeededNoise())
    return out, field.nfe


class InjectedDraws(TorchDispatchMode):
    """Takes the normals that foreign code draws from a source of noise, inside a `with` block.

    `torch.randn`, `torch.randn_like`, `torch.normal` and `Tensor.normal_` are served, whatever
    generator they name; a draw's address is its number in the block.

    Args:
        noise: the source.

    Raises:
        NotImplementedError: a draw of any other law.
    """

    def __init__(self, noise: Noise) -> None:
        super().__init__()
        self._noise, self._addresses = noise, count()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **named)
        named.pop("generator", None)
        match func.overloadpacket.__name__:
            case "randn":
                return self._draw(torch.empty(args[0], **named))
            case "randn_like":
                return self._draw(torch.empty_like(args[0], **named))
            case "normal_":
                mean, std = (*args[1:], *(0.0, 1.0)[len(args) - 1 :])
                return args[0].copy_(mean + std * self._draw(args[0]))
            case "normal":
                mean, std, *size = args
                like = torch.empty(*size, **named) if size else mean + std
                return mean + std * self._draw(like)
        raise NotImplementedError(f"{func}: only normals are injected; draw them from `noise`")

    def _draw(self, like: Tensor) -> Tensor:
        return self._noise.normal(like, next(self._addresses))
