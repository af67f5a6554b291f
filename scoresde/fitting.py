"""Grids fitted to a model: steps where its own flow bends, from one pilot solve.

Equal local errors make the least global one for a given number of steps (Hairer, Norsett and
Wanner 1993, Sec. II.4). What a step does wrong depends on the flow alone, so that a pilot solve on
fine steps tells the errors of every coarser grid, without another network call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scoresde.denoiser import BaseDenoiser, Prediction
from scoresde.grids import FittedGrid, LogSNRGrid, default_grid
from scoresde.integrate import count_steps
from scoresde.noise import SeededNoise
from scoresde.sampling import placement, sample
from scoresde.sde import Level
from scoresde.solvers import AdamsPC, AdaptiveSolver, Solver
from scoresde.solvers.adams import bashforth, moulton
from scoresde.solvers.frames import PolarFrame
from scoresde.solvers.interpolation import gauss

Array = NDArray[np.float64]

PILOT_STEPS = 160
COORDINATES = 64  # of each sample, at most, that errors are measured on
ROUNDS = 12
APART = 1e-3  # deviation of the neighbours that tell how errors grow
SLOPE_SHARE = 2.0  # of a predicted state's error, how much the slope there passes on
NEGLIGIBLE = 1e-9  # error of a step, in the deviation of the state


def fit_grid(
    model: BaseDenoiser,
    solver: Solver | None = None,
    nfe: int = 20,
    *,
    shape: tuple[int, ...],
    cond: dict[str, Any] | None = None,
    seed: int = 0,
) -> FittedGrid:
    """Return a grid for solves of `nfe` network calls, fitted to the flow of a model.

    A pilot solve of 161 network calls carries samples and close neighbours of theirs from T to
    t_min. It tells the slope v of the polar frame along each path, and how much of an error made
    on the way is left at the end. From these follow the errors of the steps of any grid: the
    Adams pair of the solver's order stands for the solver. The density of the steps is moved
    until these errors are even, and its geometric mean with that of the default grid is
    returned, which guards against what a pilot does not see.

    Args:
        model: the denoiser.
        solver: deterministic; `AdamsPC()` by default.
        nfe: network calls of the solves that the grid is for.
        shape: of the pilot's samples (B, *); 32 samples are enough.
        cond: the pilot's condition, of 2 B rows where it has one a sample.
        seed: of the pilot's starts.

    Raises:
        ValueError: a solver that is stochastic or adaptive; an empty shape; nfe too small.
    """
    solver = solver or AdamsPC()
    if solver.stochastic or isinstance(solver, AdaptiveSolver):
        raise ValueError(
            f"solver={solver}: a grid is fitted for a deterministic solver that takes its steps"
        )
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"shape={shape}: the pilot needs samples (B, *), such as 32 of them")
    pilot = _fly(model, shape, cond, seed)
    steps = count_steps(solver, None, nfe, denoise=False)
    start = np.array([level.lam for level in default_grid(model.data_std).levels(model.sde, steps)])
    start[0] = max(start[0], pilot.lams[0])
    lams = _even_out(pilot, start, min(solver.order, 3))
    return FittedGrid(tuple(_between(lams, start, pilot).tolist()))


@dataclass(frozen=True)
class _Pilot:
    """What a pilot solve saw, at evenly spaced lam.

    Attributes:
        lams: (N,), increasing.
        slopes: v (N, B, C) of B samples in C coordinates.
        growth: log of the factor (N, B) by which an error made there grows until the end.
        data_std: of the frame.
    """

    lams: Array
    slopes: Array
    growth: Array
    data_std: float

    def read(self, lams: Array) -> Array:
        """Return weights (len(lams), N) of a quintic interpolation of what is known at `lams`."""
        gap = self.lams[1] - self.lams[0]
        place = (lams - self.lams[0]) / gap
        first = np.clip(np.floor(place).astype(int) - 2, 0, len(self.lams) - 6)
        nodes = first[:, None] + np.arange(6)
        weights = np.ones(nodes.shape)
        for j in range(6):
            for i in range(6):
                if i != j:
                    weights[:, j] *= (place - nodes[:, i]) / (j - i)
        full = np.zeros((len(lams), len(self.lams)))
        np.put_along_axis(full, nodes, weights, axis=1)
        return full


class _Recorder(BaseDenoiser):
    """A denoiser that keeps the slopes of the samples, and how far their neighbours are."""

    def __init__(self, model: BaseDenoiser) -> None:
        super().__init__(model.sde, model.data_std)
        self.model = model
        self.slopes: list[Array] = []
        self.distances: list[Array] = []

    def forward(self, x: Tensor, level: Level, **cond: Any) -> Prediction:
        c, half = self.data_std, len(x) // 2
        prediction = self.model(x, level, **cond)
        of_x0, of_eps = PolarFrame().coefficients(level, self.sde, c)
        v = prediction.combine(x0=of_x0, eps=of_eps)[:half].flatten(1)
        apart = (x[half:] - x[:half]).flatten(1).norm(dim=1) / level.radius(c)
        every = -(-v.shape[1] // COORDINATES)
        self.slopes.append(v[:, ::every].double().cpu().numpy())
        self.distances.append(apart.double().cpu().numpy())
        return prediction


def _fly(
    model: BaseDenoiser, shape: tuple[int, ...], cond: dict[str, Any] | None, seed: int
) -> _Pilot:
    like = torch.empty(shape, **placement(model, None, dtype=torch.float64))
    noise = SeededNoise(seed)
    start, nudge = model.sde.prior().draw(noise.normal(like)), noise.fold(1).normal(like)
    recorder = _Recorder(model)
    scale = APART * float(model.sde.sigma(model.sde.T))
    x = torch.cat([start, start + scale * nudge])
    grid, dtype = LogSNRGrid(), like.dtype
    sample(recorder, x=x, grid=grid, steps=PILOT_STEPS + 1, cond=cond, state_dtype=dtype)
    distances = np.log(np.stack(recorder.distances) + 1e-300)
    levels = grid.levels(model.sde, PILOT_STEPS)
    # the first level may lie at lam = -inf; the others are even
    return _Pilot(
        lams=np.linspace(float(levels[1].lam), float(levels[-1].lam), PILOT_STEPS),
        slopes=np.stack(recorder.slopes)[1:],
        growth=(distances[-1] - distances)[1:],
        data_std=model.data_std,
    )


def _errors(pilot: _Pilot, lams: Array, nodes: int) -> Array:
    """Return what each step of a grid adds to the error at the end (steps,)."""
    angles = np.arctan2(np.exp(-lams), pilot.data_std)
    rows = pilot.read(lams)
    added = []
    for k, (low, high) in enumerate(pairwise(lams.tolist())):
        old = tuple(float(a) for a in angles[max(0, k + 1 - nodes) : k + 1][::-1])
        there, values = float(angles[k + 1]), rows[k - np.arange(len(old))]
        predicted = np.array(bashforth(there, old)) @ values
        surprise, gain = moulton((there, *old))
        corrected = predicted + gain * (np.array(surprise) @ np.vstack([rows[k + 1], values]))
        points, weights = np.array(gauss(float(low), float(high), 16)).T
        rise = pilot.data_std * np.exp(points)  # 1 / tan(phi)
        exact = (-weights / (rise + 1.0 / rise)) @ pilot.read(points)
        size = _norm(exact - corrected, pilot) + SLOPE_SHARE * min(1.0, high - low) * _norm(
            exact - predicted, pilot
        )
        added.append(float((np.exp(rows[k + 1] @ pilot.growth) * size).mean()))
    return np.array(added)


def _norm(weights: Array, pilot: _Pilot) -> Array:
    return np.sqrt(np.square(np.tensordot(weights, pilot.slopes, 1)).mean(-1))


def _even_out(pilot: _Pilot, lams: Array, nodes: int) -> Array:
    """Return the best grid of those on the way to even errors."""
    steps, best, least = len(lams) - 1, lams, math.inf
    density = _density(lams, pilot)
    for _ in range(ROUNDS):
        errors = _errors(pilot, lams, nodes)
        if (total := float(np.linalg.norm(errors))) < least - NEGLIGIBLE:
            best, least = lams, total
        density *= _smooth(lams, errors, pilot) ** (0.7 / (nodes + 1))
        density /= density.sum()
        lams = _quantiles(0.8 * density + 0.2 / len(density), steps, pilot)
    return best


def _smooth(lams: Array, errors: Array, pilot: _Pilot) -> Array:
    """Return errors by lam of the pilot, averaged in the logarithm over about one step."""
    middle, gaps = 0.5 * (lams[1:] + lams[:-1]), np.diff(lams)
    at = np.interp(pilot.lams, middle, np.log(errors + NEGLIGIBLE))
    width = np.interp(pilot.lams, middle, gaps)[:, None]
    bell = np.exp(-0.5 * ((pilot.lams[:, None] - pilot.lams) / width) ** 2)
    mean = bell @ at / bell.sum(1)
    return np.exp(mean - mean.max())


def _density(lams: Array, pilot: _Pilot) -> Array:
    """Return the density of a grid's steps at the pilot's lams."""
    middle = 0.5 * (lams[1:] + lams[:-1])
    density = np.exp(np.interp(pilot.lams, middle, -np.log(np.diff(lams))))
    return density / density.sum()


def _between(lams: Array, others: Array, pilot: _Pilot) -> Array:
    """Return the quantiles of the geometric mean of two grids' densities."""
    both = np.sqrt(_density(lams, pilot) * _density(others, pilot))
    return _quantiles(both, FittedGrid.RESOLUTION, pilot)


def _quantiles(density: Array, count: int, pilot: _Pilot) -> Array:
    mass = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    return np.interp(np.linspace(0.0, 1.0, count + 1), mass / mass[-1], pilot.lams)
