"""One solve: which levels, how many steps, and the loop over a fixed grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from tqdm.auto import tqdm

from scoresde.adaptive import solve_adaptive
from scoresde.denoiser import Field
from scoresde.errors import NonFiniteState
from scoresde.grids import DensityGrid, Grid
from scoresde.noise import Noise
from scoresde.sde import CLEAN, Level
from scoresde.solvers import AdaptiveSolver, Corrector, Solver

Callback = Callable[[int, Level, Tensor], None]
"""Called after every step with its index, the level reached, and the state (B, *)."""

DEFAULT_STEPS = 50


@dataclass(frozen=True)
class Solution:
    """What a solve found, and how.

    Attributes:
        x: the end points (B, *).
        nfe: network calls per sample (B,).
        levels: the levels visited on a fixed grid; the ends of an adaptive solve.
        solver: the solver.
        seed: of the noise; with the solver and the levels it replays the solve.
        trajectory: the states at `levels` (n, B, *), where asked for.
    """

    x: Tensor
    nfe: Tensor
    levels: tuple[Level, ...]
    solver: Solver
    seed: int | None
    trajectory: Tensor | None = None


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
    callback: Callback | None = None,
    trajectory: bool = False,
    progress: bool = False,
) -> Solution:
    """Carry x (B, *) from T to t_min, and to sigma = 0 with denoise; or back, with encode.

    The arguments are those of `scoresde.solve`, which describes them and their errors.
    """
    if isinstance(solver, Corrector):
        raise ValueError(f"solver={solver} stays at a level; wrap it in PredictorCorrector")
    if encode and solver.stochastic:
        raise ValueError(f"solver={solver}: encoding needs a deterministic solver")
    if encode and denoise:
        raise ValueError("denoise=True: a latent code is solved for from t_min; set denoise=False")
    seed = getattr(noise, "seed", None)
    sde = field.sde
    if isinstance(solver, AdaptiveSolver):
        fixed = {"grid": grid, "steps": steps, "nfe": nfe, "callback": callback}
        for name, value in {**fixed, "trajectory": trajectory or None}.items():
            if value is not None:
                raise ValueError(f"{name}={value}: {solver} chooses its own steps; leave it out")
        start, stop = sde.level(sde.T), sde.level(sde.t_min)
        start, stop = (stop, start) if encode else (start, stop)
        x, calls = solve_adaptive(field, x, solver, noise, start, stop, denoise, progress)
        levels = (start, stop, CLEAN) if denoise else (start, stop)
        return Solution(x, calls, levels, solver, seed)
    count = count_steps(solver, steps, nfe, denoise)
    grid = grid or DensityGrid()
    if denoise:
        # one step is T to the data in one go: a grid needs two
        above = grid.levels(sde, count - 1) if count > 1 else (sde.level(sde.T),)
        levels = (*above, CLEAN)
    else:
        levels = grid.levels(sde, count)[:: -1 if encode else 1]
    path = _fixed(field, x, solver, noise, levels, callback, progress, keep=trajectory)
    calls = torch.full((len(x),), field.nfe, device=x.device)
    states = torch.stack(path) if trajectory else None
    return Solution(path[-1], calls, levels, solver, seed, states)


def count_steps(solver: Solver, steps: int | None, nfe: int | None, denoise: bool) -> int:
    """Return the number of steps asked for, or the most that a budget of network calls allows.

    Raises:
        ValueError: both given, steps below 1, or a budget too small for one step.
    """
    if steps is not None and nfe is not None:
        raise ValueError(f"steps={steps} and nfe={nfe}: give one of them")
    if nfe is None:
        steps = DEFAULT_STEPS if steps is None else steps
        if steps < 1:
            raise ValueError(f"steps={steps}: a solve takes at least one step")
        return steps
    least = solver.nfe(1, denoise)
    if nfe < least:
        raise ValueError(f"nfe={nfe}: one step of {solver} takes {least} network calls")
    steps = 1
    while solver.nfe(steps + 1, denoise) <= nfe:
        steps += 1
    return steps


def _fixed(
    field: Field,
    x: Tensor,
    solver: Solver,
    noise: Noise,
    levels: Sequence[Level],
    callback: Callback | None,
    progress: bool,
    keep: bool,
) -> list[Tensor]:
    path, sums = [x], []
    state = solver.init(field, x, levels[0])
    pairs = enumerate(pairwise(levels))
    for k, (here, there) in tqdm(pairs, total=len(levels) - 1, disable=not progress):
        if there.sigma == 0.0:
            x, state, _ = solver.finish(field, x, here, state, noise)
        else:
            x, state, _ = solver.step(field, x, here, there, state, noise)
        sums.append(_sums(x))
        path = [*path, x] if keep else [x]
        if callback is not None:
            callback(k, there, x)
    _check_finite(x, sums, levels, field.nfe)
    return path


def _sums(x: Tensor) -> Tensor:
    """Return each sample's sum (B,): not finite once any of its values is not."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.sum(x.detach(), dim=tuple(range(1, x.ndim)), dtype=dtype)


def _check_finite(x: Tensor, sums: list[Tensor], levels: Sequence[Level], nfe: int) -> None:
    # the one read of the device, after the last step; the meta device has nothing to read
    if x.device.type == "meta" or not len(x):
        return
    finite = torch.stack(sums).isfinite().cpu()
    if finite.all():
        return
    first = int((~finite).any(1).nonzero()[0])
    rows = tuple((~finite).any(0).nonzero().flatten().tolist())
    raise NonFiniteState(
        "the state became NaN or infinite on the way",
        t=float(levels[first + 1].t),
        indices=rows,
        nfe=nfe,
        x=x,
    )
