"""What tables call a solver of ours."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from scoresde import Solver


def title(solver: Solver) -> str:
    """Return the shortest call that makes a solver: its class, and what differs from the default.

    A function is given by its name.
    """
    frozen: Any = solver
    settings = ((f.name, getattr(solver, f.name), f.default) for f in fields(frozen) if f.init)
    given = (f"{name}={_short(value)}" for name, value, default in settings if value != default)
    return f"{type(solver).__name__}({', '.join(given)})"


def _short(value: Any) -> str:
    return getattr(value, "__name__", repr(value))
