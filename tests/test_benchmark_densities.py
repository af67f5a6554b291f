"""The likelihood benchmarks' parts, and integrators, without the libraries that they measure."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from benchmarks import flow, likelihood, tables, traces, wanted
from benchmarks.peers import INTEGRATING, Integrator, MissingPeer, integrators
from benchmarks.peers.odes import density, flow_in
from benchmarks.problems import FAMILIES, Family, density_problem, flow_problem
from scoresde import VPSDE, EpsFrame, TimeFrame
from scoresde.denoiser import Field


def euler(slope, y, span, steps):
    """Carry y by Euler's method: an integrator that needs no library."""
    h = (span[1] - span[0]) / steps
    for k in range(steps):
        y = y + h * slope(torch.tensor(span[0] + k * h, dtype=torch.float64), y)
    return y, float(steps)


EULER = Integrator("peer", "Euler", euler, (1, 4, 16, 64), "uniform t")


@pytest.fixture(scope="module")
def densities():
    points = likelihood.solve(0, 1, peers=False, batch=4)
    halved = (p for p in points if p.method == "default")
    theirs = [p._replace(library="peer", method="b", calls=0.5 * p.calls) for p in halved]
    return likelihood.Likelihood((*points, *theirs))


@pytest.mark.parametrize("frame", [TimeFrame(), EpsFrame()], ids=str)
def test_an_integrator_follows_the_flow_in_any_frame(frame):
    problem = flow_problem(FAMILIES[1], VPSDE(), 1, batch=4)
    field = Field(problem.model)
    top, end = (field.sde.level(t) for t in (field.sde.T, field.sde.t_min))
    slope = flow_in(frame, field)
    at = torch.full((4,), frame.variable(top, 1.0), dtype=torch.float64)
    y = problem.start / frame.scale(top, 1.0)
    assert torch.allclose(slope(at, y), slope(at[0], y))  # each sample at its own, or all at one
    span = frame.variable(top, 1.0), frame.variable(end, 1.0)
    found = frame.scale(end, 1.0) * euler(slope, y, span, 4000)[0]
    assert problem.error(found) < 0.02


def test_of_an_integrators_settings_the_best_within_the_budget_counts():
    problem = flow_problem(FAMILIES[1], VPSDE(), 1, batch=4)
    found = flow.integrated(problem, EULER, most=20)
    assert [calls for calls, _ in found] == [1.0, 4.0, 16.0]
    assert found[-1][1] < found[0][1]


@pytest.mark.parametrize("frame", [TimeFrame(), EpsFrame()], ids=str)
def test_a_density_by_an_integrator_converges_to_the_exact_one(frame):
    family = Family("2-D", 2, 2, 1.0, (0.3, 1.0))
    problem = density_problem(family, VPSDE(beta_max=5.0), seed=1, batch=8)
    ways = density(EULER, frame, "Euler")
    errors = [problem.error(ways.solve(problem, n)[0]) for n in (100, 200)]
    assert errors[1] == pytest.approx(0.5 * errors[0], rel=0.1)
    assert errors[1] < 0.2


def test_ours_converges_to_the_exact_density(densities):
    for name in likelihood.OWN:
        curve = [p for p in densities.points if p.library == likelihood.OURS and p.method == name]
        assert curve[-1].error < likelihood.TARGETS[-1]


def test_calls_are_interpolated_after_the_last_crossing():
    line = [(10.0, 1e-1), (20.0, 1e-3), (40.0, 1e-2), (80.0, 1e-4)]
    assert likelihood.calls_for(1e-3, line) == pytest.approx(40.0 * math.sqrt(2.0))
    assert likelihood.calls_for(1.0, line) == 10.0
    assert likelihood.calls_for(1e-5, line) == math.inf


def test_likelihood_share_is_of_the_best_peer(densities):
    for target in likelihood.TARGETS:
        assert densities.share("1-D", target) == pytest.approx(2.0)
    means = tables.likelihood_means(densities)
    assert "| **default, as a share of the best peer** | 2.00 |" in means
    assert "| 2.00 | 2.00 | 2.00 |" in wanted.likelihood(densities)


def random_symmetric(d):
    generator = torch.Generator().manual_seed(d)
    s = torch.randn(3, d, d, generator=generator, dtype=torch.float64)
    return s + s.mT


def test_variance_of_signs_is_that_of_all_of_them():
    s = random_symmetric(6)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 6)
    values = torch.einsum("ki,bij,kj->bk", signs, s, signs)
    assert torch.allclose(traces.rademacher(s), values.var(1, correction=0))


def test_variance_on_the_sphere_is_that_of_normals_without_their_length():
    # |g|^2 / D has the second moment (D + 2) / D, and is independent of the direction
    d, s = 6, random_symmetric(6)
    trace = s.diagonal(dim1=1, dim2=2).sum(1)
    moment = (d + 2) / d * (traces.sphere(s) + trace**2)
    assert torch.allclose(traces.gaussian(s) + trace**2, moment)


def test_variance_of_normals_is_that_of_independent_squares():
    s = random_symmetric(6)
    assert torch.allclose(traces.gaussian(s), 2.0 * torch.linalg.eigvalsh(s).square().sum(1))


def test_integral_of_the_jacobian_has_the_trace_of_the_density():
    problem = flow_problem(FAMILIES[1], VPSDE(), 1, batch=4)
    found = traces.integrated_jacobian(problem, steps=200).diagonal(dim1=1, dim2=2).sum(1)
    exact = likelihood.log_likelihood(problem.model, problem.end, steps=200)
    ends = [problem.model.sde.level(t) for t in (VPSDE().t_min, VPSDE().T)]
    radii = [level.radius(1.0) for level in ends]
    # the solve's angles go down, the likelihood's up
    log_det = -found + 2 * math.log(radii[1] / radii[0])
    assert torch.allclose(log_det, exact.parts["log_det"], atol=1e-2)


@pytest.mark.parametrize("library", INTEGRATING)
def test_missing_integrator_says_how_to_get_it(library, monkeypatch):
    for module in [m for m in sys.modules if m == library or m.startswith(f"{library}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"benchmarks.peers.{library}", raising=False)
    monkeypatch.setattr("benchmarks.peers.INTEGRATING", (library,))
    with pytest.raises(MissingPeer, match=rf"{library}.*`make bench` installs"):
        integrators()
