"""The measurements as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from benchmarks import traces as trace
from benchmarks.cost import Cost
from benchmarks.flow import OURS, OWN_GRIDS, SOLVERS, Flow, default_on, of, of_peers
from benchmarks.flow import Row as Solve
from benchmarks.likelihood import TARGETS, Likelihood
from benchmarks.orders import Order
from benchmarks.scale import Scale
from benchmarks.titles import title
from benchmarks.weak import SOLVERS as REVERSE
from benchmarks.weak import Row as Weak


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shares(flow: Flow) -> str:
    """Return the errors of the default solver as shares of the best peer's."""
    rows = []
    for grid in OWN_GRIDS:
        means = (f"**{flow.mean_share(grid, n):.2f}**" for n in flow.calls)
        rows.append([f"**{grid}: mean over the families**", *means])
        for problem in flow.problems:
            each = (f"{flow.share(grid, problem, n):.2f}" for n in flow.calls)
            rows.append([f"{grid}: {problem}", *each])
    return table(["network calls", *map(str, flow.calls)], rows)


def means(flow: Flow) -> str:
    """Return the errors of the default solver and of the best peers, averaged over the families."""

    def cells(name: str, keep: Callable[[Solve], bool]) -> list[str]:
        return [name, *(_found(flow.mean(n, keep), "") for n in flow.calls)]

    rows = [cells(f"best of {peer}", of(peer)) for peer in flow.peers]
    if flow.peers:
        one = (f"{flow.single(n):.1e}" for n in flow.calls)
        rows += [["best one method on one grid", *one], cells("best of all", of_peers)]
    rows += [cells(f"**{OURS}, {grid}**", default_on(grid)) for grid in OWN_GRIDS]
    return table(["network calls", *map(str, flow.calls)], rows)


def errors(flow: Flow, problem: str) -> str:
    """Return the errors on one problem: of ours, and of the best that each peer has."""

    def cells(name: str, keep: Callable[[Solve], bool], *, named: bool = False) -> list[str]:
        found = [flow.best(problem, n, keep) for n in flow.calls]
        return [name, *(_found(e, who if named else "") for e, who in found)]

    def own(method: str) -> Callable[[Solve], bool]:
        return lambda row: row.library == OURS and row.method == method

    rows = [cells(f"**default, {grid}**", default_on(grid)) for grid in OWN_GRIDS]
    rows += [cells(f"`{title(solver)}`", own(title(solver))) for solver in SOLVERS]
    rows += [cells(f"best of {peer}", of(peer), named=True) for peer in flow.peers]
    return table([problem, *map(str, flow.calls)], rows)


def weak(rows: Sequence[Weak]) -> str:
    """Return the weak errors: of each of ours, and of the best that each peer has."""
    calls = list(dict.fromkeys(row.calls for row in rows))

    def line(name: str, mine: Sequence[Weak], *, named: bool = False) -> list[str]:
        best = [min((r for r in mine if r.calls == n), key=lambda r: r.error) for n in calls]
        detail = (f" ({r.method}, {r.grid})" if named else "" for r in best)
        return [name, *(f"{r.error:.1e}{d}" for r, d in zip(best, detail, strict=True))]

    lines = [
        line(f"`{method}`", [r for r in rows if r.method == method])
        for method in dict.fromkeys(row.method for row in rows if row.library == OURS)
    ]
    lines += [
        line(f"best of {peer}", [r for r in rows if r.library == peer], named=True)
        for peer in dict.fromkeys(row.library for row in rows if row.library != OURS)
    ]
    ratios = [weak_share(rows, n) for n in calls] if any(r.library != OURS for r in rows) else []
    if ratios:
        lines.append(["**default, as a share of the best peer**", *(f"{r:.2f}" for r in ratios)])
    return table(["network calls", *map(str, calls)], lines)


def weak_share(rows: Sequence[Weak], calls: int) -> float:
    """Return the weak error of our default as a share of the best peer's."""
    (ours,) = (r.error for r in rows if r.method == title(REVERSE[0]) and r.calls == calls)
    return ours / min(r.error for r in rows if r.library != OURS and r.calls == calls)


def cost(costs: Iterable[Cost]) -> str:
    """Return what a network call costs besides the network."""
    head = ["method", "library", "tensor operations", "reads", "microseconds", "over the floor"]
    rows = (
        [c.method, c.library, f"{c.operations:.1f}", f"{c.reads:.1f}", f"{c.microseconds:.0f}",
         f"{c.times_floor:.1f}"]
        for c in costs
    )  # fmt: skip
    return table(head, rows)


def likelihood_means(found: Likelihood) -> str:
    """Return the network calls for a mean error, averaged over the problems."""
    return _likelihood("mean error, nats", found, found.mean, found.mean_share)


def likelihood(found: Likelihood, problem: str) -> str:
    """Return the network calls for a mean error on one problem."""
    return _likelihood(problem, found, partial(found.calls, problem), partial(found.share, problem))


def _likelihood(
    head: str,
    found: Likelihood,
    calls: Callable[[tuple[str, str], float], float],
    share: Callable[[float], float],
) -> str:
    rows = []
    for library, method in found.methods:
        name = f"**{method}**" if library == OURS else f"{library}, {method}"
        each = (calls((library, method), target) for target in TARGETS)
        rows.append([name, *("not reached" if n == math.inf else f"{n:.0f}" for n in each)])
    if found.peers:
        shares = (f"{share(target):.2f}" for target in TARGETS)
        rows.append(["**default, as a share of the best peer**", *shares])
    return table([head, *(f"{target:.0e}" for target in TARGETS)], rows)


def traces(rows: Sequence[trace.Row], problem: str) -> str:
    """Return the standard errors of trace estimates on one problem."""
    found = {(r.estimator, r.products): r.stderr for r in rows if r.problem == problem}
    products = list(dict.fromkeys(n for _, n in found))
    lines = [
        [name, *(f"{found[name, n]:.2f}" for n in products)]
        for name in dict.fromkeys(name for name, _ in found)
    ]
    return table([f"{problem}: network evaluations", *map(str, products)], lines)


def scale(scales: Iterable[Scale]) -> str:
    """Return how the cost besides the network grows."""
    head = ["state", "numbers", "microseconds", "the floor's", "over the floor"]
    rows = (
        [str(s.shape), str(s.numbers), f"{s.microseconds:.0f}", f"{s.floor:.0f}",
         f"{s.microseconds / s.floor:.1f}"]
        for s in scales
    )  # fmt: skip
    return table(head, rows)


def orders(found: Iterable[Order]) -> str:
    """Return the measured orders beside the declared ones."""
    rows = (
        [o.library, f"`{o.method}`", str(o.declared), f"{o.measured:.2f}", f"{o.error:.1e}"]
        for o in found
    )
    return table(["library", "method", "order declared", "measured", "largest error"], rows)


def _found(error: float, name: str) -> str:
    if error == math.inf:
        return "none so few"
    return f"{error:.1e} ({name})" if name else f"{error:.1e}"
