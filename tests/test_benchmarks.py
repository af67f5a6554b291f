"""The benchmarks' own parts, small, and without the libraries that they measure beside."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import cost, flow, likelihood, orders, scale, tables, traces, wanted, weak
from benchmarks.measure import Results
from benchmarks.page import as_json, page
from benchmarks.peers import LIBRARIES, MissingPeer, flow_methods
from benchmarks.peers.grids import GRIDS
from benchmarks.problems import FAMILIES, PROBLEMS, flow_problem
from benchmarks.titles import title
from scoresde import DDIM, DEIS, ERSDE, VPSDE, AdamsPC, DPMSolverPP, EulerMaruyama, Rho, sample

FAMILY = FAMILIES[1].name
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def solved():
    rows = [row for seed in (1, 2) for row in flow.solve(FAMILY, seed, (5, 20), 4, peers=False)]
    peer = [r._replace(library="peer", error=2.0 * r.error) for r in rows]
    return flow.Flow((*rows, *peer))


def test_reference_is_the_flow():
    problem = flow_problem(FAMILIES[0], VPSDE(), seed=1, batch=4)
    errors = [
        problem.error(sample(problem.model, x=problem.start, steps=n, denoise=False))
        for n in (100, 400)
    ]
    assert errors[1] < 0.05 * errors[0] < 1e-4


def test_problems_are_reproducible():
    first, second = (PROBLEMS[FAMILY](VPSDE(), 3, 2) for _ in range(2))
    assert torch.equal(first.start, second.start)
    assert torch.equal(first.end, second.end)


def test_best_is_chosen_for_each_problem_and_averaged_geometrically(solved):
    kept = [r for r in solved.rows if r.library == flow.OURS and r.calls == 20]
    least = [min(r.error for r in kept if r.seed == seed) for seed in (1, 2)]
    found, _ = solved.best(FAMILY, 20, lambda row: row.library == flow.OURS)
    assert found == pytest.approx(math.sqrt(least[0] * least[1]))
    theirs, name = solved.best(FAMILY, 20, lambda row: row.library == "peer")
    assert theirs == pytest.approx(2.0 * found)
    assert name in {f"{r.method}, {r.grid}" for r in kept}


def test_share_is_of_the_best_peer(solved):
    default, _ = solved.best(FAMILY, 20, flow.default_on("default grid"))
    best, _ = solved.best(FAMILY, 20, lambda row: row.library == "peer")
    assert solved.share("default grid", FAMILY, 20) == pytest.approx(default / best)


def test_default_is_solved_on_its_own_grid_and_on_a_fitted_one(solved):
    default, fitted = (solved.best(FAMILY, 20, flow.default_on(g))[0] for g in flow.OWN_GRIDS)
    assert default != fitted
    assert solved.mean(20, flow.default_on("fitted grid")) == pytest.approx(fitted)


def test_one_method_on_one_grid_is_no_better_than_the_best_of_each_problem(solved):
    theirs = [r for r in solved.rows if r.library == "peer" and r.calls == 20]
    ways = {(r.method, r.grid) for r in theirs}
    alone = [math.prod(r.error for r in theirs if (r.method, r.grid) == w) ** 0.5 for w in ways]
    assert solved.single(20) == pytest.approx(min(alone))
    assert solved.single(20) >= solved.mean(20, flow.of_peers) * (1.0 - 1e-12)


@pytest.mark.parametrize(
    ("solver", "name"),
    [
        (AdamsPC(), "AdamsPC()"),
        (DEIS(4, Rho()), "DEIS(order=4, coordinate=Rho())"),
        (ERSDE(phi=weak.full_noise), "ERSDE(phi=full_noise)"),
    ],
)
def test_titles_are_short(solver, name):
    assert title(solver) == name


def test_what_is_met_is_bold(solved):
    laws = [
        weak.Row(weak.OURS, title(weak.SOLVERS[0]), "default grid", 20, 0.25),
        weak.Row("peer", "b", "c", 20, 1.0),
    ]
    rows = wanted.errors(solved, laws).splitlines()
    assert rows[-1].endswith("|  | 0.25 |")
    share = solved.share("default grid", FAMILY, 5)
    assert f"| **{share:.2f}** |" in rows[2]
    spent = [
        cost.Cost("DDIM", name, 6.0, 0.0, t, 4.5) for name, t in ((cost.OURS, 1.0), ("b", 2.0))
    ]
    assert wanted.costs(spent).endswith("| DDIM | **6.0** | **0** | 4.5 | **0.50** |")


def test_readme_has_the_measured_table():
    lines = (ROOT / "README.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("| ") and re.search(r"\de-\d\d", line)]
    assert len(table) > 2
    assert set(table) <= set((ROOT / "benchmarks" / "results.md").read_text().splitlines())


@pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
def test_grids_of_peers_end_where_ours_do(grid):
    sde = VPSDE()
    levels = grid.levels(sde, 7)
    assert (levels[0].t, levels[-1].t) == (sde.T, sde.t_min)


def test_weak_error_falls_with_the_order():
    coarse, fine = (weak.weak_error(EulerMaruyama(), n) for n in (200, 400))
    assert math.log2(coarse / fine) == pytest.approx(1.0, abs=0.1)


def test_orders_are_those_declared():
    assert orders.order(DDIM()).measured == pytest.approx(1.0, abs=0.1)
    assert orders.order(DPMSolverPP(order=2)).measured == pytest.approx(2.0, abs=0.2)


def test_costs_count_a_call():
    (ours,) = cost.costs("DDIM", peers=False)
    assert (ours.operations, ours.reads) == (3.0, 0.0)
    assert ours.microseconds > 0.0


def test_pages_and_json_hold_every_number(solved):
    likely = [
        likelihood.Point("1-D", 1, library, method, calls, 1e-6)
        for library, method, calls in ((likelihood.OURS, "default", 10.0), ("peer", "b", 20.0))
    ]
    measured = scale.scale((1, 3, 4, 4))
    results = Results(
        solved,
        [
            weak.Row(weak.OURS, title(weak.SOLVERS[0]), "default grid", 10, 0.25),
            weak.Row("peer", "b", "c", 10, 0.5),
        ],
        [orders.Order("peer", "b", 2, 1.0, 1e-3)],
        likelihood.Likelihood(tuple(likely)),
        [traces.Row("64-D", name, 4, 3.25) for name in (traces.PLAIN, *traces.DRAWN)],
        [cost.Cost("DDIM", name, 3.0, 0.0, 40.0, 2.5) for name in (cost.OURS, "peer")],
        [measured],
    )
    text = page(results)
    for cells in (
        "| peer, b | 20 | 20 | 20 |",
        "| 1-D | **0.50** | **0.50** | **0.50** |",
        "| peer | `b` | 2 | 1.00 | 1.0e-03 |",
        "5.0e-01 (b, c)",
        "| DDIM | peer | 3.0 |",
    ):
        assert cells in text
    assert f"| {traces.PLAIN} | 3.25 |" in text
    assert "| 64-D, at most 0.50 | 1.00 |" in text
    assert tables.errors(solved, FAMILY) in text
    kept = json.loads(as_json(results))
    assert {row["library"] for row in kept["flow"]} == {flow.OURS, "peer"}
    assert kept["scale"][0]["numbers"] == 48
    assert [row["calls"] for row in kept["likelihood"]] == [10.0, 20.0]


def test_a_method_without_a_setting_in_the_budget_is_not_the_best(solved):
    none = [r._replace(library="late", error=math.inf) for r in solved.rows if r.calls == 5]
    late = [r._replace(library="late") for r in solved.rows if r.calls == 20]
    found = flow.Flow((*solved.rows, *none, *late))
    assert "| best of late | none so few |" in tables.means(found)
    assert tables.shares(found) != ""
    both = Results(found, [], [], likelihood.Likelihood(()), [], [], [])
    errors = [row["error"] for row in json.loads(as_json(both))["flow"]]
    assert all(math.isfinite(error) for error in errors)


@pytest.mark.parametrize("library", LIBRARIES)
def test_missing_peer_says_how_to_get_it(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    for module in [m for m in sys.modules if m.startswith(f"{library}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, f"benchmarks.peers.{library}", raising=False)
    monkeypatch.setattr("benchmarks.peers.LIBRARIES", (library,))
    with pytest.raises(MissingPeer, match=rf"{library}.*`make bench` installs"):
        flow_methods()
