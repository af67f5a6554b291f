"""Measured orders of convergence of other libraries' samplers, beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.cost import METHODS
from benchmarks.flow import SOLVERS as FLOW
from benchmarks.peers import Method, flow_methods, reverse_methods
from benchmarks.titles import title
from benchmarks.weak import SOLVERS as REVERSE
from scoresde import AdamsPC, Solver
from scoresde.testing import PANEL, convergence

OURS = "scoresde"
STEPS = (16, 32, 64)

# of the test kit's panel, the covariance of two scales, for VP and for VE
PROBLEMS = PANEL[1::6]


class Order(NamedTuple):
    """The order of one sampler, from a cold start.

    Attributes:
        library: whose it is.
        method: its name there.
        declared: the order that it is said to have.
        measured: the least over the problems, of the end point; of the law for a stochastic one.
        error: the largest error on the finest grid.
    """

    library: str
    method: str
    declared: int
    measured: float
    error: float


def order(sampler: Solver | Method, steps: Sequence[int] = STEPS) -> Order:
    """Measure one sampler on problems that the test kit holds ours to."""
    own = isinstance(sampler, Solver)
    subject = sampler if own else sampler.sampler
    curves = [convergence(subject, problem, steps) for problem in PROBLEMS]
    return Order(
        OURS if own else sampler.library,
        title(sampler) if own else sampler.name,
        sampler.order,
        min(curve.order for curve in curves),
        max(curve.errors[-1] for curve in curves),
    )


def samplers(peers: bool) -> tuple[Solver | Method, ...]:
    """Return what is measured: ours, counterparts of theirs included, and if wanted the peers'."""
    own = (AdamsPC(), *FLOW, *REVERSE, *(solver for solver, _ in METHODS.values()))
    theirs = (*flow_methods(), *reverse_methods()) if peers else ()
    return (*dict.fromkeys(own), *theirs)
