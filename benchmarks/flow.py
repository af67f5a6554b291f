"""Error of the probability flow's end point against network calls, beside the peers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import NamedTuple

import torch

from benchmarks.peers import Integrator, Method, flow_methods, integrators
from benchmarks.peers.grids import GRIDS
from benchmarks.peers.odes import flow_in, ladder
from benchmarks.problems import FAMILIES, PROBLEMS, FlowProblem
from benchmarks.titles import title
from scoresde import (
    DEIS,
    VPSDE,
    AdamsPC,
    DPMSolverPP,
    Grid,
    SeededNoise,
    Solver,
    TimeFrame,
    UniPC,
    fit_grid,
    sample,
)
from scoresde.denoiser import Field

CALLS = (5, 10, 20, 50, 100)
SEEDS = (1, 2, 3)
OURS = "scoresde"

OWN_GRIDS: dict[str, Callable[[FlowProblem, int], Grid | None]] = {
    "default grid": lambda problem, calls: None,
    # from pilot starts of a seed that no problem has
    "fitted grid": lambda problem, calls: fit_grid(
        problem.model, nfe=calls, shape=(32, problem.start.shape[1])
    ),
}
"""Grids on which the default solver runs, of a problem and a number of calls."""

SOLVERS: tuple[Solver, ...] = (AdamsPC(order=3), UniPC(), DEIS(), DPMSolverPP(order=3))
"""Others of ours, on the default grid."""


class Row(NamedTuple):
    """One solve.

    Attributes:
        problem: what was solved.
        seed: which member of its family.
        library: whose solver it was.
        method: its name there.
        grid: where its steps were.
        calls: the budget of network calls.
        error: relative root-mean-square error of the end point; infinite where the method has
            no setting that keeps to the budget.
    """

    problem: str
    seed: int
    library: str
    method: str
    grid: str
    calls: int
    error: float


def solve(name: str, seed: int, calls: Sequence[int], batch: int, peers: bool) -> list[Row]:
    """Solve one problem by every solver of ours and, if wanted, of the peers."""
    problem = PROBLEMS[name](VPSDE(), seed, batch)
    rows = [
        Row(name, seed, library, method, grid, n, error)
        for n in calls
        for library, method, grid, error in _errors(problem, n, peers)
    ]
    for method in integrators() if peers else ():
        found = integrated(problem, method, max(calls))
        for n in calls:
            # the tolerance is chosen with hindsight, as a grid is
            error = min((e for spent, e in found if spent <= n), default=math.inf)
            rows.append(Row(name, seed, method.library, method.name, method.grid, n, error))
    return rows


def integrated(
    problem: FlowProblem, method: Integrator, most: float
) -> tuple[tuple[float, float], ...]:
    """Return network calls and error of an integrator on dx/dt, by its setting."""
    sde = problem.model.sde

    def solve(setting: float) -> tuple[float, float]:
        slope = flow_in(TimeFrame(), Field(problem.model))
        end, calls = method.carry(slope, problem.start, (sde.T, sde.t_min), setting)
        return calls, problem.error(end)

    return tuple(ladder(solve, method.settings, most))


def _errors(problem: FlowProblem, calls: int, peers: bool) -> Iterator[tuple[str, str, str, float]]:
    model, x = problem.model, problem.start
    for name, place in OWN_GRIDS.items():
        grid = place(problem, calls)
        end = sample(model, x=x, solver=AdamsPC(), grid=grid, nfe=calls, denoise=False)
        yield OURS, "default", name, problem.error(end)
    for solver in SOLVERS:
        end = sample(model, x=x, solver=solver, nfe=calls, denoise=False)
        yield OURS, title(solver), "default grid", problem.error(end)
    for method in contenders() if peers else ():
        for name, grid in GRIDS.items():
            field, levels = Field(model), grid.levels(model.sde, calls // method.evals)
            with torch.no_grad():
                end = method.sampler.run(field, x, levels, SeededNoise())
            assert field.nfe <= calls, f"{method} made {field.nfe} network calls of {calls}"
            yield method.library, method.name, name, problem.error(end)


def contenders() -> tuple[Method, ...]:
    """Return the peers' methods that may be the best of their library.

    Left out: first order; several calls a step; and `NEVER_NEAR`, which on one more problem of each
    family were never within a tenth of the best of their own library.
    """
    methods = (m for m in flow_methods() if m.order > 1 and m.evals == 1)
    return tuple(m for m in methods if str(m) not in NEVER_NEAR)


NEVER_NEAR = frozenset(
    (
        *(f"azula {name}" for name in ("zAB2", "zAB3", "zEAB2", "xEAB2", "xEAB3", "REAB3")),
        *(f"diffusers DPM-Solver{name}" for name in (" 2M", " 3M", "++ 2M", "++ 3M", "++ 3S")),
    )
)
"""Methods that are left out of the solves for never having been near the best."""


@dataclass(frozen=True)
class Flow:
    """All solves, and what they come to.

    Errors of the seeds of a problem are averaged geometrically. What is best is chosen for each
    problem, seed and number of calls.
    """

    rows: tuple[Row, ...]

    @property
    def calls(self) -> tuple[int, ...]:
        """The budgets of network calls."""
        return tuple(dict.fromkeys(row.calls for row in self.rows))

    @property
    def problems(self) -> tuple[str, ...]:
        """The names of the problems."""
        return tuple(dict.fromkeys(row.problem for row in self.rows))

    @property
    def families(self) -> tuple[str, ...]:
        """The names of the problems that means are taken over."""
        return tuple(family.name for family in FAMILIES if family.name in self.problems)

    @property
    def peers(self) -> tuple[str, ...]:
        """The names of the other libraries."""
        return tuple(dict.fromkeys(row.library for row in self.rows if row.library != OURS))

    def best(self, problem: str, calls: int, keep: Callable[[Row], bool]) -> tuple[float, str]:
        """Return the error of the best of the solves that `keep` keeps, and the name it has most.

        Args:
            problem: the problem's name.
            calls: the budget of network calls.
            keep: which solves to choose from.
        """
        rows = [r for r in self.rows if r.problem == problem and r.calls == calls and keep(r)]
        seeds = dict.fromkeys(row.seed for row in rows)
        winners = [min((r for r in rows if r.seed == s), key=lambda r: r.error) for s in seeds]
        names = Counter(f"{row.method}, {row.grid}" for row in winners)
        return geometric_mean(row.error for row in winners), names.most_common(1)[0][0]

    def mean(self, calls: int, keep: Callable[[Row], bool]) -> float:
        """Return the geometric mean of the errors of `best` over the families.

        Args:
            calls: the budget of network calls.
            keep: which solves to choose from.
        """
        return geometric_mean(self.best(name, calls, keep)[0] for name in self.families)

    def single(self, calls: int) -> float:
        """Return the least mean over the families of any peer's one method on one grid."""
        errors: dict[tuple[str, str, str], list[float]] = {}
        for row in self.rows:
            if of_peers(row) and row.calls == calls and row.problem in self.families:
                errors.setdefault((row.library, row.method, row.grid), []).append(row.error)
        return min(geometric_mean(each) for each in errors.values())

    def share(self, grid: str, problem: str, calls: int) -> float:
        """Return the error of our default solver on a grid as a share of the best peer's."""
        ours, _ = self.best(problem, calls, default_on(grid))
        theirs, _ = self.best(problem, calls, of_peers)
        return ours / theirs

    def mean_share(self, grid: str, calls: int) -> float:
        """Return the geometric mean of `share` over the families."""
        return geometric_mean(self.share(grid, name, calls) for name in self.families)


def of(library: str) -> Callable[[Row], bool]:
    """Return what keeps the solves of a library."""
    return lambda row: row.library == library


def of_peers(row: Row) -> bool:
    """Say whether a solve is of another library."""
    return row.library != OURS


def default_on(grid: str) -> Callable[[Row], bool]:
    """Return what keeps the solves of our default solver on a grid."""
    return lambda row: row.library == OURS and row.method == "default" and row.grid == grid
