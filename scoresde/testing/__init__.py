"""The test kit: hold a solver, yours or ours, to what it says of itself.

    report = scoresde.testing.check_solver(MySolver())
    print(report)
    report.raise_if_failed()

`law` gives the exact law of a sampler's output on Gaussian data, `convergence` its errors
against exact solutions, and `OperationCounter` what it asks of the tensors.
"""

from scoresde.testing.contract import check_solver
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
from scoresde.testing.reference import ExactReverse
from scoresde.testing.report import ContractError, Finding, Report

__all__ = [
    "PANEL",
    "ROUGH",
    "AlternatingGrid",
    "ContractError",
    "Convergence",
    "ExactReverse",
    "Finding",
    "NotAffine",
    "OperationCounter",
    "Problem",
    "Report",
    "check_solver",
    "convergence",
    "count_operations",
    "law",
    "marginal",
    "measured_order",
    "weak_error",
]
