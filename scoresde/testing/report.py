"""What came of holding something to its contract."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

Subject = TypeVar("Subject")

WIDTH = 100
_INDENT = 21  # of what a finding says


class ContractError(AssertionError):
    """Something that does not hold what it declares, or what all of its kind promise."""


@dataclass(frozen=True)
class Finding:
    """What came of one check.

    Attributes:
        check: its name.
        held: whether the subject holds it.
        detail: what was measured, or what is wrong.
    """

    check: str
    held: bool
    detail: str

    def __str__(self) -> str:
        return textwrap.fill(
            f"  {'ok  ' if self.held else 'FAIL'}  {self.check:<12} {self.detail}",
            WIDTH, subsequent_indent=_INDENT * " ", break_on_hyphens=False,
        )  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What came of all checks of a solver, a sampler or a process.

    Attributes:
        subject: what was checked.
        findings: one for each check.
    """

    subject: Any
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The findings that the subject does not hold."""
        return tuple(f for f in self.findings if not f.held)

    def raise_if_failed(self) -> None:
        """Raise if anything failed.

        Raises:
            ContractError: with the failed findings.
        """
        if self.failed:
            raise ContractError("\n".join([f"{self.subject} breaks:", *map(str, self.failed)]))

    def __str__(self) -> str:
        return "\n".join([str(self.subject), *map(str, self.findings)])


def hold(condition: bool, otherwise: str) -> None:
    """Raise `ContractError`, with what is wrong, unless a condition holds."""
    if not condition:
        raise ContractError(otherwise)


def findings(checks: Iterable[Callable[[Subject], str]], subject: Subject) -> tuple[Finding, ...]:
    """Run every check, and return what came of each."""
    return tuple(finding(check, subject) for check in checks)


def finding(check: Callable[[Subject], str], subject: Subject) -> Finding:
    """Run a check, which returns what it measured or raises `ContractError`, and say what came."""
    name = check.__name__
    try:
        return Finding(name, True, check(subject))
    except ContractError as broken:
        return Finding(name, False, str(broken))
    except Exception as error:  # whatever the subject does wrong, its report says so
        what = textwrap.shorten(str(error), 400)  # a compiler's errors fill pages
        return Finding(name, False, f"raised {type(error).__name__}: {what}")
