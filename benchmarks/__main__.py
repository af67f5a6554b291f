"""Measure everything; write benchmarks/results.md, results.json and the pictures."""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from tqdm import tqdm

from benchmarks import cost, figures, flow, orders, scale, tables, weak
from benchmarks.peers.grids import GRIDS
from benchmarks.problems import FAMILIES, PROBLEMS

HERE = Path(__file__).parent
ASSETS = HERE.parent / "docs" / "assets"
BATCH = 64

T = TypeVar("T")


class Results(NamedTuple):
    """All measurements."""

    flow: flow.Flow
    weak: list[weak.Row]
    orders: list[orders.Order]
    cost: list[cost.Cost]
    scale: list[scale.Scale]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--alone", action="store_true", help="measure without other libraries")
    alone = parser.parse_args().alone
    _settle()
    results = measure(peers=not alone)
    text = page(results)
    print(text)
    if not alone:
        (HERE / "results.md").write_text(text)
        (HERE / "results.json").write_text(as_json(results))
        figures.flow(results.flow, ASSETS / "flow.png")
        figures.weak(results.weak, ASSETS / "weak.png")
        figures.scale(results.scale, ASSETS / "scale.png")


def measure(
    *,
    peers: bool,
    problems: Sequence[str] = tuple(PROBLEMS),
    seeds: Sequence[int] = flow.SEEDS,
    calls: Sequence[int] = flow.CALLS,
    shapes: Sequence[tuple[int, ...]] = scale.SHAPES,
) -> Results:
    """Measure everything: errors on all processors, and times afterwards on one.

    Raises:
        MissingPeer: a library to measure beside is not installed.
    """
    families = [family.name for family in FAMILIES]
    cases = [(p, s) for s in seeds for p in problems if p in families or s == seeds[0]]
    laws, ladders = (len(s) for s in (weak.samplers(peers), orders.samplers(peers)))
    total = len(cases) + laws + ladders + len(cost.METHODS) + len(shapes)
    context = get_context("spawn")
    with (
        tqdm(total=total, unit="part") as bar,
        ProcessPoolExecutor(os.cpu_count(), context, _settle) as pool,
    ):

        def start(function: Callable[..., T], *arguments: Any) -> Future[T]:
            future = pool.submit(function, *arguments)
            future.add_done_callback(lambda _: bar.update())
            return future

        solves = [start(flow.solve, p, s, calls, BATCH, peers) for p, s in cases]
        errors = [start(_law, i, peers) for i in range(laws)]
        slopes = [start(_order, i, peers) for i in range(ladders)]
        solved = flow.Flow(tuple(row for future in solves for row in future.result()))
        weaknesses = [row for future in errors for row in future.result()]
        found = [future.result() for future in slopes]
        costs, scales = [], []
        for method in cost.METHODS:
            costs += cost.costs(method, peers)
            bar.update()
        for shape in shapes:
            scales.append(scale.scale(shape))
            bar.update()
    return Results(solved, weaknesses, found, costs, scales)


def _settle() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # of other libraries' older methods


def _law(index: int, peers: bool) -> list[weak.Row]:
    # samplers hold functions, which do not travel between processes
    return list(weak.rows(weak.samplers(peers)[index]))


def _order(index: int, peers: bool) -> orders.Order:
    return orders.order(orders.samplers(peers)[index])


def page(results: Results) -> str:
    """Return the measurements as a page."""
    families = ", ".join(family.name for family in FAMILIES)
    parts = [
        "# Benchmarks",
        "Written by `make bench`, which measures scoresde beside k-diffusion, azula and diffusers, "
        "in one process and on the same exact scores. Every solve starts and ends at the same "
        "noise levels, and every one of their methods is tried on every grid that any of them "
        f"has: {', '.join(GRIDS)}.",
        "## Probability flow",
        "Relative error of the end point: VP with beta from 0.1 to 20, t from 1 to 1e-3, geometric "
        f"means over {len(flow.SEEDS)} problems of each family.",
        "![Error against network calls](assets/flow.png)",
        "### The default solver, as a share of the best peer",
        "The best of all their solvers and grids, chosen anew for every problem and number of "
        f"calls. The families are {families}.",
        tables.shares(results.flow) if results.flow.peers else "",
        "### Errors",
        *(tables.errors(results.flow, problem) for problem in results.flow.problems),
        "## Reverse SDE",
        "Exact error of the output's law at full noise (eta = 1), with no Monte Carlo: the largest "
        f"|log(variance / exact)| over data N(0, c^2), c in {weak.SCALES}.",
        "![Weak error against network calls](assets/weak.png)",
        tables.weak(results.weak),
        "## Orders",
        "Measured from a cold start on exact flows, or on the exact law of the output, under VP "
        "and VE, the lesser of the two. A multistep method starts at low order, which can cap it.",
        tables.orders(results.orders),
        "## A step besides the network",
        f"Per network call, state {cost.SHAPE} in float32, one thread. The floor is x * a + p * b. "
        "Each library draws noise in its own way: ours is keyed by seed and sample.",
        tables.cost(results.cost),
        "## Scale",
        "The default solver's step besides the network, one thread.",
        "![Time of a step against the size of the data](assets/scale.png)",
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
    ]
    rest = {
        name: [row._asdict() for row in rows]
        for name, rows in results._asdict().items()
        if name != "flow"
    }
    return json.dumps({"flow": best, **rest}, indent=1) + "\n"


def _only(library: str, method: str) -> Callable[[flow.Row], bool]:
    return lambda row: row.library == library and row.method == method


if __name__ == "__main__":
    main()
