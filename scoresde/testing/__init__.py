"""The test kit: hold a solver, a sampler or a process, yours or ours, to what it says of itself.

    report = scoresde.testing.check_solver(MySolver())
    print(report)
    report.raise_if_failed()

`law` gives the exact law of a sampler's output on Gaussian data, `convergence` its errors
against exact solutions, `strong_convergence` those on given Brownian paths, and
`OperationCounter` what it asks of the tensors. `scoresde.testing.strategies`, which needs
hypothesis, draws the problems that properties are tested on.
"""

from scoresde.testing.contract import SolverContract, check_solver
from scoresde.testing.counting import OperationCounter, count_operations
from scoresde.testing.laws import NotAffine, law, marginal, weak_error
from scoresde.testing.orders import (
    PANEL,
    ROUGH,
    AlternatingGrid,
    Convergence,
    Problem,
    convergence,
    measured_order,
)
from scoresde.testing.processes import check_process
from scoresde.testing.reference import ExactReverse
from scoresde.testing.report import ContractError, Finding, Report
from scoresde.testing.samplers import InjectedDraws, Sampler
from scoresde.testing.strong import strong_convergence

__all__ = [
    "PANEL",
    "ROUGH",
    "AlternatingGrid",
    "ContractError",
    "Convergence",
    "ExactReverse",
    "Finding",
    "InjectedDraws",
    "NotAffine",
    "OperationCounter",
    "Problem",
    "Report",
    "Sampler",
    "SolverContract",
    "check_process",
    "check_solver",
    "convergence",
    "count_operations",
    "law",
    "marginal",
    "measured_order",
    "strong_convergence",
    "weak_error",
]
