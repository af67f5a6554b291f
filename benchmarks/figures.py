"""The measurements as pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.flow import OURS, OWN_GRIDS, Flow, default_on, of
from benchmarks.flow import Row as Solve
from benchmarks.likelihood import Likelihood
from benchmarks.scale import Scale
from benchmarks.titles import title
from benchmarks.weak import SOLVERS
from benchmarks.weak import Row as Weak

COLOURS = {
    "k-diffusion": "#7f7f7f",
    "azula": "#e08214",
    "diffusers": "#8073ac",
    "torchdiffeq": "#2166ac",
    "torchode": "#b2182b",
    "SciPy": "#bf9b30",
    "flow_matching": "#4d4d4d",
}
INK = "#1b7837"


def flow(found: Flow, path: Path) -> None:
    """Draw error against network calls, a panel for each problem."""
    figure = Figure((9.6, 5.4), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True).flat
    for axes, problem in zip(panels, found.problems, strict=True):
        _errors(axes, found, lambda n, keep, name=problem: found.best(name, n, keep)[0])
        axes.set_title(problem, fontsize=10)
    figure.supxlabel("network calls", fontsize=10)
    figure.supylabel("relative error of the flow's end point", fontsize=10)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)


def mean(found: Flow, path: Path) -> None:
    """Draw error against network calls, averaged over the families."""
    figure = Figure((7.6, 3.2), layout="constrained")
    axes = figure.subplots()
    _errors(axes, found, found.mean)
    axes.set_xlabel("network calls")
    axes.set_ylabel("relative error of the end point")
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def _errors(axes: Any, found: Flow, error: Callable[[int, Callable[[Solve], bool]], float]) -> None:
    for peer in found.peers:
        theirs = [error(n, of(peer)) for n in found.calls]
        label = f"best of {peer}"
        axes.plot(found.calls, theirs, "o-", color=COLOURS[peer], label=label, ms=3, lw=1.2)
    for grid, style in zip(OWN_GRIDS, ("s-", "D--"), strict=True):
        own = [error(n, default_on(grid)) for n in found.calls]
        axes.plot(found.calls, own, style, color=INK, label=f"{OURS}, {grid}", ms=4, lw=2.0)
    _logarithmic(axes, found.calls)


def weak(rows: Sequence[Weak], path: Path) -> None:
    """Draw the exact weak error against network calls: our default, and the best of each peer."""
    figure = Figure((5.4, 3.6), layout="constrained")
    axes = figure.subplots()
    calls = list(dict.fromkeys(row.calls for row in rows))
    default = title(SOLVERS[0])
    for library in dict.fromkeys(row.library for row in rows if row.library != OURS):
        best = [min(r.error for r in rows if r.library == library and r.calls == n) for n in calls]
        label = f"best of {library}"
        axes.plot(calls, best, "o-", color=COLOURS[library], label=label, ms=4, lw=1.2)
    own = [r.error for r in rows if r.method == default]
    axes.plot(calls, own, "s-", color=INK, label=f"{OURS}, {default}", ms=4, lw=2.0)
    _logarithmic(axes, calls)
    axes.set_xlabel("network calls")
    axes.set_ylabel("worst |log(variance / exact)|")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def likelihood(found: Likelihood, path: Path) -> None:
    """Draw the mean error of a log-likelihood against network calls, a panel for each problem."""
    figure = Figure((9.6, 5.4), layout="constrained")
    errors = [10.0 ** (-k / 4) for k in range(4, 21)]
    panels = figure.subplots(2, 2, sharex=True, sharey=True).flat
    for axes, problem in zip(panels, found.problems, strict=True):
        for library, method in found.methods:
            calls = [found.calls(problem, (library, method), error) for error in errors]
            own = [name for owner, name in found.methods if owner == library]
            axes.plot(
                calls, errors, ("-", "--", ":")[own.index(method)],
                color=COLOURS.get(library, INK), lw=2.0 if library == OURS else 1.2,
                label=f"{library}, {method}",
            )  # fmt: skip
        axes.set_title(problem, fontsize=10)
        _logarithmic(axes, (10, 20, 50, 100, 200, 400))
    figure.supxlabel("network calls", fontsize=10)
    figure.supylabel("mean error, nats", fontsize=10)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def scale(scales: Sequence[Scale], path: Path) -> None:
    """Draw the time of a step besides the network against the size of the data."""
    figure = Figure((5.4, 3.6), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(scales, key=lambda s: s.numbers)
    sizes = [s.numbers for s in ordered]
    axes.loglog(sizes, [s.microseconds for s in ordered], "s-", color=INK, label="a step", lw=2.0)
    axes.loglog(sizes, [s.floor for s in ordered], "o-", color="#7f7f7f", label="x * a + p * b")
    axes.set_xlabel("numbers in the state")
    axes.set_ylabel("microseconds besides the network")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def _logarithmic(axes: Any, calls: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(calls, [str(n) for n in calls])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
