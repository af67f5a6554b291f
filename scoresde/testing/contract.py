"""The contracts of a solver and of a whole sampling loop, for a call, for pytest, for a shell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from scoresde.solvers import AdaptiveSolver, Corrector
from scoresde.testing import checks
from scoresde.testing import steps as walks
from scoresde.testing.checks import Subject
from scoresde.testing.orders import Family, on_grid
from scoresde.testing.report import ContractError, Report, finding, findings
from scoresde.testing.samplers import Sampler

Check = Callable[[Subject], str]

STEPS = (16, 32, 64, 128)

OF_SAMPLERS: tuple[Check, ...] = (
    checks.order,
    checks.evals,
    checks.stochastic,
    checks.grids,
    checks.kind,
    checks.precision,
    checks.batch,
)

OF_SOLVERS: tuple[Check, ...] = (
    *OF_SAMPLERS,
    walks.reads,
    walks.operations,
    walks.compiles,
    walks.history,
    walks.stateless,
    walks.gradients,
)


def check_solver(solver: Family, *, operations: int = 6, steps: tuple[int, ...] = STEPS) -> Report:
    """Hold a solver to what it declares, and to what every solver promises.

    Args:
        solver: the solver, or a function from the number of steps to one, for a method whose
            hyper-parameters must go with the grid for it to converge. Or a whole loop, as a
            `Sampler`, which is held to what does not need its steps.
        operations: tensor operations that a step may take for each network call, drawing noise
            aside; two more are allowed for each draw.
        steps: numbers of steps, increasing, that the order is measured on. A method of high order
            wants few, before its errors drown in rounding.

    Raises:
        ValueError: a corrector, which stays at a level; check it inside a `PredictorCorrector`.
    """
    subject = _subject(solver, operations, steps)
    return Report(subject.given, findings(_held_to(subject), subject))


class SolverContract:
    """The contract as tests: one for each check, in a class of your own.

        class TestMine(SolverContract):
            solver = MySolver()

    Attributes:
        solver, operations, steps: as for `check_solver`.
    """

    solver: ClassVar[Any]
    operations: ClassVar[int] = 6
    steps: ClassVar[tuple[int, ...]] = STEPS

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "solver" not in vars(cls):
            return
        # looked up on the class, a function would become a method
        subject = _subject(vars(cls)["solver"], cls.operations, cls.steps)
        for check in _held_to(subject):
            setattr(cls, f"test_{check.__name__}", _test(check, subject))


def _subject(solver: Family, operations: int, steps: tuple[int, ...]) -> Subject:
    one = solver(8) if callable(solver) else solver
    if isinstance(one, Corrector):
        raise ValueError(f"solver={one} stays at a level; check it in a PredictorCorrector")
    return Subject(solver, one, on_grid(one), operations, steps)


def _held_to(subject: Subject) -> tuple[Check, ...]:
    if isinstance(subject.given, Sampler):
        return OF_SAMPLERS
    strong = (walks.strong,) * subject.given.stochastic
    adaptive = (walks.tolerance,) * isinstance(subject.given, AdaptiveSolver)
    return (*OF_SOLVERS, *strong, *adaptive)


def _test(check: Check, subject: Subject) -> Callable[[Any], None]:
    def test(self: Any) -> None:
        found = finding(check, subject)
        if not found.held:
            raise ContractError(f"{subject.given} breaks:\n{found}")

    test.__name__, test.__doc__ = f"test_{check.__name__}", check.__doc__
    return test
