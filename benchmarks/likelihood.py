"""Network calls that a log-likelihood takes for a mean error, beside the peers.

The trace is exact and the density at T the true one, for all, so that only the integrator errs. A
network call gives the value and its products, for the whole batch; where samples have steps of
their own it is the mean over them that counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import geometric_mean
from typing import NamedTuple

from torch import Tensor

from benchmarks.peers import densities
from benchmarks.peers.odes import TOLERANCES, ladder
from benchmarks.problems import DensityProblem, Family, density_problem
from benchmarks.titles import title
from scoresde import (
    VPSDE,
    AdamsPC,
    AdaptiveAdams,
    DormandPrince,
    ExactTrace,
    Solver,
    log_likelihood,
)

TARGETS = (1e-3, 1e-4, 1e-5)
SEEDS = (1, 2, 3)
MOST_CALLS = 400
OURS = "scoresde"

FAMILIES = (
    Family("1-D", 1, 4, 1.0, (0.01, 0.3)),
    Family("2-D", 2, 6, 1.0, (0.01, 0.1)),
    Family("8-D", 8, 5, 1.0, (0.05, 0.5)),
    Family("8-D, anisotropic", 8, 5, 0.7, (1e-3, 0.5)),
)
"""What the means are taken over; not those of the flow."""

Solve = Callable[[DensityProblem, float], tuple[Tensor, float]]
"""Log-densities (B,) and network calls, of a problem and a setting."""


def _likelihood(
    problem: DensityProblem, *, solver: Solver | None = None, steps: int | None = None
) -> tuple[Tensor, float]:
    found = log_likelihood(
        problem.model,
        problem.x,
        trace=ExactTrace(),
        prior=problem.prior,
        solver=solver,
        steps=steps,
    )
    return found.nats, float(found.nfe.double().mean())


def _fixed(problem: DensityProblem, steps: float) -> tuple[Tensor, float]:
    return _likelihood(problem, steps=int(steps))


def _adaptive(
    make: Callable[[float, float], Solver], problem: DensityProblem, tol: float
) -> tuple[Tensor, float]:
    return _likelihood(problem, solver=make(tol, tol))


_STEPS = (6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 320, 400)

OWN: dict[str, tuple[Solve, tuple[float, ...]]] = {
    "default": (partial(_adaptive, AdaptiveAdams), TOLERANCES),
    title(AdamsPC()): (_fixed, _STEPS),
    title(DormandPrince()): (partial(_adaptive, DormandPrince), TOLERANCES),
}
"""Ours by name, the default first: how they are solved, and settings from coarse to fine."""


class Point(NamedTuple):
    """One solve.

    Attributes:
        problem: what was solved.
        seed: which member of its family.
        library: whose it was.
        method: its name there.
        calls: network calls.
        error: mean error, in nats.
    """

    problem: str
    seed: int
    library: str
    method: str
    calls: float
    error: float


def solve(index: int, seed: int, peers: bool, batch: int = 64) -> list[Point]:
    """Solve a problem of one of `FAMILIES` by every method of ours and, if wanted, the peers'."""
    family = FAMILIES[index]
    problem = density_problem(family, VPSDE(), seed, batch)
    ways = [(OURS, name, *way) for name, way in OWN.items()]
    ways += [(d.library, d.name, d.solve, TOLERANCES) for d in (densities() if peers else ())]
    return [
        Point(family.name, seed, library, method, calls, error)
        for library, method, way, settings in ways
        for calls, error in _curve(problem, way, settings)
    ]


def _curve(
    problem: DensityProblem, way: Solve, settings: tuple[float, ...]
) -> list[tuple[float, float]]:
    """Return calls and error, setting by setting, until the error is far below the targets."""

    def measure(setting: float) -> tuple[float, float]:
        nats, calls = way(problem, setting)
        return calls, problem.error(nats)

    points = []
    for calls, error in ladder(measure, settings, MOST_CALLS):
        points.append((calls, error))
        if error < 0.3 * TARGETS[-1]:
            break
    return points


def calls_for(target: float, curve: Sequence[tuple[float, float]]) -> float:
    """Return the network calls from which on an error stays below a target.

    Between the last solve above the target and the next, log error is linear in log calls. The
    result is infinite where no solve reaches the target, and the calls of the first where all do.

    Args:
        target: the error.
        curve: calls and error of solves, in order of their settings.
    """
    if curve[-1][1] > target:
        return math.inf
    for (n, error), (after, least) in reversed([*pairwise(curve)]):
        if error > target:
            share = math.log(error / target) / math.log(error / least)
            return n * (after / n) ** share
    return curve[0][0]


@dataclass(frozen=True)
class Likelihood:
    """All solves, and what they come to: seeds and problems are averaged geometrically."""

    points: tuple[Point, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """The names of the problems."""
        return tuple(dict.fromkeys(p.problem for p in self.points))

    @property
    def methods(self) -> tuple[tuple[str, str], ...]:
        """Library and name of the methods, our default first."""
        return tuple(dict.fromkeys((p.library, p.method) for p in self.points))

    @property
    def peers(self) -> tuple[tuple[str, str], ...]:
        """Library and name of the other libraries' methods."""
        return tuple(method for method in self.methods if method[0] != OURS)

    def calls(self, problem: str, method: tuple[str, str], target: float) -> float:
        """Return the network calls that a method takes for a target."""
        seeds = dict.fromkeys(p.seed for p in self.points)
        return geometric_mean(self._calls(problem, seed, method, target) for seed in seeds)

    def mean(self, method: tuple[str, str], target: float) -> float:
        """Return the geometric mean of `calls` over the problems."""
        return geometric_mean(self.calls(name, method, target) for name in self.problems)

    def share(self, problem: str, target: float) -> float:
        """Return our default's calls as a share of the best peer's, chosen for every seed."""
        seeds = dict.fromkeys(p.seed for p in self.points)
        return geometric_mean(
            self._calls(problem, seed, self.methods[0], target)
            / min(self._calls(problem, seed, peer, target) for peer in self.peers)
            for seed in seeds
        )

    def mean_share(self, target: float) -> float:
        """Return the geometric mean of `share` over the problems."""
        return geometric_mean(self.share(name, target) for name in self.problems)

    def _calls(self, problem: str, seed: int, method: tuple[str, str], target: float) -> float:
        own = (problem, seed, *method)
        curve = [p[4:] for p in self.points if p[:4] == own]
        return calls_for(target, curve)
