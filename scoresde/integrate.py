"""One solve: which levels, how many steps, and the loop over a fixed grid."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from scoresde.adaptive import Norm, solve_adaptive
from scoresde.denoiser import Field
from scoresde.errors import NonFiniteState, name_calls, require_kind
from scoresde.gradients import Gradient, adjoint, again, check_gradient, parts
from scoresde.grids import Grid, default_grid
from scoresde.noise import Noise
from scoresde.sde import CLEAN, SDE, Level
from scoresde.solvers import AdaptiveSolver, Corrector, Solver

Callback = Callable[[int, Level, Tensor], None]
"""Called after every step with its index, the level reached, and the state (B, *)."""

DEFAULT_STEPS = 50

# a solve on a fixed grid reads one flag of the device in this many steps, and stops when no sample
# is left that is finite
READ_EVERY = 16


@dataclass(frozen=True)
class Solution:
    """What a solve found, and how.

    Attributes:
        x: the end points (B, *).
        nfe: network calls per sample (B,).
        levels: the levels visited on a fixed grid; the ends of an adaptive solve.
        solver: the solver.
        noise: the source of all randomness. With the same model, start, condition and dtype, and
            the solver and the levels, it replays the solve; injected draws have to be given anew.
        trajectory: the states at `levels` (n, B, *), where asked for.
        error: of an adaptive solve, the sum of its steps' estimated errors, in units of the
            tolerance that holds each below 1 (B,).
    """

    x: Tensor
    nfe: Tensor
    levels: tuple[Level, ...]
    solver: Solver
    noise: Noise
    trajectory: Tensor | None = None
    error: Tensor | None = None


def integrate(
    field: Field,
    x: Tensor,
    solver: Solver,
    noise: Noise,
    *,
    grid: Grid | None = None,
    steps: int | None = None,
    nfe: int | None = None,
    denoise: bool = False,
    encode: bool = False,
    part: bool = False,
    callback: Callback | None = None,
    trajectory: bool = False,
    progress: bool = False,
    gradient: Gradient | None = None,
    norm: Norm | None = None,
) -> Solution:
    """Carry x (B, *) from T to t_min, and to sigma = 0 with denoise; or back, with encode.

    The arguments are those of `scoresde.solve`, which describes them and their errors. With `part`
    a grid may lead over part of the way only; `norm` measures the errors of adaptive steps.
    """
    require_kind(solver, Solver, "solver")
    if isinstance(solver, Corrector):
        raise ValueError(f"solver={solver} stays at a level; wrap it in PredictorCorrector")
    if encode and solver.stochastic:
        raise ValueError(f"solver={solver}: encoding needs a deterministic solver")
    if encode and denoise:
        raise ValueError("denoise=True: a latent code is solved for from t_min; set denoise=False")
    check_gradient(gradient, field, x, solver, noise, trajectory)
    sde = field.sde
    if isinstance(solver, AdaptiveSolver):
        fixed = {"grid": grid, "steps": steps, "nfe": nfe, "callback": callback}
        for name, value in {**fixed, "trajectory": trajectory or None}.items():
            if value is not None:
                raise ValueError(f"{name}={value}: {solver} chooses its own steps; leave it out")
        return _adaptive(field, x, solver, noise, encode, denoise, progress, gradient, norm)
    grid = default_grid(field.data_std, solver.stochastic) if grid is None else grid
    require_kind(grid, Grid, "grid")
    levels = levels_of(
        sde, grid, count_steps(solver, steps, nfe, denoise, grid.steps), denoise, part
    )
    levels = levels[:: -1 if encode else 1]
    with _graph(gradient):
        path = _fixed(field, x, solver, noise, levels, callback, progress, trajectory, gradient)
    calls = torch.full((len(x),), field.nfe, device=x.device)
    states = torch.stack(path) if trajectory else None
    end = path[-1]
    if gradient == "adjoint":
        last, visited = (path[-2], levels[:-1]) if denoise else (end, levels)
        end = adjoint(field, x, end, last, solver, visited, denoise)
    return Solution(end, calls, levels, solver, noise, states)


def _graph(gradient: Gradient | None) -> AbstractContextManager[None]:
    """Return the context of a solve: the adjoint needs no graph of it."""
    return torch.no_grad() if gradient == "adjoint" else nullcontext()


def _adaptive(
    field: Field,
    x: Tensor,
    solver: AdaptiveSolver,
    noise: Noise,
    encode: bool,
    denoise: bool,
    progress: bool,
    gradient: Gradient | None,
    norm: Norm | None,
) -> Solution:
    sde = field.sde
    start, stop = (sde.level(t) for t in ((sde.t_min, sde.T) if encode else (sde.T, sde.t_min)))
    mesh: list[Tensor] | None = [] if gradient == "adjoint" else None
    with _graph(gradient):
        found = solve_adaptive(field, x, solver, noise, start, stop, denoise, progress, norm, mesh)
    end = found.end
    if mesh is not None:
        tries = torch.stack(mesh).unique_consecutive(dim=0) if len(x) else mesh
        visited = [solver.level(at, sde, field.data_std) for at in tries]
        end = adjoint(field, x, end, found.last, solver.back, visited, denoise)
    levels = (start, stop, CLEAN) if denoise else (start, stop)
    return Solution(end, found.calls, levels, solver, noise, error=found.error)


def levels_of(sde: SDE, grid: Grid, count: int, denoise: bool, part: bool) -> tuple[Level, ...]:
    """Return the levels of a solve of `count` steps, the last of them to sigma = 0 with denoise.

    Raises:
        ValueError: a grid that does not lead from T to t_min, unless it may be `part` of the way;
            with denoise, one that leads to sigma = 0 itself.
    """
    if denoise and count == 1:  # T to the data in one go: a grid needs two steps
        return sde.level(sde.T), CLEAN
    levels = grid.levels(sde, count - denoise)
    ends = levels[0].t, levels[-1].t
    if ends != (sde.T, sde.t_min) and not part:
        raise ValueError(
            f"grid={grid} leads from t={ends[0]} to {ends[1]}, but {sde} is solved from T={sde.T} "
            f"to t_min={sde.t_min}; give the grid these ends, or the process those"
        )
    if denoise and levels[-1].sigma == 0.0:
        raise ValueError(
            f"grid={grid} leads to sigma = 0 itself, at t={ends[1]}; leave that time out, or set "
            f"denoise=False"
        )
    return (*levels, CLEAN) if denoise else levels


def count_steps(
    solver: Solver, steps: int | None, nfe: int | None, denoise: bool, fixed: int | None = None
) -> int:
    """Return the number of steps asked for, or the most that a budget of network calls allows.

    Args:
        fixed: the steps of a grid that has its own number, without the one to sigma = 0.

    Raises:
        ValueError: both given, no integers, steps below 1 or not the grid's, or a budget too small
            for one step or the grid's.
    """
    steps, nfe = _integer(steps, "steps"), _integer(nfe, "nfe")
    if steps is not None and nfe is not None:
        raise ValueError(f"steps={steps} and nfe={nfe}: give one of them")
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps}: a solve takes at least one step")
    own = None if fixed is None else fixed + denoise
    if own is not None and steps not in (None, own):
        last = ", the one to sigma = 0 included" if denoise else ""
        raise ValueError(f"steps={steps}, but the grid has {own} steps{last}; leave steps out")
    if nfe is None:
        return steps or own or DEFAULT_STEPS
    least = solver.nfe(own or 1, denoise)
    if nfe < least:
        steps_taken = f"the grid's {own} steps" if own else "one step"
        raise ValueError(f"nfe={nfe}: {steps_taken} of {solver} takes {least} network calls")
    steps = own or 1
    while own is None and solver.nfe(steps + 1, denoise) <= nfe:
        steps += 1
    return steps


def _integer(value: int | None, name: str) -> int | None:
    try:
        return None if value is None else operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} must be an integer") from None


def _fixed(
    field: Field,
    x: Tensor,
    solver: Solver,
    noise: Noise,
    levels: Sequence[Level],
    callback: Callback | None,
    progress: bool,
    keep: bool,
    gradient: Gradient | None,
) -> list[Tensor]:
    """Return the states at all levels where they are kept, and else at the last two."""
    path, sums, calls = [x], [], []
    bar = tqdm(total=len(levels) - 1, disable=not progress)

    def watch(k: int, x: Tensor) -> None:
        sums.append(_sums(x))
        calls.append(field.nfe)
        path[:] = [*(path if keep else path[-1:]), x]
        bar.update()
        if callback is not None:
            callback(k, levels[k + 1], x)
        if (k + 1) % READ_EVERY == 0 and _all_lost(sums[-1]):
            _check_finite(x, sums, levels, calls)

    def segment(x: Tensor, state: Any, steps: range) -> tuple[Tensor, Any]:
        for k in steps:
            here, there = levels[k], levels[k + 1]
            if there.sigma == 0.0:
                x, state, _ = solver.finish(field, x, here, state, noise)
            else:
                x, state, _ = solver.step(field, x, here, there, state, noise)
            if k == len(sums):  # steps that are taken again go unseen
                watch(k, x)
        return x, state

    state, run = solver.init(field, x, levels[0]), again(segment, gradient)
    for steps in parts(len(levels) - 1, gradient):
        x, state = run(x, state, steps)
    bar.close()
    _check_finite(x, sums, levels, calls)
    return path


def _sums(x: Tensor) -> Tensor:
    """Return each sample's sum (B,): not finite once any of its values is not."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.sum(x.detach(), dim=tuple(range(1, x.ndim)), dtype=dtype)


def _all_lost(sums: Tensor) -> bool:
    # samples that are finite go on, so that the error keeps them
    return sums.device.type != "meta" and len(sums) > 0 and not bool(sums.isfinite().any())


def _check_finite(x: Tensor, sums: list[Tensor], levels: Sequence[Level], calls: list[int]) -> None:
    # a read of the device, after the last step; the meta device has nothing to read
    if x.device.type == "meta" or not len(x):
        return
    finite = torch.stack(sums).isfinite().cpu()
    if finite.all():
        return
    first = int((~finite).any(1).nonzero()[0])
    rows = tuple((~finite).any(0).nonzero().flatten().tolist())
    here, there, before = levels[first], levels[first + 1], calls[first - 1] if first else 0
    raise NonFiniteState(
        f"{name_calls(before + 1, calls[first])}, of the step to t = {there.t:.6g}, left the state "
        f"NaN or infinite",
        t=float(here.t),
        indices=rows,
        nfe=calls[first],
        x=x,
    )
