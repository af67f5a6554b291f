"""The measurements as a page, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator

from benchmarks import cost, flow, likelihood, tables, traces, wanted, weak
from benchmarks.measure import Results
from benchmarks.peers.grids import GRIDS
from benchmarks.problems import FAMILIES


def page(results: Results) -> str:
    """Return the measurements as a page."""
    families = "; ".join(family.name for family in FAMILIES)
    parts = [
        "## How it is measured",
        "Written by `make bench`, which measures scoresde beside k-diffusion, azula and diffusers, "
        "and beside what torchdiffeq, torchode, SciPy and flow_matching integrate, in one process "
        "and on the same exact scores. Every solve starts and ends at the same noise levels. Every "
        "sampler is tried on every grid that any library has: "
        f"{', '.join(GRIDS)}. An integrator is given dx/dt in t, at tolerances rtol = atol from 1 "
        "down by factors of sqrt(10), or at numbers of steps, of which the best counts that keeps "
        "to the calls; torchode steps each sample by itself, and its calls are the mean. Left out: "
        "DPM-Solver's and UniPC's own code, which no package carries (diffusers' versions stand "
        "for them); and for the flow, samplers of first order or of several calls a step, which "
        "were never the best, and those that on one more problem of each family were never within "
        f"a tenth of the best of their library ({', '.join(sorted(flow.NEVER_NEAR))}).",
        "## What was wanted",
        "Set before the solvers were written; in bold where it is met. At 5 network calls: no "
        "worse than the best peer.",
        wanted.errors(results.flow, results.weak) if results.flow.peers else "",
        wanted.likelihood(results.likelihood) if results.likelihood.peers else "",
        wanted.traces(results.traces),
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
        *_likelihood(results),
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


def _likelihood(results: Results) -> Iterator[str]:
    found = results.likelihood
    yield "## Likelihood"
    yield (
        "Network calls for a mean error of a log-likelihood: VP as above, from t_min to T, states "
        "drawn at t_min, the trace exact and the density at T the true one for all, so that only "
        f"the integrator errs. Geometric means over {len(likelihood.SEEDS)} problems of each kind. "
        "A call gives the value and its products for the batch; where samples have steps of their "
        "own, the mean over them counts. Log error is interpolated in log calls between the last "
        "solve above the error and the next. score_sde's way is SciPy's RK45 on the flat batch, "
        "k-diffusion's is torchdiffeq's dopri5 in sigma / alpha, and flow_matching is given the "
        "velocity of a straight path between the same ends."
    )
    yield tables.likelihood_means(found)
    yield from (tables.likelihood(found, problem) for problem in found.problems)
    yield "### Traces"
    yield (
        "Standard error of a log-likelihood in nats from its trace estimate, root mean square over "
        f"{traces.SAMPLES} samples. An evaluation is one product with a probe at every step of the "
        "solve, so that 64, as many as dimensions, give the trace itself. Exact for independent "
        "probes, from the integral of the Jacobian along the flow; of the others, the default's "
        f"included, the error of {traces.DRAWS} estimates for each sample."
    )
    problems = dict.fromkeys(row.problem for row in results.traces)
    yield from (tables.traces(results.traces, problem) for problem in problems)


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
        if name not in ("flow", "likelihood")
    }
    curves = [point._asdict() for point in results.likelihood.points]
    return json.dumps({"flow": best, "likelihood": curves, **rest}, indent=1) + "\n"


def _only(library: str, method: str) -> Callable[[flow.Row], bool]:
    return lambda row: row.library == library and row.method == method
