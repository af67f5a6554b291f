"""Strong orders: how fast a sampler settles on one path of the Brownian motion that drives it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from scoresde.analytic import Gaussian
from scoresde.grids import UniformGrid
from scoresde.noise import BrownianNoise, SeededNoise
from scoresde.sde import VPSDE
from scoresde.solvers import Solver
from scoresde.tensors import Scalar
from scoresde.testing.laws import marginal
from scoresde.testing.orders import PANEL, Convergence, Problem
from scoresde.testing.samplers import run

PATHS = 256
NODES = 2**13  # of a path, in even times of its clock

PROBLEM = Problem(PANEL[1].data, VPSDE(T=0.5, t_min=0.1), grid=UniformGrid())
"""Levels between which the clocks of all solvers run over two decades at most."""


def strong_convergence(
    solver: Solver, steps: Sequence[int] = (16, 32, 64, 128, 256, 512)
) -> Convergence:
    """Return how far a solver's end points move as its steps are halved on the same paths.

    The error for n steps is |x_n - x_2n|, root mean square over 256 paths of Gaussian data under
    VP, as a share of their deviation. It falls as n^-p for a solver of strong order p, and not at
    all for one whose draws are no increments of the motion in `Solver.clock`.

    Args:
        solver: a stochastic solver; an adaptive one is run on grids.
        steps: numbers of steps, each twice the one before.

    Raises:
        ValueError: steps that do not double.
    """
    if any(2 * n != m for n, m in pairwise(steps)):
        raise ValueError(f"steps={tuple(steps)}: paths are compared as the steps are halved")
    ends = [walk(solver, n) for n in steps]
    scale = float(ends[-1].std())
    errors = (float((a - b).square().mean().sqrt()) / scale for a, b in pairwise(ends))
    return Convergence(tuple(steps[:-1]), tuple(errors))


def walk(solver: Solver, steps: int | None) -> Tensor:
    """Return where a solver ends on the shared paths, (256, D), in steps of its own if None."""
    model = PROBLEM.data.denoiser(PROBLEM.sde, PROBLEM.data_std)
    ends = [float(solver.clock(PROBLEM.sde.level(t))) for t in (PROBLEM.sde.t_min, PROBLEM.sde.T)]
    noise = PathNoise(min(ends), max(ends))
    how = {"grid": PROBLEM.grid, "steps": steps} if steps else {}
    return run(solver, model, _start(), noise=noise, denoise=False, **how)[0]


@cache
def _start() -> Tensor:
    # draws (256, D) of the data's own law at T
    assert isinstance(PROBLEM.data, Gaussian)
    law = marginal(PROBLEM.data, PROBLEM.sde.level(PROBLEM.sde.T))
    like = torch.empty(PATHS, len(law.mean), dtype=torch.float64)
    return law.sample(SeededNoise(0).normal(like, 0.0), torch.zeros(PATHS, dtype=like.dtype))


@cache
def _table() -> Tensor:
    # W (nodes, 256, D) at even times in [0, 1]
    like = torch.empty(PATHS, NODES * len(PROBLEM.data.mean), dtype=torch.float64)
    moves = SeededNoise(0).normal(like, 1.0).reshape(PATHS, NODES, -1).transpose(0, 1)
    return torch.cat([torch.zeros_like(moves[:1]), moves.cumsum(0)]) * NODES**-0.5


class PathNoise(BrownianNoise):
    """256 Brownian paths as a table over a span of the clock: an increment is a lookup."""

    def __init__(self, start: float, stop: float, table: Tensor | None = None) -> None:
        super().__init__(0, start, stop, resolution=1.0 / NODES)
        self._table = _table() if table is None else table

    def increment(self, like: Tensor, start: Scalar, stop: Scalar) -> Tensor:
        length = abs(stop - start) / (self.stop - self.start)
        return (self._at(stop) - self._at(start)) * (length + 1e-300) ** -0.5

    def rows(self, index: Tensor) -> PathNoise:
        chosen = PathNoise(self.start, self.stop, self._table[:, index])
        chosen._keys = self._keys.rows(index)
        return chosen

    def _at(self, clock: Scalar) -> Tensor:
        node = (clock - self.start) / (self.stop - self.start) * NODES
        if isinstance(node, Tensor):
            below = node.floor().clamp(0, NODES - 1)
            k, each = below.flatten().long(), torch.arange(len(below))
            low, high = self._table[k, each], self._table[k + 1, each]
            return low + (node - below).reshape(-1, 1) * (high - low)
        k = min(max(int(node), 0), NODES - 1)
        return self._table[k] + (node - k) * (self._table[k + 1] - self._table[k])
