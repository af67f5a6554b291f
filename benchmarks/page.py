"""The measurements as a page, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

from benchmarks import cost, flow, tables, wanted, weak
from benchmarks.measure import Results
from benchmarks.peers.grids import GRIDS
from benchmarks.problems import FAMILIES


def page(results: Results) -> str:
    """Return the measurements as a page."""
    families = "; ".join(family.name for family in FAMILIES)
    parts = [
        "## How it is measured",
        "Written by `make bench`, which measures scoresde beside k-diffusion, azula and diffusers, "
        "in one process and on the same exact scores. Every solve starts and ends at the same "
        "noise levels, and every one of their methods is tried on every grid that any of them "
        f"has: {', '.join(GRIDS)}. Left out: adaptive solvers; DPM-Solver's and UniPC's own code, "
        "which no package carries (diffusers' versions stand for them); and for the flow, methods "
        "of first order or of several calls a step, which were never the best, and those that on "
        "one more problem of each family were never within a tenth of the best of their library "
        f"({', '.join(sorted(flow.NEVER_NEAR))}).",
        "## What was wanted",
        "Set before the solvers were written; in bold where it is met. At 5 network calls: no "
        "worse than the best peer.",
        wanted.errors(results.flow, results.weak) if results.flow.peers else "",
        "Of a step besides the network, per network call, against the same method of the others; "
        "noise is drawn as they draw it.",
        wanted.costs(results.cost),
        wanted.growth(results.scale),
        "## Probability flow",
        "Relative error of the end point: VP with beta from 0.1 to 20, t from 1 to 1e-3, geometric "
        f"means over {len(flow.SEEDS)} problems of each family ({families}), and one problem of "
        "each of the others. The exact end point is that of a solve to a tolerance of 1e-10; the "
        "learned network's is that of its own flow.",
        "### The default solver, as a share of the best peer",
        "The best of all their solvers and grids, chosen anew for every problem and number of "
        "calls.",
        tables.shares(results.flow) if results.flow.peers else "",
        "### Errors, averaged over the families",
        "The best of a library, and of all, is chosen anew for every problem and number of calls; "
        "the best one method on one grid for the number of calls alone.",
        tables.means(results.flow),
        "### Errors, problem by problem",
        *(tables.errors(results.flow, problem) for problem in results.flow.problems),
        "## Reverse SDE",
        "Exact error of the output's law at full noise (eta = 1), with no Monte Carlo: the largest "
        f"|log(variance / exact)| over data N(0, c^2), c in {weak.SCALES}.",
        tables.weak(results.weak),
        "## Orders",
        "Measured from a cold start on exact flows, or on the exact law of the output, under VP "
        "and VE, the lesser of the two, between 32 and 64 steps. A multistep method starts at low "
        "order, which can cap it, and an error that changes sign nearby hides it.",
        tables.orders(results.orders),
        "## A step besides the network",
        f"Per network call, state {cost.SHAPE} in float32, one thread. The floor is x * a + p * b. "
        "Noise of ours is keyed by seed and sample, or drawn from torch's generator, as others do; "
        "dpmpp_2m_sde and dpmpp_3m_sde refine a Brownian path, which is most of their cost. The "
        f"time of all includes what they set up for a solve, shared among its {cost.STEPS} steps.",
        tables.cost(results.cost),
        "## Scale",
        "The default solver's step besides the network, one thread.",
        tables.scale(results.scale),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_json(results: Results) -> str:
    """Return the measurements as JSON, of the flow the best grid of each method."""
    found = results.flow
    best = [
        {"problem": problem, "library": library, "method": method, "calls": n, "error": error}
        for problem in found.problems
        for library, method in dict.fromkeys((r.library, r.method) for r in found.rows)
        for n in found.calls
        for error, _ in [found.best(problem, n, _only(library, method))]
        if error < math.inf
    ]
    rest = {
        name: [row._asdict() for row in rows]
        for name, rows in results._asdict().items()
        if name != "flow"
    }
    return json.dumps({"flow": best, **rest}, indent=1) + "\n"


def _only(library: str, method: str) -> Callable[[flow.Row], bool]:
    return lambda row: row.library == library and row.method == method
