"""Every solver keeps the contract, and the contract catches solvers that do not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from solver_examples import EXAMPLES, SOLVERS, churns, concrete_solvers, couples, label

import scoresde
from scoresde import (
    DDIM,
    AdamsPC,
    AdaptiveSDE,
    DormandPrince,
    DPMSolverPP,
    Euler,
    Heun,
    Langevin,
    SASolver,
    Step,
    StochasticAdamsPC,
)
from scoresde.tensors import lincomb
from scoresde.testing import ContractError, OperationCounter, check_solver, count_operations

# the loop hands these a history, or several stages, to combine
OPERATIONS = {AdamsPC: 12, DormandPrince: 8, SASolver: 12, StochasticAdamsPC: 12, AdaptiveSDE: 12}


def test_every_solver_of_the_package_has_examples_and_is_exported():
    assert concrete_solvers() == set(EXAMPLES)
    assert {c.__name__ for c in EXAMPLES} <= set(scoresde.__all__)
    assert {c.__name__ for c in EXAMPLES} <= set(scoresde.solvers.__all__)


@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_solver_keeps_its_contract(solver):
    family = solver
    if churns(solver):
        family = lambda n: Heun(churn=1.0 / n)  # noqa: E731
    report = check_solver(family, operations=OPERATIONS.get(type(solver), 6))
    assert [f.check for f in report.failed] == ["batch"] * couples(solver), str(report)


@dataclass(frozen=True)
class Drifting(Euler):
    """Converges at order 1, but to the flow of another time span."""

    def step(self, field, x, here, there, state, noise):
        dt = 1.3 * (there.t - here.t)
        return Step(lincomb((1.0, x), (dt, field(x, here).velocity)))


@dataclass(frozen=True)
class Boastful(Heun):
    order = 3


@dataclass(frozen=True)
class Even(DPMSolverPP):
    """Takes the last step for as long as this one, and says it is no worse for that."""

    def step(self, field, x, here, there, state, noise):
        if state:
            (_, term), *older = state
            state = ((2.0 * here.lam - there.lam, term), *older)
        return super().step(field, x, here, there, state, noise)


@dataclass(frozen=True)
class Wasteful(Euler):
    def step(self, field, x, here, there, state, noise):
        field(x, here)
        return super().step(field, x, here, there, state, noise)


@dataclass(frozen=True)
class Secretive(DDIM):
    stochastic = False

    def step(self, field, x, here, there, state, noise):
        step = super().step(field, x, here, there, state, noise)
        return Step(step.x + 0.01 * noise.normal(x, here.t))


@dataclass(frozen=True)
class GlobalNoise(Euler):
    stochastic = True

    def step(self, field, x, here, there, state, noise):
        return Step(super().step(field, x, here, there, state, noise).x + torch.randn_like(x))


@dataclass(frozen=True)
class TwoStepsAtLeast(Euler):
    def finish(self, field, x, here, state, noise):
        return Step(field(x, here).x0 / state)

    def step(self, field, x, here, there, state, noise):
        return Step(super().step(field, x, here, there, state, noise).x, 1.0)


@dataclass(frozen=True)
class Blind(Euler):
    """Loses its way where alpha is 0."""

    def step(self, field, x, here, there, state, noise):
        step = super().step(field, x, here, there, state, noise)
        return Step(step.x if here.alpha > 0.0 else step.x * math.nan)


@dataclass(frozen=True)
class Promoting(Euler):
    def step(self, field, x, here, there, state, noise):
        return super().step(field, x.double(), here, there, state, noise)


@dataclass(frozen=True)
class Overwriting(Euler):
    def step(self, field, x, here, there, state, noise):
        return Step(x.add_(field(x, here).velocity, alpha=there.t - here.t))


@dataclass(frozen=True)
class Coupled(Euler):
    def step(self, field, x, here, there, state, noise):
        step = super().step(field, x, here, there, state, noise)
        return Step(step.x + 1e-3 * (there.t - here.t) * x.mean(0, keepdim=True))


@dataclass(frozen=True)
class Reading(Euler):
    def step(self, field, x, here, there, state, noise):
        size = 1.0 if x.abs().max() < 1e6 else 0.5
        return Step(super().step(field, x, here, there, state, noise).x * size)


@dataclass(frozen=True)
class Heavy(Euler):
    def step(self, field, x, here, there, state, noise):
        step = super().step(field, x, here, there, state, noise)
        return Step(step.x + 0.0 * x.sin().cos().tanh())


@dataclass(frozen=True)
class Remembering(Euler):
    """Adds the last velocity, kept on itself: two solves at once take each other's."""

    def step(self, field, x, here, there, state, noise):
        last = self.__dict__.get("last", 0.0)
        object.__setattr__(self, "last", field(x, here).velocity)
        return Step(x + (there.t - here.t) * 0.5 * (self.last + last))


class Undecorated(Euler):
    pass


@dataclass(frozen=True)
class Detached(Euler):
    def step(self, field, x, here, there, state, noise):
        dt = there.t - here.t
        return Step(lincomb((1.0, x), (dt, field(x, here).velocity.detach())))


@pytest.mark.parametrize(
    ("solver", "broken"),
    [
        (Drifting(), "order"),
        (Boastful(), "order"),
        (Even(), "order"),
        (Wasteful(), "evals"),
        (Secretive(), "stochastic"),
        (GlobalNoise(), "stochastic"),
        (TwoStepsAtLeast(), "grids"),
        (Blind(), "grids"),
        (Promoting(), "kind"),
        (Overwriting(), "kind"),
        (Coupled(), "batch"),
        (Reading(), "reads"),
        (Heavy(), "operations"),
        (Remembering(), "stateless"),
        (Undecorated(), "stateless"),
        (Detached(), "gradients"),
    ],
    ids=label,
)
def test_contract_names_what_a_solver_breaks(solver, broken):
    report = check_solver(solver)
    assert broken in [f.check for f in report.failed], str(report)
    with pytest.raises(ContractError, match=broken):
        report.raise_if_failed()
    assert f"FAIL  {broken}" in str(report)


def test_a_report_without_failures_raises_nothing():
    report = check_solver(DDIM())
    report.raise_if_failed()
    assert not report.failed
    assert str(report).startswith("DDIM(eta=0.0)\n  ok    order")


def test_a_corrector_is_refused():
    with pytest.raises(ValueError, match=r"solver=Langevin.*PredictorCorrector"):
        check_solver(Langevin())


def test_counter_counts_operations_but_no_views():
    x = torch.ones(3, 4)
    counter = count_operations(lambda: (x.reshape(2, 6) + 1.0).mul(2.0)[0].flatten().detach())
    assert counter.operations == ["add", "mul"]
    assert counter.reads == []


def test_counter_sees_reads():
    x, mask = torch.ones(3), torch.tensor([True, False, True])
    for read in (
        lambda: bool(x.any()),
        lambda: x.sum().item(),
        lambda: x.nonzero(),
        lambda: x[mask],
        lambda: torch.equal(x, x),
    ):
        assert len(count_operations(read).reads) == 1
    with OperationCounter() as counter:
        x[torch.tensor([0, 2])]
        torch.where(mask, x, 0.0)
    assert counter.reads == []
