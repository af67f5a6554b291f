"""What a step costs besides the network: tensor operations, reads, and time against a floor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.peers import flow_methods, reverse_methods
from scoresde import (
    DDIM,
    DEIS,
    VPSDE,
    AdamsPC,
    Ancestral,
    Denoiser,
    DensityGrid,
    DPMSolverPP,
    DPMSolverPPSingle,
    EulerMaruyama,
    ExponentialAdams,
    Field,
    Heun,
    PolarFrame,
    Rho,
    SASolver,
    SDEDPMSolverPP,
    SeededNoise,
    Solver,
    StochasticAdamsPC,
    UniPC,
)
from scoresde.noise import Noise
from scoresde.tensors import Scalar
from scoresde.testing import count_operations

SHAPE = (16, 3, 32, 32)
STEPS = 20
OURS = "scoresde"

METHODS: dict[str, tuple[Solver, tuple[str, ...]]] = {
    "DDIM": (DDIM(), ("k-diffusion euler", "azula Euler", "diffusers DDIM")),
    "Heun": (Heun(), ("k-diffusion heun", "azula Heun")),
    "DPM-Solver++ 2S": (DPMSolverPPSingle(), ("k-diffusion dpmpp_2s",)),
    "DPM-Solver++ 2M": (
        DPMSolverPP(),
        ("k-diffusion dpmpp_2m", "azula xEAB2", "diffusers DPM-Solver++ 2M"),
    ),
    "DPM-Solver++ 3M": (
        DPMSolverPP(order=3),
        ("k-diffusion dpmpp_3m", "azula xEAB3", "diffusers DPM-Solver++ 3M"),
    ),
    "linear multistep 4": (DEIS(4, Rho()), ("k-diffusion lms",)),
    "DEIS 3": (DEIS(), ("azula zAB3", "diffusers DEIS 3")),
    "UniPC 3": (UniPC(), ("diffusers UniPC 3 bh2 of x0",)),
    "Rosenbrock Adams 3": (ExponentialAdams(3, PolarFrame()), ("azula REAB3",)),
    "default": (AdamsPC(), ("diffusers UniPC 3 bh2 of x0",)),
    "Euler-Maruyama": (EulerMaruyama(), ("azula Ito",)),
    "ancestral": (
        Ancestral(),
        ("k-diffusion euler_ancestral", "azula DDPM", "diffusers DDPM"),
    ),
    "SDE-DPM-Solver++ 2M": (
        SDEDPMSolverPP(),
        ("k-diffusion dpmpp_2m_sde", "diffusers SDE-DPM-Solver++ 2M midpoint"),
    ),
    "SDE-DPM-Solver++ 3M": (SDEDPMSolverPP(nodes=3), ("k-diffusion dpmpp_3m_sde",)),
    "SA-Solver 3": (SASolver(), ("diffusers SA-Solver 3 tau=1",)),
    "default, noise": (StochasticAdamsPC(), ("diffusers SA-Solver 3 tau=1",)),
}
"""Methods by name, as ours and as others have them; the defaults beside what is nearest to them."""


class Cost(NamedTuple):
    """Of one network call, the network's own work aside.

    Attributes:
        method: the method.
        library: whose implementation.
        operations: tensor operations.
        reads: values read from the device.
        microseconds: wall time on one thread.
        times_floor: that over the time of x * a + p * b.
    """

    method: str
    library: str
    operations: float
    reads: float
    microseconds: float
    times_floor: float


class _Constant(nn.Module):
    """A network that costs nothing."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.out


class _Unkeyed(Noise):
    """Noise from torch's global generator, as the other libraries draw theirs."""

    def normal(self, like: Tensor, *address: Scalar) -> Tensor:
        return torch.randn_like(like)

    def fold(self, key: int) -> Noise:
        return self

    def rows(self, index: Tensor) -> Noise:
        return self


def costs(method: str, peers: bool) -> Iterator[Cost]:
    """Measure ours and, if wanted, the peers' implementations of one of `METHODS`."""
    solver, names = METHODS[method]
    x, out = torch.randn(SHAPE), torch.randn(SHAPE)
    with one_thread():
        unit = floor(x)
        calls = STEPS * solver.evals
        if solver.stochastic:
            unkeyed = walk(solver, x, noise=_Unkeyed())
            yield _cost(method, f"{OURS}, torch.randn", unkeyed, calls, unit)
        yield _cost(method, OURS, walk(solver, x), calls, unit)
        theirs = {str(m): m for m in (*flow_methods(), *reverse_methods())} if peers else {}
        levels = DensityGrid().levels(VPSDE(), STEPS)
        for peer in (theirs[name] for name in names if peers):
            loop = partial(peer.solve, peer.wiring.constant(out), x, levels, None)
            yield _cost(method, peer.library, loop, STEPS * peer.evals, unit)


def walk(
    solver: Solver, x: Tensor, steps: int = STEPS, noise: Noise | None = None
) -> Callable[[], Tensor]:
    """Return a solve of ours over a network that costs nothing, with keyed noise by default."""
    source = noise or SeededNoise(0)
    field = Field(Denoiser(_Constant(torch.randn_like(x)), VPSDE()))
    levels = DensityGrid().levels(field.sde, steps)

    def solve() -> Tensor:
        y, state = x, solver.init(field, x, levels[0])
        for here, there in pairwise(levels):
            y, state, _ = solver.step(field, y, here, there, state, source)
        return y

    return solve


def floor(x: Tensor) -> float:
    """Return the seconds that x * a + p * b takes."""
    p = torch.randn_like(x)
    return seconds(lambda: torch.add(x * 0.9, p, alpha=0.1))


def seconds(function: Callable[[], object], repeats: int = 15) -> float:
    """Return the shortest time of a call, the least disturbed by what else the machine does."""

    def once() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    with torch.no_grad():
        once()
        return min(once() for _ in range(repeats))


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread within a block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _cost(method: str, library: str, loop: Callable[[], Tensor], calls: int, unit: float) -> Cost:
    with torch.no_grad():
        counter = count_operations(loop)
    spent = seconds(loop) / calls
    return Cost(
        method,
        library,
        len(counter.operations) / calls,
        len(counter.reads) / calls,
        1e6 * spent,
        spent / unit,
    )
