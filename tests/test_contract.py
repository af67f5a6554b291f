"""Every solver and every process keeps its contract; and how the contracts are asked for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from conftest import PROCESSES
from solver_examples import (
    EXAMPLES,
    SOLVERS,
    concrete_solvers,
    couples,
    label,
    on_steps,
    one_of_each,
)

import scoresde
from scoresde import (
    DDIM,
    DEIS,
    IPNDM,
    PNDM,
    AdamsPC,
    AdaptiveAdams,
    AdaptiveSDE,
    Churned,
    DormandPrince,
    DormandPrince853,
    ExponentialAdams,
    Heun,
    Langevin,
    Noised,
    Restart,
    SASolver,
    Solver,
    Step,
    StochasticAdamsPC,
    Tsitouras,
    UniC,
    UniP,
    UniPC,
)
from scoresde.testing import (
    ContractError,
    Finding,
    OperationCounter,
    Sampler,
    SolverContract,
    check_process,
    check_solver,
    count_operations,
)

# the loop hands these a history, or several stages, to combine
OPERATIONS = {AdamsPC: 12, UniC: 12, UniPC: 12, DormandPrince: 7, Tsitouras: 7, DormandPrince853: 9}
OPERATIONS |= dict.fromkeys((SASolver, StochasticAdamsPC, AdaptiveSDE), 12)
# two sums over up to five slopes, of the predictor and of what it expects
OPERATIONS |= {AdaptiveAdams: 16}
# four slopes to add up are one more than the budget has room for
OPERATIONS |= dict.fromkeys((DEIS, ExponentialAdams, IPNDM, PNDM, UniP), 7)

# whose errors fall at the order late, or into rounding early
STEPS = {Tsitouras: (96, 192), DormandPrince853: (12, 24, 48)}


def test_every_solver_of_the_package_has_examples_and_is_exported():
    assert concrete_solvers() == set(EXAMPLES)
    assert {c.__name__ for c in EXAMPLES} <= set(scoresde.__all__)
    assert {c.__name__ for c in EXAMPLES} <= set(scoresde.solvers.__all__)


@pytest.mark.parametrize("solver", one_of_each(SOLVERS), ids=label)
def test_solver_keeps_its_contract(solver):
    plain = solver.plain if isinstance(solver, Restart) else solver
    kind = type(plain.solver if isinstance(plain, Noised) else plain)
    steps = STEPS.get(kind, (16, 32, 64, 128))
    report = check_solver(on_steps(solver), operations=OPERATIONS.get(kind, 6), steps=steps)
    assert [f.check for f in report.failed] == ["batch"] * couples(solver), str(report)


@pytest.mark.parametrize("name", PROCESSES)
def test_process_keeps_its_contract(name):
    check_process(PROCESSES[name]).raise_if_failed()


class TestDDIM(SolverContract):
    solver = DDIM()


def churned(n):
    return Churned(Heun(), 1.0 / n)


class Adaptive(SolverContract):
    solver = DormandPrince()


class Family(SolverContract):
    """A function from the number of steps to a solver stays a function."""

    solver = churned


class Loop(SolverContract):
    solver = Sampler(lambda field, x, levels, noise: x, order=1)


@pytest.mark.parametrize("contract", [TestDDIM, Adaptive, Family, Loop])
def test_a_contract_has_a_test_for_each_check_that_applies(contract):
    report = check_solver(vars(contract)["solver"])
    tests = {name for name in dir(contract) if name.startswith("test_")}
    assert tests == {f"test_{found.check}" for found in report.findings}


def test_a_broken_contract_fails_by_the_name_of_the_check():
    with pytest.raises(ContractError, match=r"breaks:\n  FAIL  order .*converges to something"):
        Loop().test_order()
    Loop().test_batch()
    assert not any(name.startswith("test_") for name in dir(SolverContract))


@dataclass(frozen=True)
class Exact(Solver):
    """Follows the closed form of the flow, where the data have one."""

    order = 1
    stochastic = False

    def step(self, field, x, here, there, state, noise):
        return Step(field.model.data.flow(x, here, there))


def test_a_solver_without_errors_leaves_no_order_to_measure():
    found = next(f for f in check_solver(Exact()).findings if f.check == "order")
    assert (found.held, found.detail) == (True, "declared 1, measured exact, exact, exact")


def test_a_report_without_failures_raises_nothing():
    report = check_solver(DDIM())
    report.raise_if_failed()
    assert not report.failed
    assert str(report).startswith("DDIM(eta=0.0)\n  ok    order")


def test_a_long_finding_is_folded():
    text = str(Finding("order", False, "declared 2, measured 1: " + "on and " * 30))
    assert max(map(len, text.splitlines())) <= 100
    assert text.splitlines()[1].startswith(" " * 21 + "on")


def test_a_corrector_is_refused():
    with pytest.raises(ValueError, match=r"solver=Langevin.*PredictorCorrector"):
        check_solver(Langevin())


def test_the_kit_asks_for_no_test_framework():
    code = "import sys, scoresde.testing; print({'pytest', 'hypothesis'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


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
