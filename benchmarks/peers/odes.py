"""What an integrator of another library is here: it carries the probability flow in a frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.problems import DensityProblem
from scoresde import Frame
from scoresde.denoiser import Field

Slope = Callable[[Tensor, Tensor], Tensor]
"""dy/du (B, D) of u, () or (B,), and y (B, D)."""

Span = tuple[float, float]
"""u at the start and at the end."""

TOLERANCES = tuple(10.0 ** (-k / 2) for k in range(21))
"""Relative and absolute tolerance, one number for both, from loose to tight."""


@dataclass(frozen=True)
class Integrator:
    """A method of another library for any ordinary differential equation.

    Attributes:
        library: whose it is.
        name: what tables call it.
        carry: carries y over a span of u, as `carry(slope, y, span, setting)`; returns y there,
            and the calls of the slope, the mean over samples where each has steps of its own.
        settings: tolerances from loose to tight, or numbers of steps that increase.
        grid: where its steps are.
    """

    library: str
    name: str
    carry: Callable[[Slope, Tensor, Span, float], tuple[Tensor, float]]
    settings: tuple[float, ...] = TOLERANCES
    grid: str = "own steps"


@dataclass(frozen=True)
class Density:
    """A log-likelihood of another library.

    Attributes:
        library: whose it is.
        name: what tables call it.
        solve: returns log-densities (B,) and network calls, of a problem and a tolerance.
    """

    library: str
    name: str
    solve: Callable[[DensityProblem, float], tuple[Tensor, float]]


class Counted:
    """A slope that counts its calls."""

    def __init__(self, slope: Slope) -> None:
        self.slope, self.calls = slope, 0

    def __call__(self, u: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.slope(u, y)


def flow_in(frame: Frame, field: Field) -> Slope:
    """Return the probability flow of a field in a frame."""
    c = field.data_std

    def slope(u: Tensor, y: Tensor) -> Tensor:
        at = frame.level(u[:, None] if u.ndim else float(u), field.sde, c)
        return frame.slope(field, frame.scale(at, c) * y, at)

    return slope


def density(integrator: Integrator, frame: Frame, name: str) -> Density:
    """Return the log-likelihood by an integrator, of the flow in a frame and its divergence."""

    def solve(problem: DensityProblem, tol: float) -> tuple[Tensor, float]:
        field, d = Field(problem.model), problem.x.shape[1]
        sde, c = field.sde, field.data_std
        levels = sde.level(sde.t_min), sde.level(sde.T)
        first, last = (float(frame.variable(at, c)) for at in levels)
        before, after = (float(frame.scale(at, c)) for at in levels)
        start = torch.cat([problem.x / before, problem.x.new_zeros(len(problem.x), 1)], 1)
        end, calls = integrator.carry(
            _with_divergence(flow_in(frame, field)), start, (first, last), tol
        )
        log_det = end[:, d] + d * math.log(after / before)
        return problem.prior.log_prob(after * end[:, :d]) + log_det, calls

    return Density(integrator.library, name, solve)


def _with_divergence(slope: Slope) -> Slope:
    """Return the slope of (y, integral of the divergence), by a product with every unit vector."""

    def both(u: Tensor, state: Tensor) -> Tensor:
        with torch.enable_grad():
            y = state[:, :-1].detach().requires_grad_()
            out = slope(u, y)
        basis = torch.eye(y.shape[1], dtype=y.dtype)[:, None].expand(-1, len(y), -1)
        (rows,) = torch.autograd.grad(out, y, basis, is_grads_batched=True)
        return torch.cat([out.detach(), torch.einsum("ibi->b", rows)[:, None]], 1)

    return both


def ladder(
    solve: Callable[[float], tuple[float, float]], settings: tuple[float, ...], most: float
) -> Iterator[tuple[float, float]]:
    """Yield calls and error of solves, setting by setting until one takes more than `most` calls.

    Args:
        solve: returns calls and error, of a setting.
        settings: from the fewest calls to the most.
        most: calls that are wanted at most.
    """
    for setting in settings:
        calls, error = solve(setting)
        if calls > most:
            return
        yield calls, error
