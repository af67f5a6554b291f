"""Everything measured: errors on all processors, and times afterwards on one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple, TypeVar

import torch
from tqdm import tqdm

from benchmarks import cost, flow, likelihood, orders, scale, traces, weak
from benchmarks.peers import densities as all_densities
from benchmarks.problems import FAMILIES, PROBLEMS

BATCH = 256

T = TypeVar("T")


class Results(NamedTuple):
    """All measurements."""

    flow: flow.Flow
    weak: list[weak.Row]
    orders: list[orders.Order]
    likelihood: likelihood.Likelihood
    traces: list[traces.Row]
    cost: list[cost.Cost]
    scale: list[scale.Scale]


def measure(
    *,
    peers: bool,
    problems: Sequence[str] = tuple(PROBLEMS),
    seeds: Sequence[int] = flow.SEEDS,
    calls: Sequence[int] = flow.CALLS,
    densities: Sequence[int] = range(len(likelihood.FAMILIES)),
    estimates: Sequence[str] = traces.PROBLEM_NAMES,
    shapes: Sequence[tuple[int, ...]] = scale.SHAPES,
) -> Results:
    """Measure everything: errors on all processors, and times afterwards on one.

    Raises:
        MissingPeer: a library to measure beside is not installed.
    """
    families = [family.name for family in FAMILIES]
    cases = [(p, s) for s in seeds for p in problems if p in families or s == seeds[0]]
    laws, ladders = (len(s) for s in (weak.samplers(peers), orders.samplers(peers)))
    total = len(cases) + laws + ladders + len(densities) * len(likelihood.SEEDS) + len(estimates)
    total += len(cost.METHODS) + len(shapes)
    if peers:
        all_densities()  # so that what is missing is said at once
    context = get_context("spawn")
    with (
        tqdm(total=total, unit="part") as bar,
        ProcessPoolExecutor(os.cpu_count(), context, settle) as pool,
    ):

        def start(function: Callable[..., T], *arguments: Any) -> Future[T]:
            future = pool.submit(function, *arguments)
            future.add_done_callback(lambda _: bar.update())
            return future

        solves = [start(flow.solve, p, s, calls, BATCH, peers) for p, s in cases]
        errors = [start(_law, i, peers) for i in range(laws)]
        slopes = [start(_order, i, peers) for i in range(ladders)]
        curves = [start(likelihood.solve, i, s, peers) for i in densities for s in likelihood.SEEDS]
        spreads = [start(traces.measure, name) for name in estimates]
        solved = flow.Flow(tuple(row for future in solves for row in future.result()))
        weaknesses = [row for future in errors for row in future.result()]
        found = [future.result() for future in slopes]
        points = tuple(point for future in curves for point in future.result())
        estimated = [row for future in spreads for row in future.result()]
        costs, scales = [], []
        for method in cost.METHODS:
            costs += cost.costs(method, peers)
            bar.update()
        for shape in shapes:
            scales.append(scale.scale(shape))
            bar.update()
    density = likelihood.Likelihood(points)
    return Results(solved, weaknesses, found, density, estimated, costs, scales)


def settle() -> None:
    """Keep a process to one thread, and quiet."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # of other libraries' older methods


def _law(index: int, peers: bool) -> list[weak.Row]:
    # samplers hold functions, which do not travel between processes
    return list(weak.rows(weak.samplers(peers)[index]))


def _order(index: int, peers: bool) -> orders.Order:
    return orders.order(orders.samplers(peers)[index])
