"""What a step costs besides the network: tensor operations, reads, and time against a floor."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scoresde import (
    DDIM,
    VPSDE,
    AdamsPC,
    Ancestral,
    Denoiser,
    DensityGrid,
    DPMSolverPP,
    EulerMaruyama,
    Field,
    Heun,
    InjectedNoise,
    SeededNoise,
    Solver,
)
from scoresde.noise import Noise
from scoresde.testing import count_operations

SHAPE = (16, 3, 32, 32)
STEPS = 20

SOLVERS: tuple[Solver, ...] = (
    DDIM(),
    Heun(),
    DPMSolverPP(order=2),
    DPMSolverPP(order=3),
    AdamsPC(),
    EulerMaruyama(),
    Ancestral(),
)


class Cost(NamedTuple):
    """Of one network call, the network's own work aside.

    Attributes:
        operations: tensor operations, drawing noise aside.
        reads: values read from the device.
        times_floor: wall time over that of x * a + p * b, on one thread.
    """

    operations: float
    reads: float
    times_floor: float


class _Constant(nn.Module):
    """A network that costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.out = torch.randn(SHAPE)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.out


def costs() -> dict[str, Cost]:
    """Return the cost of each solver, and of drawing keyed noise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x, p = torch.randn(SHAPE), torch.randn(SHAPE)
        floor = _seconds(lambda: torch.add(x * 0.9, p, alpha=0.1))
        table = {str(solver): _cost(solver, x, p, floor) for solver in SOLVERS}
        noise = SeededNoise(0)
        counter = count_operations(lambda: noise.normal(x, 0.1))
        ratio = _seconds(lambda: noise.normal(x, 0.1)) / floor
        table["one keyed draw of noise"] = Cost(len(counter.operations), len(counter.reads), ratio)
    finally:
        torch.set_num_threads(threads)
    return table


def _cost(solver: Solver, x: Tensor, z: Tensor, floor: float) -> Cost:
    model = Denoiser(_Constant(), VPSDE())
    levels = DensityGrid().levels(model.sde, STEPS)
    calls = STEPS * solver.evals

    def walk() -> None:
        field, state, y = Field(model), None, x
        noise: Noise = InjectedNoise(z for _ in range(STEPS))
        for here, there in pairwise(levels):
            y, state, _ = solver.step(field, y, here, there, state, noise)

    counter = count_operations(walk)
    return Cost(
        len(counter.operations) / calls,
        len(counter.reads) / calls,
        _seconds(walk) / calls / floor,
    )


def _seconds(function: Callable[[], object], repeats: int = 30) -> float:
    def once() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    with torch.no_grad():
        once()
        return median(once() for _ in range(repeats))
