"""The loop with adaptive steps: every sample has its own, and leaves the batch when it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from scoresde.denoiser import Field
from scoresde.errors import (
    MaxEvaluations,
    NonFiniteState,
    SolveError,
    StepSizeUnderflow,
    name_calls,
)
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers import AdaptiveSolver
from scoresde.tensors import per_sample

# the device is read once in this many steps; samples that are done idle until then
READ_EVERY = 4

SMALLEST_STEP = 1e-12  # of the whole way
SAFETY, SHRINK = 0.8, 0.2
STRETCH = 1.2  # of the last step, so that no crumb is left for another

RUNNING, DONE, NONFINITE, UNDERFLOW, EXHAUSTED = range(5)

FAILURES: dict[int, tuple[type[SolveError], str]] = {
    NONFINITE: (NonFiniteState, "left the state, or an error estimate, NaN or infinite"),
    UNDERFLOW: (StepSizeUnderflow, "the step size fell below the resolution of the arithmetic"),
    EXHAUSTED: (MaxEvaluations, "the budget max_nfe of network calls is used up"),
}


Norm = Callable[[Tensor, Tensor, Tensor, Level, AdaptiveSolver], Tensor]
"""What the error of a step amounts to, as a share of what the tolerances allow (B,).

Called with the error, the states before and after the step, the level after it, and the solver.
"""


@dataclass
class _Way:
    """The samples that are on their way.

    Attributes:
        rows: where they are in the whole batch (b,).
        x: state (b, *).
        state: the solver's, of tensors (b, *).
        error: sum of the norms of the steps' errors (b,).
        at: position, float64 (b, 1, ..., 1).
        h: next step, likewise.
        calls: network calls (b,).
        status: RUNNING, or why not (b,).
    """

    rows: Tensor
    x: Tensor
    state: Any
    error: Tensor
    at: Tensor
    h: Tensor
    calls: Tensor
    status: Tensor

    def select(self, keep: Tensor) -> _Way:
        return _Way(*(_each(lambda v: v[keep], v) for v in vars(self).values()))

    def merge(self, part: _Way) -> _Way:
        """Return these samples, with some of them as they are in `part`."""
        pairs = zip(vars(self).values(), vars(part).values(), strict=True)
        copy = lambda old, new: old.index_copy(0, part.rows, new)  # noqa: E731
        return _Way(*(_each(copy, *pair) for pair in pairs))


class Arrival(NamedTuple):
    """What an adaptive solve found.

    Attributes:
        end: the end points (B, *).
        last: the states before the step to sigma = 0 (B, *).
        calls: network calls of each sample (B,).
        error: sum of the norms of each sample's steps' errors (B,).
    """

    end: Tensor
    last: Tensor
    calls: Tensor
    error: Tensor


def solve_adaptive(
    field: Field,
    x: Tensor,
    solver: AdaptiveSolver,
    noise: Noise,
    start: Level,
    stop: Level,
    denoise: bool,
    progress: bool,
    norm: Norm | None = None,
    mesh: list[Tensor] | None = None,
) -> Arrival:
    """Carry x (B, *) from one level to another, and on to sigma = 0 with denoise.

    Args:
        norm: of the errors that the tolerances bound; `root_mean_square` by default.
        mesh: takes the positions of all samples (B, 1), before the first try of a step and after
            every one.

    Raises:
        NonFiniteState, StepSizeUnderflow, MaxEvaluations: after all other samples are done, so
            that the error keeps them.
    """
    origin, end = (float(solver.position(level, field.data_std)) for level in (start, stop))
    if solver.stochastic:
        noise = _path(solver, noise, start, stop)
    every = way = _depart(field, x, solver, origin, end)
    some, draws, budget = field, noise, solver.max_nfe - denoise
    norm = norm or root_mean_square
    bar = tqdm(total=len(x), disable=not progress)
    if mesh is not None:
        mesh.append(way.at.reshape(-1, 1))
    while len(way.rows):
        for _ in range(READ_EVERY):
            _advance(way, some, solver, draws, (origin, end), budget, norm)
            if mesh is not None:
                mesh.append(mesh[-1].index_copy(0, way.rows, way.at.reshape(-1, 1)))
        every = every.merge(way)
        keep = (way.status == RUNNING).nonzero().flatten()  # the read
        bar.update(len(way.rows) - len(keep))
        if len(keep) < len(way.rows):
            way = way.select(keep)
            some = field.rows(way.rows, len(x))
            draws = noise.rows(way.rows) if solver.stochastic else noise
    bar.close()
    last = every.x
    if denoise:
        _finish(every, field, solver, stop, noise)
    _raise_failures(every, solver, field, end)
    return Arrival(every.x, last, every.calls, every.error)


def _depart(field: Field, x: Tensor, solver: AdaptiveSolver, origin: float, end: float) -> _Way:
    zeros = torch.zeros(len(x), dtype=torch.long, device=x.device)
    at = per_sample(torch.full((len(x),), origin, dtype=torch.float64, device=x.device), x)
    return _Way(
        rows=torch.arange(len(x), device=x.device),
        x=x,
        state=solver.init(field, x, solver.level(at, field.sde, field.data_std)),
        error=zeros.double(),
        at=at,
        h=torch.full_like(at, solver.first * (end - origin)),
        calls=zeros + solver.nfe(0, denoise=False),
        status=zeros + RUNNING,
    )


def _path(solver: AdaptiveSolver, noise: Noise, start: Level, stop: Level) -> Noise:
    last, first = (float(solver.clock(level)) for level in (stop, start))
    margin = 1e-12 * (abs(last) + abs(first))  # for the rounding of levels between
    return noise.path(last - margin, first + margin)


def _finish(way: _Way, field: Field, solver: AdaptiveSolver, stop: Level, noise: Noise) -> None:
    """Take the samples that arrived on to sigma = 0; the others stay as they were left."""
    done = way.status == DONE
    end = solver.finish(field, way.x, stop, None, noise).x
    way.x = torch.where(per_sample(done, way.x), end, way.x)
    way.calls = way.calls + done
    finite = way.x.isfinite().flatten(1).all(1)
    way.status = way.status.masked_fill(done & ~finite, NONFINITE)


def _advance(
    way: _Way,
    field: Field,
    solver: AdaptiveSolver,
    noise: Noise,
    ends: tuple[float, float],
    budget: int,
    norm: Norm,
) -> None:
    """Try one step with every sample, and note what came of it."""
    running = way.status == RUNNING
    left = ends[1] - way.at
    reach = (STRETCH * way.h.abs()).clamp(max=solver.longest)
    ahead = torch.where(left.abs() <= reach, ends[1], way.at + way.h)
    target = torch.where(per_sample(running, ahead), ahead, way.at)
    here, there = (solver.level(p, field.sde, field.data_std) for p in (way.at, target))
    x, state, error = solver.step(field, way.x, here, there, way.state, noise)
    assert error is not None, f"{solver} gives no error estimate"
    ratio = norm(error.detach(), way.x.detach(), x.detach(), there, solver).double()
    accepted = running & (ratio <= 1.0)
    wide = per_sample(accepted, way.x)
    way.error = way.error + torch.where(accepted, ratio, 0.0)
    way.x = torch.where(wide, x, way.x)
    way.state = _each(lambda new, old: torch.where(wide, new, old), state, way.state)
    way.at = torch.where(per_sample(accepted, way.at), target, way.at)
    factor = (SAFETY * ratio.clamp(min=1e-10) ** (-1.0 / solver.order)).clamp(SHRINK, solver.growth)
    way.h = (way.h * per_sample(factor, way.h)).clamp(-solver.longest, solver.longest)
    way.calls = way.calls + running * solver.evals
    # in order of precedence, the last that holds
    tiny = way.h.flatten().abs() < SMALLEST_STEP * abs(ends[1] - ends[0])
    way.status = way.status.masked_fill(running & (way.calls + solver.evals > budget), EXHAUSTED)
    way.status = way.status.masked_fill(running & tiny, UNDERFLOW)
    way.status = way.status.masked_fill(running & ~ratio.isfinite(), NONFINITE)
    way.status = way.status.masked_fill(running & (way.at == ends[1]).flatten(), DONE)


def root_mean_square(
    error: Tensor, before: Tensor, after: Tensor, level: Level, solver: AdaptiveSolver
) -> Tensor:
    """Return the root-mean-square (B,) of error / (atol + rtol max(|before|, |after|))."""
    scale = solver.atol + solver.rtol * torch.maximum(before.abs(), after.abs())
    return (error / scale).double().square().flatten(1).mean(1).sqrt()


def _each(function: Callable[..., Any], *values: Any) -> Any:
    """Apply a function to the tensors of states, which are tensors or tuples of states."""
    if isinstance(values[0], tuple):
        return tuple(_each(function, *parts) for parts in zip(*values, strict=True))
    return function(*values)


def _raise_failures(way: _Way, solver: AdaptiveSolver, field: Field, end: float) -> None:
    status = way.status.tolist()
    for reason, (error, what) in FAILURES.items():
        if reason not in status:
            continue
        row = status.index(reason)
        at, last = float(way.at[row]), int(way.calls[row])
        if reason == NONFINITE:
            # what a step begins with may come of the call before it; the last step makes one alone
            first = last if at == end else max(last - solver.evals, 1)
            what = f"{name_calls(first, last)} of row {row} {what}"
        lost = tuple(i for i, reached in enumerate(status) if reached != DONE)
        t = float(solver.level(at, field.sde, field.data_std).t)
        raise error(what, t=t, indices=lost, nfe=int(way.calls.max()), x=way.x)
