"""What was wanted of the solvers before they were written, and whether it is met."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from benchmarks.cost import METHODS, Cost
from benchmarks.flow import OURS, OWN_GRIDS, Flow
from benchmarks.likelihood import TARGETS, Likelihood
from benchmarks.scale import Scale
from benchmarks.tables import table, weak_share
from benchmarks.traces import PLAIN
from benchmarks.traces import Row as Estimate
from benchmarks.weak import Row as Weak
from scoresde import AdamsPC, SASolver, Solver, StochasticAdamsPC, UniPC

MEANS = dict(zip(OWN_GRIDS, (1 / 3, 1 / 5), strict=True))
"""Largest mean over the families of the error's share of the best peer's, by grid."""

FAMILY = 1 / 2
"""Largest share for any one family."""

CALLS = 1 / 2
"""Most network calls of a likelihood, in those of the best peer for the same error."""

STDERR = 1 / 2
"""Largest standard error of the default trace, in that of plain Rademacher probes."""

FLOORS = 4.0
"""Most time of a step besides the network, in that of x * a + p * b."""

PEERS = 1 / 2
"""Most time of a step, in that of the fastest peer with the same method."""


def errors(flow: Flow, weak: Sequence[Weak]) -> str:
    """Return the shares of the best peer's error that were wanted, and those found."""

    def row(
        name: str, found: Callable[[int], float | None], limit: Callable[[int], float]
    ) -> list[str]:
        return [name, *(_cell(found(n), limit(n)) for n in flow.calls)]

    rows = []
    for grid, mean in MEANS.items():
        rows += [
            row(
                f"flow, {grid}: mean over the families, at most {mean:.2f}",
                lambda n, grid=grid: flow.mean_share(grid, n),
                lambda n, mean=mean: mean if n > 5 else 1.0,
            ),
            row(
                f"flow, {grid}: no family above {FAMILY:.2f}",
                lambda n, grid=grid: max(flow.share(grid, name, n) for name in flow.families),
                lambda n: FAMILY if n > 5 else 1.0,
            ),
        ]
    known = {r.calls for r in weak}
    rows.append(
        row(
            "weak error at full noise: at most 0.50 at 10 calls, 0.20 from 20",
            lambda n: weak_share(weak, n) if n in known else None,
            lambda n: 0.5 if n == 10 else 0.2,
        )
    )
    return table(["share of the best peer's error", *map(str, flow.calls)], rows)


def likelihood(found: Likelihood) -> str:
    """Return the network calls that were wanted of a likelihood, and those found."""
    means = (_cell(found.mean_share(target), CALLS) for target in TARGETS)
    rows = [[f"mean over the problems, at most {CALLS:.2f}", *means]]
    for problem in found.problems:
        each = (_cell(found.share(problem, target), CALLS) for target in TARGETS)
        rows.append([problem, *each])
    head = "share of the best peer's calls for a mean error in nats of"
    return table([head, *(f"{target:.0e}" for target in TARGETS)], rows)


def traces(rows: Sequence[Estimate]) -> str:
    """Return the standard errors that were wanted of the default trace, and those found."""
    found = {(r.problem, r.estimator, r.products): r.stderr for r in rows}
    products = dict.fromkeys(r.products for r in rows)
    lines = [
        [f"{name}, at most {STDERR:.2f}", *(
            _cell(found[name, "default", n] / found[name, PLAIN, n], STDERR) for n in products
        )]
        for name in dict.fromkeys(r.problem for r in rows)
    ]  # fmt: skip
    head = "share of plain Rademacher's standard error, at network evaluations of"
    return table([head, *map(str, products)], lines)


def costs(found: Iterable[Cost]) -> str:
    """Return the costs that were wanted of a network call, and those found."""
    rows = []
    for method, group in groupby(found, lambda c: c.method):
        each = list(group)
        # noise as the others draw it, where there is noise
        ours = next(c for c in each if c.library.startswith(OURS))
        theirs = [c.microseconds for c in each if not c.library.startswith(OURS)]
        share = ours.microseconds / min(theirs) if theirs else None
        rows.append(
            [
                method,
                _cell(ours.operations, _operations(METHODS[method][0]), ".1f"),
                _cell(ours.reads, 0.0, ".0f"),
                _cell(ours.times_floor, FLOORS, ".1f"),
                _cell(share, PEERS),
            ]
        )
    head = [
        "method",
        "operations: at most 6; 12 if it corrects; 2 more with noise",
        "reads: none",
        f"times the floor: under {FLOORS:.0f}",
        f"share of the fastest peer's time: under {PEERS:.2f}",
    ]
    return table(head, rows)


def growth(scales: Iterable[Scale]) -> str:
    """Say how alike the times are of states of other shapes and as many numbers."""
    ordered = sorted(scales, key=lambda s: s.numbers)
    groups = [[s.microseconds for s in g] for _, g in groupby(ordered, lambda s: s.numbers)]
    ratio = max((max(group) / min(group) for group in groups), default=1.0)
    return f"States of as many numbers differ in time by a factor of {ratio:.2f} at most."


def _operations(solver: Solver) -> float:
    corrects = isinstance(solver, AdamsPC | UniPC | SASolver | StochasticAdamsPC)
    return (12.0 if corrects else 6.0) + 2.0 * solver.stochastic


def _cell(found: float | None, limit: float, form: str = ".2f") -> str:
    if found is None:
        return ""
    return f"**{found:{form}}**" if found <= limit else f"{found:{form}}"
