"""The contract of a solver: what `check_solver` holds it to."""

from __future__ import annotations

from collections.abc import Callable

from scoresde.solvers import AdaptiveSolver, Corrector
from scoresde.testing import checks
from scoresde.testing.checks import Subject
from scoresde.testing.orders import Family, on_grid
from scoresde.testing.report import ContractError, Finding, Report

CHECKS = (
    checks.order,
    checks.evals,
    checks.stochastic,
    checks.grids,
    checks.kind,
    checks.batch,
    checks.reads,
    checks.operations,
    checks.stateless,
    checks.gradients,
)


def check_solver(
    solver: Family, *, operations: int = 6, steps: tuple[int, ...] = (16, 32, 64, 128)
) -> Report:
    """Hold a solver to what it declares, and to what every solver promises.

    Args:
        solver: the solver, or a function from the number of steps to one, for a method whose
            hyper-parameters must go with the grid for it to converge.
        operations: tensor operations that a step may take for each network call, drawing noise
            aside; two more are allowed for each draw.
        steps: numbers of steps, increasing, that the order is measured on. A method of high order
            wants few, before its errors drown in rounding.

    Raises:
        ValueError: a corrector, which stays at a level; check it inside a `PredictorCorrector`.
    """
    one = solver(8) if callable(solver) else solver
    if isinstance(one, Corrector):
        raise ValueError(f"solver={one} stays at a level; check it in a PredictorCorrector")
    subject = Subject(solver, one, on_grid(one), operations, steps)
    held_to = (*CHECKS, checks.tolerance) if isinstance(one, AdaptiveSolver) else CHECKS
    return Report(one, tuple(_run(check, subject) for check in held_to))


def _run(check: Callable[[Subject], str], subject: Subject) -> Finding:
    name = check.__name__
    try:
        return Finding(name, True, check(subject))
    except ContractError as broken:
        return Finding(name, False, str(broken))
    except Exception as error:  # whatever a solver does wrong, its report says so
        return Finding(name, False, f"raised {type(error).__name__}: {error}")
