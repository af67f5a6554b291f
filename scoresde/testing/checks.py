"""What every sampler is checked for, one function a promise.

Each takes a subject, returns what it measured, and raises `ContractError` with what is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.denoiser import Denoiser, Field
from scoresde.grids import FixedGrid, LogSNRGrid
from scoresde.noise import InjectedNoise, RecordedNoise, SeededNoise
from scoresde.sde import SDE, VESDE, VPSDE, RectifiedFlow
from scoresde.solvers import Solver
from scoresde.testing.laws import NotAffine
from scoresde.testing.orders import ROUGH, Convergence, Family, Problem, convergence
from scoresde.testing.report import ContractError, hold
from scoresde.testing.samplers import Sampler, run

SLACK = 0.25  # of a measured order below the declared one
FARTHEST = 0.2  # relative error on the finest grid, of what converges to the right thing
EXACT = 1e-11  # relative error, on every grid, of what leaves no order to measure


@dataclass(frozen=True)
class Subject:
    """What is checked.

    Attributes:
        family: as it was handed in.
        given: a member of the family.
        sampler: that member on fixed grids.
        operations: tensor operations that a step may take for each network call.
        steps: numbers of steps that the order is measured on.
    """

    family: Family
    given: Solver | Sampler
    sampler: Solver | Sampler
    operations: int
    steps: tuple[int, ...]


def order(subject: Subject) -> str:
    """The error falls at the declared order, and towards the exact solution."""
    sampler, declared = subject.sampler, subject.sampler.order
    try:
        found = {problem.sde: _curve(subject, problem) for problem in ROUGH}
    except NotAffine:
        return "not measured: not affine in its start and its draws"
    for sde, curve in found.items():
        hold(curve.errors[-1] < FARTHEST, f"converges to something else on {sde}: {curve}")
        hold(
            declared is None or curve.order >= declared - SLACK or _is_exact(curve),
            f"declared {declared}, measured on {sde}: {curve}",
        )
    curves = found.values()
    measured = ", ".join("exact" if _is_exact(c) else f"{c.order:.2f}" for c in curves)
    claim = "none" if declared is None else declared
    return f"declared {claim}, measured {measured}{' (weak)' * sampler.stochastic}"


def evals(subject: Subject) -> str:
    """A solve makes the network calls it declares."""
    sampler, declared, calls = subject.sampler, subject.sampler.evals, 0
    for steps in range(1, 6):
        for denoise in (False, True):
            _, calls = solve(subject, steps=steps, denoise=denoise)
            if isinstance(sampler, Solver):
                expected = sampler.nfe(steps, denoise)
            else:
                # how a whole loop takes its last step to sigma = 0 is its own affair
                expected = calls if denoise or declared is None else declared * steps
            hold(
                calls == expected,
                f"declared {expected} network calls in {steps} steps with denoise={denoise}, "
                f"made {calls}",
            )
    return f"{declared} a step" if declared is not None else f"{calls} in 5 steps"


def stochastic(subject: Subject) -> str:
    """It draws noise if and only if it says so, and from the source it is given."""
    before, declared = torch.get_rng_state(), subject.sampler.stochastic
    record = RecordedNoise(SeededNoise(0))
    x, _ = solve(subject, noise=record)
    again, other = (solve(subject, noise=SeededNoise(seed))[0] for seed in (0, 1))
    hold(
        torch.equal(before, torch.get_rng_state()),
        "draws from torch's global generator; draw from `noise`, or wrap in InjectedDraws",
    )
    hold(torch.equal(x, again), "one seed gives two results")
    hold(
        bool(record.draws) == declared,
        f"declared stochastic={declared}, drew {len(record.draws)} times in 4 steps",
    )
    seeds = "no difference" if declared else "a difference"
    hold(torch.equal(x, other) != declared, f"stochastic={declared}, but seeds make {seeds}")
    return f"{len(record.draws)} draws in 4 steps"


def grids(subject: Subject) -> str:
    """Every number of steps from 1 works, to t_min and to sigma = 0, on every kind of process."""
    refuses = ""
    for sde in (VPSDE(), VESDE(), RectifiedFlow()):
        if float(sde.alpha(sde.T)) == 0.0 and _refuses(subject, sde):
            refuses = f"; refuses {sde}, where alpha is 0"
            continue
        for steps in range(1, 11):
            for denoise in (False, True):
                where = f"{steps} steps with denoise={denoise}, on {sde}"
                try:
                    x, _ = solve(subject, curved(sde), steps=steps, denoise=denoise)
                except Exception as error:
                    what = f"raised {type(error).__name__} in {where}: {error}"
                    raise ContractError(what) from error
                hold(bool(x.isfinite().all()), f"not finite in {where}")
        one, _ = solve(subject, curved(sde), steps=1)
        far = float((one - curved(sde)(start(), sde.level(sde.T)).x0).abs().max())
        hold(far < 1e-4, f"one step to sigma = 0 misses the expected data by {far:.1e} on {sde}")
    return f"1 to 10 steps{refuses}"


def kind(subject: Subject) -> str:
    """The state keeps its shape and its dtype under any network's, and is not written to."""
    single, _ = solve(subject)
    for state, network in (
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float16),
    ):
        net = Curve(nn.Parameter(torch.tensor(0.7, dtype=network)))
        x = start().to(state).reshape(5, 3, 1)
        kept = x.clone()
        end, _ = solve(subject, Denoiser(net, VPSDE(), "v"), x=x)
        hold(end.dtype == state, f"a state in {state} comes out in {end.dtype}")
        hold(end.shape == x.shape, f"shape {tuple(x.shape)} comes out as {tuple(end.shape)}")
        hold(torch.equal(x, kept), "a step writes into the state it is given")
        far = float((end.reshape(5, 3) - single).abs().max() / single.abs().max())
        hold(far < 0.05, f"a network in {network} moves the samples by a share of {far:.1e}")
    return "shape and dtype are kept, under networks in half precision too"


def precision(subject: Subject) -> str:
    """The scalars of a solve are float64: its end depends on its levels as smoothly as that."""
    times = LogSNRGrid().times(VPSDE(), 4)
    ends = []
    for k in range(8):
        moved = tuple(t * (1.0 - 3e-7 * k) for t in times)
        model = curved(VPSDE(T=moved[0], t_min=moved[-1]))
        how = {"grid": FixedGrid(moved), "denoise": False, "noise": InjectedNoise(repeat(start()))}
        ends.append(solve(subject, model, x=start().double(), **how)[0])
    path = torch.stack(ends)
    # curvature leaves 1e-12 or so; one scalar rounded to float32 leaves 1e-8
    rough = float(path.diff(n=2, dim=0).abs().max() / path.abs().max())
    hold(rough < 1e-9, f"jumps by {rough:.1e} as the levels move: rounds a scalar below float64")
    return f"scalars in float64 (jumps of {rough:.0e})"


def batch(subject: Subject) -> str:
    """No sample depends on its batch mates."""
    x = start()
    whole, _ = solve(subject, x=x)
    for i in range(len(x)):
        alone, _ = solve(subject, x=x[i : i + 1], noise=SeededNoise(0, start=i))
        hold(torch.equal(alone[0], whole[i]), f"sample {i} changes with its batch mates")
    return "samples are independent, bit for bit"


class Curve(nn.Module):
    """An elementwise network whose arithmetic is the same in every batch, bit for bit."""

    def __init__(self, scale: float | Tensor = 0.7) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.scale * x / (1.0 + x * x)


def curved(sde: SDE) -> Denoiser:
    """Return the denoiser that checks run on, under a process."""
    return Denoiser(Curve(), sde, "v")


def start() -> Tensor:
    """Return the state (5, 3) that checks start from."""
    return torch.linspace(-1.3, 1.7, 15).reshape(5, 3)


def solve(
    subject: Subject, model: Denoiser | None = None, *, x: Tensor | None = None, **how: Any
) -> tuple[Tensor, int]:
    """Run the subject, in four steps with one seed where nothing else is said."""
    how = {"steps": 4, "noise": SeededNoise(0)} | how
    return run(subject.sampler, model or curved(VPSDE()), start() if x is None else x, **how)


def _curve(subject: Subject, problem: Problem) -> Convergence:
    """Return the errors on grids fine enough to show the declared order, if any are."""
    sampler, declared = subject.sampler, subject.sampler.order
    by_steps = isinstance(sampler, Solver) and not sampler.stochastic
    curve = convergence(subject.family, problem, subject.steps, exact_start=by_steps)
    if declared is None or curve.order >= declared - SLACK or _is_exact(curve):
        return curve
    # an error that changes its sign on the way to 0 has its slope on finer grids only
    finer = convergence(subject.family, problem, (256, 512), exact_start=by_steps)
    return finer if finer.order >= declared - SLACK else curve


def _is_exact(curve: Convergence) -> bool:
    return max(curve.errors) < EXACT


def _refuses(subject: Subject, sde: SDE) -> bool:
    # a solver refuses at the door, a whole loop has none: there ten steps must tell
    sampler = subject.sampler
    try:
        if isinstance(sampler, Solver):
            sampler.init(Field(curved(sde)), start(), sde.level(sde.T))
        else:
            solve(subject, curved(sde), steps=10)
    except ValueError:
        return True
    return False
