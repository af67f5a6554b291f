"""What came of holding a solver to its contract."""

from __future__ import annotations

from dataclasses import dataclass

from scoresde.solvers import Solver


class ContractError(AssertionError):
    """A solver that does not hold what it declares."""


@dataclass(frozen=True)
class Finding:
    """What came of one check.

    Attributes:
        check: its name.
        held: whether the solver holds it.
        detail: what was measured, or what is wrong.
    """

    check: str
    held: bool
    detail: str

    def __str__(self) -> str:
        return f"  {'ok  ' if self.held else 'FAIL'}  {self.check:<12} {self.detail}"


@dataclass(frozen=True)
class Report:
    """What came of all checks of a solver.

    Attributes:
        solver: the solver.
        findings: one for each check.
    """

    solver: Solver
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The findings that the solver does not hold."""
        return tuple(f for f in self.findings if not f.held)

    def raise_if_failed(self) -> None:
        """Raise if anything failed.

        Raises:
            ContractError: with the failed findings.
        """
        if self.failed:
            raise ContractError("\n".join([f"{self.solver} breaks:", *map(str, self.failed)]))

    def __str__(self) -> str:
        return "\n".join([str(self.solver), *map(str, self.findings)])
