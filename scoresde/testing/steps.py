"""What a solver is checked for beyond any sampler: its steps, which a whole loop hides."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from itertools import pairwise, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from scoresde.denoiser import Denoiser, Field
from scoresde.grids import DensityGrid, LogSNRGrid
from scoresde.noise import InjectedNoise, Noise, RecordedNoise, SeededNoise
from scoresde.sde import VPSDE, Level
from scoresde.solvers import AdaptiveSolver, Solver
from scoresde.testing.checks import SLACK, Curve, Subject, curved, solve, start
from scoresde.testing.counting import count_operations
from scoresde.testing.orders import PANEL
from scoresde.testing.report import ContractError, hold
from scoresde.testing.strong import PROBLEM, strong_convergence, walk


def strong(subject: Subject) -> str:
    """The error on given Brownian paths falls at the declared order, where one is declared."""
    declared = solver_of(subject).strong_order
    try:
        curve = strong_convergence(solver_of(subject), (16, 32, 64, 128))
    except ValueError as error:
        hold(declared is None, f"declared {declared}, refuses {PROBLEM.sde}: {error}")
        return f"declared none, not measured: refuses {PROBLEM.sde}"
    slope = sum(curve.slopes) / max(len(curve.slopes), 1)
    hold(declared is None or slope >= declared - SLACK, f"declared {declared}, measured {curve}")
    return f"declared {'none' if declared is None else declared}, measured {slope:.2f}"


def reads(subject: Subject) -> str:
    """A step reads nothing back from the device."""
    solver, levels = solver_of(subject), DensityGrid().levels(VPSDE(), 4)

    def through(device: str) -> None:
        x, field = start().to(device), Field(curved(VPSDE()))
        noise = InjectedNoise(repeat(torch.ones_like(x)))
        *_, (x, state) = _walk(solver, field, x, noise, levels)
        solver.finish(field, x, levels[-1], state, noise)

    reads = sorted(set(count_operations(lambda: through("cpu")).reads))
    hold(not reads, f"reads the device: {', '.join(reads)}")
    try:
        through("meta")
    except (NotImplementedError, RuntimeError) as error:
        raise ContractError(f"needs values, which the meta device has not: {error}") from error
    return "none, nor needs any on the meta device"


def operations(subject: Subject) -> str:
    """A step with its history full takes no more tensor operations than it may."""
    solver, most = solver_of(subject), 0.0
    for predicts in ("eps", "x0", "v"):
        field = Field(Denoiser(_Echo(), VPSDE(), predicts))
        record = RecordedNoise(_Same(start()))
        arguments = _full(solver, field, record)
        calls, drawn = field.nfe, len(record.draws)
        counter = count_operations(lambda: solver.step(*arguments))  # noqa: B023
        calls, draws, used = field.nfe - calls, len(record.draws) - drawn, len(counter.operations)
        allowed = subject.operations * calls + 2 * draws
        hold(
            used <= allowed,
            f"{used} for {calls} network calls ({predicts}) and {draws} draws, above {allowed}: "
            f"{', '.join(counter.operations)}",
        )
        most = max(most, (used - 2 * draws) / calls)
    return f"{most:g} at most a network call for eps, x0 and v, and 2 a draw"


def compiles(subject: Subject) -> str:
    """A step compiles into one graph that does what the step does."""
    solver = solver_of(subject)
    arguments = _full(solver, Field(Denoiser(_Echo(), VPSDE(), "v")), _Same(start()))
    torch.compiler.reset()  # of what earlier checks compiled: there is a limit for each function
    compiled = torch.compile(solver.step, fullgraph=True, backend="eager", dynamic=False)
    with torch.no_grad():
        plain, fast = solver.step(*arguments), compiled(*arguments)
    for a, b in zip(tree_leaves(plain), tree_leaves(fast), strict=True):
        if isinstance(a, Tensor):
            hold(torch.equal(a, b), "a compiled step does something else than the step")
    return "in one graph, to the same bits"


def history(subject: Subject) -> str:
    """The history has an end, and an order that it cannot reach is refused, high or low."""
    solver, model = solver_of(subject), curved(VPSDE())
    sizes = []
    for steps in (12, 24):
        levels = DensityGrid().levels(VPSDE(), steps)
        *_, (_, state) = _walk(solver, Field(model), start(), SeededNoise(0), levels)
        sizes.append(sum(isinstance(leaf, Tensor) for leaf in tree_leaves(state)))
    hold(
        sizes[0] == sizes[1],
        f"keeps {sizes[0]} tensors after 12 steps and {sizes[1]} after 24: cut the history off",
    )
    given: Any = subject.given
    for field in fields(given) if is_dataclass(given) else ():
        if field.init and field.name in _REACHES:
            for value in (0, 1000):
                _hold_refused(given, field.name, value)
    return f"{sizes[0]} tensors between steps"


def stateless(subject: Subject) -> str:
    """A solver is a value, and two solves at once do not mix."""
    given, solver = subject.given, solver_of(subject)
    before, levels = dict(vars(given)), DensityGrid().levels(VPSDE(), 6)
    try:
        given.attribute = None  # type: ignore[attr-defined]
    except FrozenInstanceError:
        pass
    else:
        raise ContractError("takes new attributes: not a frozen dataclass")

    def walks() -> list[Iterator[tuple[Tensor, Any]]]:
        field, noise = Field(curved(VPSDE())), SeededNoise(0)
        return [_walk(solver, field, x, noise, levels) for x in (start(), -start())]

    apart = [list(walk)[-1][0] for walk in walks()]
    mixed = [x for x, _ in list(zip(*walks(), strict=True))[-1]]
    hold(all(map(torch.equal, apart, mixed)), "two solves at once change one another")
    hold(vars(given) == before, "a solve changes the solver")
    return "a frozen dataclass; solves do not mix"


def gradients(subject: Subject) -> str:
    """Gradients flow to the start and to the network's parameters, and are right."""
    x = start().double().requires_grad_()
    scale = torch.tensor(0.7, dtype=x.dtype, requires_grad=True)

    def value(shift: float) -> Tensor:
        model = Denoiser(Curve(scale + shift), VPSDE(), "v")
        return solve(subject, model, x=x + shift, gradient="direct")[0].sin().sum()

    slope = sum(float(g.sum()) for g in torch.autograd.grad(value(0.0), (x, scale)))
    h = 1e-5
    numeric = float((value(h) - value(-h)).detach()) / (2.0 * h)
    hold(
        math.isclose(slope, numeric, rel_tol=1e-6, abs_tol=1e-8),
        f"autograd gives the slope {slope:.8g}, finite differences {numeric:.8g}",
    )
    return "those of finite differences"


def tolerance(subject: Subject) -> str:
    """The error of an adaptive solve follows its tolerances."""
    solver = subject.given
    assert isinstance(solver, AdaptiveSolver)
    if solver.stochastic:
        return _tolerance_on_paths(subject)
    # a method of low order takes thousands of steps to a tight tolerance
    tolerances = (1e-3, 1e-4, 1e-5) if solver.order < 3 else (1e-4, 1e-6, 1e-8)
    errors = []
    for tol in tolerances:
        error = PANEL[1].error(replace(solver, rtol=tol, atol=tol))
        hold(error < 20.0 * tol, f"error {error:.1e} at a tolerance of {tol:g}")
        errors.append(error)
    hold(errors[0] > errors[1] > errors[2], f"errors {errors} do not fall with the tolerance")
    measured = ", ".join(f"{e:.1e}" for e in errors)
    return f"errors {measured} at {', '.join(f'{tol:.0e}' for tol in tolerances)}"


def _tolerance_on_paths(subject: Subject) -> str:
    # what a rejected step drew belongs to the path: steps that draw afresh leave it
    fine, errors = walk(solver_of(subject), 512), []
    for tol in (1e-1, 1e-2):
        adapted = replace(subject.given, rtol=tol, atol=tol)  # type: ignore[type-var]
        change = (walk(adapted, None) - fine).square().mean().sqrt()
        errors.append(float(change / fine.std()))
    found = f"errors {', '.join(f'{e:.1e}' for e in errors)} on given Brownian paths at 1e-1, 1e-2"
    hold(
        errors[1] < min(errors[0], 0.3),
        f"{found} do not fall with the tolerance: every try of a step must refine the same path",
    )
    return found


def _hold_refused(solver: Any, name: str, value: int) -> None:
    """Hold a solver to refusing a value of a hyper-parameter, by its name."""
    try:
        replace(solver, **{name: value})
    except ValueError as error:
        hold(f"{name}={value}" in str(error), f"the error for {name}={value} says: {error}")
    else:
        raise ContractError(f"{name}={value} is accepted; refuse what cannot be reached")


# what hyper-parameters are called that say how many slopes, predictions or stages make a step
_REACHES = ("order", "nodes", "stages")


class _Echo(nn.Module):
    """A network that costs no operation."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x


class _Same(Noise):
    """One draw at every address, which a compiler can trace."""

    def __init__(self, draw: Tensor) -> None:
        self._draw = draw

    def normal(self, like: Tensor, *address: Any) -> Tensor:
        return self._draw

    def fold(self, key: int) -> Noise:
        return self

    def rows(self, index: Tensor) -> Noise:
        return self


def solver_of(subject: Subject) -> Solver:
    """Return the solver that these checks are for."""
    assert isinstance(subject.sampler, Solver)
    return subject.sampler


def _walk(
    solver: Solver, field: Field, x: Tensor, noise: Noise, levels: tuple[Level, ...]
) -> Iterator[tuple[Tensor, Any]]:
    """Step through levels, and hand out the state and the history on the way."""
    state = solver.init(field, x, levels[0])
    for here, there in pairwise(levels):
        x, state, _ = solver.step(field, x, here, there, state, noise)
        yield x, state


def _full(solver: Solver, field: Field, noise: Noise) -> tuple[Any, ...]:
    """Return the arguments of a step with its history full."""
    levels = LogSNRGrid().levels(VPSDE(), 40)
    *_, (x, state) = _walk(solver, field, start(), noise, levels[:-1])
    return field, x, *levels[-2:], state, noise
