"""The measurements as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.flow import OURS, OWN_GRIDS, Flow, default_on
from benchmarks.scale import Scale
from benchmarks.weak import Row as Weak

COLOURS = {"k-diffusion": "#7f7f7f", "azula": "#e08214", "diffusers": "#8073ac"}
INK = "#1b7837"


def flow(found: Flow, path: Path) -> None:
    """Draw error against network calls, a panel for each problem."""
    figure = Figure((9.6, 5.4), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True).flat
    for axes, problem in zip(panels, found.problems, strict=True):
        for peer in found.peers:
            best = [
                found.best(problem, n, lambda r, peer=peer: r.library == peer)[0]
                for n in found.calls
            ]
            axes.plot(
                found.calls, best, "o-", color=COLOURS[peer], label=f"best of {peer}", ms=3, lw=1.2
            )
        for grid, style in zip(OWN_GRIDS, ("s-", "D--"), strict=False):
            own = [found.best(problem, n, default_on(grid))[0] for n in found.calls]
            axes.plot(found.calls, own, style, color=INK, label=f"{OURS}, {grid}", ms=4, lw=2.0)
        _logarithmic(axes, found.calls)
        axes.set_title(problem, fontsize=10)
    figure.supxlabel("network calls", fontsize=10)
    figure.supylabel("relative error of the flow's end point", fontsize=10)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=150)


def weak(rows: Sequence[Weak], path: Path) -> None:
    """Draw the exact weak error against network calls: the best of each library."""
    figure = Figure((5.4, 3.8), layout="constrained")
    axes = figure.subplots()
    calls = list(dict.fromkeys(row.calls for row in rows))
    for library in dict.fromkeys(row.library for row in rows):
        best = [min(r.error for r in rows if r.library == library and r.calls == n) for n in calls]
        own = library == OURS
        axes.plot(
            calls, best, "s-" if own else "o-", color=COLOURS.get(library, INK),
            label=f"best of {library}", ms=4, lw=2.0 if own else 1.2,
        )  # fmt: skip
    _logarithmic(axes, calls)
    axes.set_xlabel("network calls")
    axes.set_ylabel("worst |log(variance / exact)|")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def scale(scales: Sequence[Scale], path: Path) -> None:
    """Draw the time of a step besides the network against the size of the data."""
    figure = Figure((5.4, 3.8), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(scales, key=lambda s: s.numbers)
    sizes = [s.numbers for s in ordered]
    axes.loglog(sizes, [s.microseconds for s in ordered], "s-", color=INK, label="a step", lw=2.0)
    axes.loglog(sizes, [s.floor for s in ordered], "o-", color="#7f7f7f", label="x * a + p * b")
    axes.set_xlabel("numbers in the state")
    axes.set_ylabel("microseconds besides the network")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def _logarithmic(axes: Any, calls: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(calls, [str(n) for n in calls])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
