"""What a solver is checked for, one function a promise.

Each takes a subject, returns what it measured, and raises `ContractError` with what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass, replace
from itertools import pairwise, repeat
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.denoiser import Denoiser, Field
from scoresde.grids import DensityGrid
from scoresde.integrate import Solution
from scoresde.noise import InjectedNoise, Noise, RecordedNoise, SeededNoise
from scoresde.sampling import solve
from scoresde.sde import SDE, VESDE, VPSDE, Level, RectifiedFlow
from scoresde.solvers import Solver
from scoresde.testing.counting import count_operations
from scoresde.testing.laws import NotAffine
from scoresde.testing.orders import PANEL, ROUGH, Convergence, Family, Problem, convergence
from scoresde.testing.report import ContractError

SLACK = 0.25  # of a measured order below the declared one
FARTHEST = 0.2  # relative error on the finest grid, of what converges to the right thing


@dataclass(frozen=True)
class Subject:
    """What is checked: a family, one of its solvers, that one on fixed grids, and its budget."""

    family: Family
    given: Solver
    solver: Solver
    operations: int


def _hold(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ContractError(otherwise)


def order(subject: Subject) -> str:
    """The error falls at the declared order, and towards the exact solution."""
    solver = subject.solver
    try:
        found = {problem.sde: _curve(subject, problem) for problem in ROUGH}
    except NotAffine:
        return "not measured: not affine in its start and its draws"
    for sde, curve in found.items():
        _hold(
            curve.order >= solver.order - SLACK,
            f"declared {solver.order}, measured on {sde}: {curve}",
        )
        _hold(curve.errors[-1] < FARTHEST, f"converges to something else on {sde}: {curve}")
    measured = ", ".join(f"{curve.order:.2f}" for curve in found.values())
    return f"declared {solver.order}, measured {measured}{' (weak)' * solver.stochastic}"


def _curve(subject: Subject, problem: Problem) -> Convergence:
    """Return the errors on grids fine enough to show the declared order, if any are."""

    def measure(*steps: int) -> Convergence:
        exact_start = not subject.solver.stochastic
        return convergence(subject.family, problem, steps, exact_start=exact_start)

    # an error that changes its sign on the way to 0 has its slope on finer grids only
    declared, curve = subject.solver.order - SLACK, measure(16, 32, 64, 128)
    finer = curve if curve.order >= declared else measure(256, 512)
    return finer if finer.order >= declared else curve


def evals(subject: Subject) -> str:
    """A solve makes the network calls it declares."""
    for steps in range(1, 6):
        for denoise in (False, True):
            calls = int(_solve(subject, steps=steps, denoise=denoise).nfe[0])
            declared = subject.solver.nfe(steps, denoise)
            _hold(
                calls == declared,
                f"declared {declared} network calls in {steps} steps with denoise={denoise}, "
                f"made {calls}",
            )
    return f"{subject.solver.evals} a step"


def stochastic(subject: Subject) -> str:
    """It draws noise if and only if it says so, and from the source it is given."""
    before, declared = torch.get_rng_state(), subject.solver.stochastic
    record = RecordedNoise(SeededNoise(0))
    x = _solve(subject, noise=record).x
    again, other = (_solve(subject, noise=SeededNoise(seed)).x for seed in (0, 1))
    _hold(torch.equal(before, torch.get_rng_state()), "draws from torch's global generator")
    _hold(torch.equal(x, again), "one seed gives two results")
    _hold(
        bool(record.draws) == declared,
        f"declared stochastic={declared}, drew {len(record.draws)} times in 4 steps",
    )
    seeds = "no difference" if declared else "a difference"
    _hold(torch.equal(x, other) != declared, f"stochastic={declared}, but seeds make {seeds}")
    return f"{len(record.draws)} draws in 4 steps"


def grids(subject: Subject) -> str:
    """Every number of steps from 1 works, to t_min and to sigma = 0, on every kind of process."""
    refuses = ""
    for sde in (VPSDE(), VESDE(), RectifiedFlow()):
        try:
            subject.solver.init(Field(_model(sde)), _start(), sde.level(sde.T))
        except ValueError:
            refuses = f"; refuses {sde}"
            continue
        for steps in range(1, 11):
            for denoise in (False, True):
                x = _solve(subject, _model(sde), steps=steps, denoise=denoise).x
                where = f"{steps} steps with denoise={denoise}, on {sde}"
                _hold(bool(x.isfinite().all()), f"not finite in {where}")
        one = _solve(subject, _model(sde), steps=1).x
        far = float((one - _model(sde)(_start(), sde.level(sde.T)).x0).abs().max())
        _hold(far < 1e-4, f"one step to sigma = 0 misses the expected data by {far:.1e} on {sde}")
    return f"1 to 10 steps{refuses}"


def kind(subject: Subject) -> str:
    """The state keeps its shape and its dtype, and is not written to."""
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(2, 3, 4, dtype=dtype)
        end = _solve(subject, x=x).x
        _hold(end.dtype == dtype, f"a state in {dtype} comes out in {end.dtype}")
        _hold(end.shape == x.shape, f"shape {tuple(x.shape)} comes out as {tuple(end.shape)}")
        _hold(bool((x == 1.0).all()), "a step writes into the state it is given")
    return "shape and dtype are kept"


def batch(subject: Subject) -> str:
    """No sample depends on its batch mates."""
    x = _start()
    whole = _solve(subject, x=x).x
    for i in range(len(x)):
        alone = _solve(subject, x=x[i : i + 1], noise=SeededNoise(0, start=i)).x
        _hold(torch.equal(alone[0], whole[i]), f"sample {i} changes with its batch mates")
    return "samples are independent, bit for bit"


def reads(subject: Subject) -> str:
    """A step reads nothing back from the device."""
    solver, levels = subject.solver, DensityGrid().levels(VPSDE(), 4)

    def walk(device: str) -> None:
        x, field = _start().to(device), Field(_model(VPSDE()))
        noise = InjectedNoise(repeat(torch.ones_like(x)))
        *_, (x, state) = _walk(solver, field, x, noise, levels)
        solver.finish(field, x, levels[-1], state, noise)

    reads = sorted(set(count_operations(lambda: walk("cpu")).reads))
    _hold(not reads, f"reads the device: {', '.join(reads)}")
    try:
        walk("meta")
    except (NotImplementedError, RuntimeError) as error:
        raise ContractError(f"needs values, which the meta device has not: {error}") from error
    return "none, nor needs any on the meta device"


def operations(subject: Subject) -> str:
    """A step with its history full takes no more tensor operations than it may."""
    solver, levels, most = subject.solver, DensityGrid().levels(VPSDE(), 10), 0.0
    for predicts in ("eps", "x0", "v"):
        field = Field(Denoiser(_Echo(), VPSDE(), predicts))
        source = InjectedNoise(repeat(_start()))
        *_, (x, state) = _walk(solver, field, _start(), source, levels[:-1])
        calls, record = field.nfe, RecordedNoise(source)
        here, there = levels[-2:]
        counter = count_operations(
            lambda: solver.step(field, x, here, there, state, record)  # noqa: B023
        )
        calls, draws, used = field.nfe - calls, len(record.draws), len(counter.operations)
        allowed = subject.operations * calls + 2 * draws
        _hold(
            used <= allowed,
            f"{used} for {calls} network calls ({predicts}) and {draws} draws, above {allowed}: "
            f"{', '.join(counter.operations)}",
        )
        most = max(most, (used - 2 * draws) / calls)
    return f"{most:g} at most a network call for eps, x0 and v, and 2 a draw"


def stateless(subject: Subject) -> str:
    """A solver is a value, and two solves at once do not mix."""
    given, solver = subject.given, subject.solver
    before, levels = dict(vars(given)), DensityGrid().levels(VPSDE(), 6)
    try:
        given.attribute = None  # type: ignore[attr-defined]
    except FrozenInstanceError:
        pass
    else:
        raise ContractError("takes new attributes: not a frozen dataclass")

    def walks() -> list[Iterator[tuple[Tensor, Any]]]:
        field, noise = Field(_model(VPSDE())), SeededNoise(0)
        return [_walk(solver, field, x, noise, levels) for x in (_start(), -_start())]

    apart = [list(walk)[-1][0] for walk in walks()]
    mixed = [x for x, _ in list(zip(*walks(), strict=True))[-1]]
    _hold(all(map(torch.equal, apart, mixed)), "two solves at once change one another")
    _hold(vars(given) == before, "a solve changes the solver")
    return "a frozen dataclass; solves do not mix"


def gradients(subject: Subject) -> str:
    """Gradients flow to the start and to the network's parameters, and are right."""
    x = _start().double().requires_grad_()
    scale = torch.tensor(0.7, dtype=x.dtype, requires_grad=True)

    def value(shift: float) -> Tensor:
        model = Denoiser(_Curve(scale + shift), VPSDE(), "v")
        return _solve(subject, model, x=x + shift, noise=SeededNoise(0), grad=True).x.sin().sum()

    slope = sum(float(g.sum()) for g in torch.autograd.grad(value(0.0), (x, scale)))
    h = 1e-5
    numeric = float((value(h) - value(-h)).detach()) / (2.0 * h)
    _hold(
        math.isclose(slope, numeric, rel_tol=1e-6, abs_tol=1e-8),
        f"autograd gives the slope {slope:.8g}, finite differences {numeric:.8g}",
    )
    return "those of finite differences"


def tolerance(subject: Subject) -> str:
    """The error of an adaptive solve follows its tolerances."""
    solver, problem, errors = subject.given, PANEL[1], []
    if solver.stochastic:
        return _on_one_path(solver, problem)
    for tol in (1e-4, 1e-6, 1e-8):
        error = problem.error(replace(solver, rtol=tol, atol=tol))  # type: ignore[type-var]
        _hold(error < 20.0 * tol, f"error {error:.1e} at a tolerance of {tol:g}")
        errors.append(error)
    _hold(errors[0] > errors[1] > errors[2], f"errors {errors} do not fall with the tolerance")
    return f"errors {', '.join(f'{e:.1e}' for e in errors)} at 1e-4, 1e-6, 1e-8"


def _on_one_path(solver: Solver, problem: Problem) -> str:
    """Hold the solves of a stochastic solver against a tight one, on the same Brownian path."""
    model = problem.data.denoiser(problem.sde, problem.data_std)

    def end(tol: float) -> Tensor:
        strict = replace(solver, rtol=tol, atol=tol)  # type: ignore[type-var]
        return solve(model, (8, 2), solver=strict, seed=0, denoise=False).x

    exact = end(3e-3)
    coarse, fine = (float((end(tol) - exact).square().mean().sqrt()) for tol in (1e-1, 1e-2))
    _hold(fine < 0.5 * coarse, f"errors {coarse:.1e}, {fine:.1e} do not fall with the tolerance")
    return f"strong errors {coarse:.1e}, {fine:.1e} at 1e-1, 1e-2"


class _Curve(nn.Module):
    """An elementwise network whose arithmetic is the same in every batch, bit for bit."""

    def __init__(self, scale: float | Tensor = 0.7) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.scale * x / (1.0 + x * x)


class _Echo(nn.Module):
    """A network that costs no operation."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x


def _model(sde: SDE) -> Denoiser:
    return Denoiser(_Curve(), sde, "v")


def _start() -> Tensor:
    return torch.linspace(-1.3, 1.7, 15).reshape(5, 3)


def _solve(
    subject: Subject, model: Denoiser | None = None, *, x: Tensor | None = None, **how: Any
) -> Solution:
    how = {"steps": 4, "noise": SeededNoise(0), "solver": subject.solver} | how
    return solve(model or _model(VPSDE()), x=_start() if x is None else x, **how)


def _walk(
    solver: Solver, field: Field, x: Tensor, noise: Noise, levels: tuple[Level, ...]
) -> Iterator[tuple[Tensor, Any]]:
    """Step through levels, and hand out the state and the history on the way."""
    state = solver.init(field, x, levels[0])
    for here, there in pairwise(levels):
        x, state, _ = solver.step(field, x, here, there, state, noise)
        yield x, state
