"""Estimates of the trace against the exact trace and the formulas of their variance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from conftest import slow, spread
from solver_examples import label, model_on, normal
from trace_helpers import Mixing

import scoresde as sd
from scoresde import (
    VPSDE,
    AdamsPC,
    Denoiser,
    DormandPrince,
    ExactTrace,
    Gaussian,
    Hutchinson,
    InjectedNoise,
    Rademacher,
    SeededNoise,
    Trace,
    UnitNormal,
)
from scoresde.likelihood import Estimate
from scoresde.likelihood.traces import mean_of


@dataclass(frozen=True)
class Signs(Trace):
    """All 2^D Rademacher probes."""

    def estimate(self, jacobian, noise):
        x = jacobian.like
        d = math.prod(x.shape[1:])
        signs = torch.tensor(list(product((-1.0, 1.0), repeat=d)), dtype=x.dtype)
        probes = signs.reshape(1, -1, *x.shape[1:]).expand(len(x), -1, *x.shape[1:])
        values = jacobian.quadratic(probes)
        return Estimate(values.mean(1), values.var(1, correction=0))


@dataclass(frozen=True)
class Hermite(Trace):
    """Gaussian probes by three-point quadrature, exact up to the fifth power of each entry."""

    def estimate(self, jacobian, noise):
        x = jacobian.like
        nodes = (-math.sqrt(3.0), 0.0, math.sqrt(3.0))
        grid = torch.tensor(list(product(nodes, repeat=x.shape[1])), dtype=x.dtype)
        each = list(product((1 / 6, 2 / 3, 1 / 6), repeat=x.shape[1]))
        weights = torch.tensor([math.prod(w) for w in each], dtype=x.dtype)
        values = jacobian.quadratic(grid[None].expand(len(x), -1, -1))
        mean = values @ weights
        return Estimate(mean, (values - mean[:, None]).square() @ weights)


@pytest.mark.parametrize("d", [1, 3, 8])
def test_all_rademacher_probes_average_to_the_exact_trace(d):
    model = Denoiser(Mixing(d), VPSDE(), "v")
    x = normal(5, d, dtype=torch.float64)
    how = {"steps": 12, "solver": AdamsPC(3)}
    found = sd.log_likelihood(model, x, trace=Signs(), **how)
    expected = sd.log_likelihood(model, x, trace=ExactTrace(), **how)
    assert torch.allclose(found.parts["log_det"], expected.parts["log_det"], rtol=0, atol=1e-10)
    assert torch.allclose(found.latent, expected.latent, rtol=0, atol=1e-12)


@pytest.mark.parametrize("trace", [Signs(), Hermite()], ids=["rademacher", "gaussian"])
@pytest.mark.parametrize(("tol", "bound"), [(1e-9, 1e-7), slow(1e-13, 1e-10)])
def test_variance_of_a_probe_is_the_formulas(trace, tol, bound):
    # the flow of Gaussian data is linear, with Jacobians that commute: log M = int dv/dy dphi
    sde, data = VPSDE(), Gaussian(torch.zeros(3, dtype=torch.float64), spread(2.0, 0.5, 0.05))
    x = normal(2, 3, dtype=torch.float64)
    solver = DormandPrince(tol, tol)
    found = sd.log_likelihood(data.denoiser(sde, 1.0), x, trace=trace, solver=solver)
    top, bottom = sde.level(sde.T), sde.level(sde.t_min)
    v_top, v_bottom = (a.alpha**2 * data.variances[0] + a.sigma**2 for a in (top, bottom))
    logs = 0.5 * (v_top / v_bottom).log() - math.log(top.radius() / bottom.radius())
    s = data.axes[0] @ torch.diag(logs) @ data.axes[0].mT
    whole, diagonal = float(s.square().sum()), float(s.diagonal().square().sum())
    expected = 2.0 * (whole - diagonal if isinstance(trace, Signs) else whole)
    assert expected > 0.1
    assert torch.allclose(found.stderr, torch.full_like(found.stderr, expected), rtol=bound)


def test_probes_are_signs_or_unit_normals_drawn_once_and_each_samples_own():
    x, noise = torch.zeros(400, 3, 5), SeededNoise(0)

    def drawn(probes, n=4, rows=400):
        asked = Asked(x[:rows])
        Hutchinson(n, probes).estimate(asked, noise)
        return asked.probes

    signs, normals = drawn(Rademacher()), drawn(UnitNormal())
    assert signs.shape == normals.shape == (400, 4, 3, 5)
    assert signs.unique().tolist() == [-1.0, 1.0]
    assert abs(float(signs.mean())) < 5.03 / math.sqrt(signs.numel())
    assert abs(float(normals.var()) - 1.0) < 5.03 * math.sqrt(2.0 / normals.numel())
    assert torch.equal(drawn(Rademacher(), rows=7), signs[:7])
    assert torch.equal(drawn(Rademacher(), 2), signs[:, :2])


class Asked:
    """A Jacobian that is 0, and keeps the probes that it is asked about."""

    def __init__(self, like):
        self.like = like

    def quadratic(self, probes):
        self.probes = probes
        return probes.new_zeros(probes.shape[:2])


def test_standard_error_divides_by_the_root_of_the_number_of_probes():
    values = torch.tensor([[1.0, 2.0, 4.0, 9.0]])
    mean, stderr = mean_of(values)
    assert mean.tolist() == [4.0]
    assert stderr.item() == pytest.approx(math.sqrt((9 + 4 + 0 + 25) / 3 / 4))
    assert mean_of(values[:, :1]).stderr.isnan().all()
    for n in (0, 2.5):
        with pytest.raises(ValueError, match=f"n={n} .*integer"):
            Hutchinson(n)


def test_estimates_are_within_their_standard_errors():
    model = Denoiser(Mixing(6), VPSDE(), "v")
    x = normal(64, 6, dtype=torch.float64)
    expected = sd.log_likelihood(model, x, steps=15, trace=ExactTrace())
    for trace in (Hutchinson(16), Hutchinson(16, probes=UnitNormal())):
        found = sd.log_likelihood(model, x, steps=15, trace=trace, seed=0)
        z = (found.nats - expected.nats) / found.stderr
        assert float(z.abs().max()) < 6.0  # Student's t with 15 degrees of freedom, 64 rows
        assert 0.7 < float(z.std()) < 1.5
        assert torch.equal(found.parts["prior"], expected.parts["prior"])


def test_small_data_have_an_exact_trace_and_large_an_estimate():
    small, large = (
        sd.log_likelihood(Denoiser(Mixing(d), VPSDE(), "v"), normal(1, d), steps=2)
        for d in (128, 129)
    )
    assert float(small.stderr) == 0.0
    assert float(large.stderr) > 0.0


def test_probes_may_be_replayed():
    model, x = model_on(), normal(2, 3)
    draws = [normal(2, 3, seed=k) for k in range(2)]
    how = {"trace": Hutchinson(2, probes=UnitNormal()), "steps": 3}
    found = sd.log_likelihood(model, x, noise=InjectedNoise(draws), **how)
    again = sd.log_likelihood(model, x, noise=InjectedNoise(draws), **how)
    assert torch.equal(found.nats, again.nats)


def test_an_empty_batch_has_an_empty_result():
    for trace in (ExactTrace(), Hutchinson(2)):
        for solver in (AdamsPC(), DormandPrince()):
            found = sd.log_likelihood(model_on(), torch.zeros(0, 3), trace=trace, solver=solver)
            assert found.nats.shape == found.nfe.shape == found.bits_per_dim.shape == (0,)


@pytest.mark.parametrize("trace", [ExactTrace(), Hutchinson(2)], ids=["exact", "hutchinson"])
@pytest.mark.parametrize("solver", [AdamsPC(4), DormandPrince(1e-3, 1e-3)], ids=label)
def test_rows_do_not_depend_on_each_other(solver, trace):
    model, x = model_on(), normal(6, 3) * torch.tensor([[0.1], [1.0], [3.0], [0.3], [2.0], [5.0]])
    how = {"solver": solver, "trace": trace}
    whole = sd.log_likelihood(model, x, seed=0, **how)
    for i in range(6):
        alone = sd.log_likelihood(model, x[i : i + 1], noise=SeededNoise(0, start=i), **how)
        assert torch.equal(alone.nats[0], whole.nats[i])
        assert torch.equal(alone.nfe[0], whole.nfe[i])
