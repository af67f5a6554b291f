"""The laws of training times: their quantiles, and that importance ratios leave no bias."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from conftest import PROCESSES, generator
from torch import nn
from training_helpers import legendre

from scoresde import EDMSDE, SDE, Denoiser, RectifiedFlow
from scoresde.training import (
    DiscreteTimes,
    ImportanceTimes,
    InformationTimes,
    LogNormalTimes,
    MinSNR,
    Times,
    UniformTimes,
    likelihood,
)


@pytest.fixture(params=PROCESSES)
def sde(request: pytest.FixtureRequest) -> SDE:
    """Every process, cut where alpha = 0, since lam cannot be uniform to infinity."""
    process = PROCESSES[request.param]
    return replace(process, T=0.99) if isinstance(process, RectifiedFlow) else process


@pytest.mark.parametrize(
    "times", [UniformTimes(), ImportanceTimes(), InformationTimes(0.5), LogNormalTimes()]
)
def test_quantiles_rise_from_end_to_end(sde: SDE, times: Times):
    t, _ = times.quantile(sde, torch.linspace(0, 1, 101, dtype=torch.float64))
    assert (t.diff() > 0).all()
    torch.testing.assert_close(t[[0, -1]], t.new_tensor([sde.t_min, sde.T]), rtol=1e-7, atol=1e-12)


def test_no_stratum_rounds_to_the_end(monkeypatch):
    monkeypatch.setattr(
        torch, "rand", lambda n, **kind: torch.full((n,), 1 - 2**-53, **_only(kind))
    )
    sde = RectifiedFlow()
    t, ratio = InformationTimes(0.5).draw(sde, 128, generator(0))
    assert (float(t.max()) < sde.T, bool(ratio.isfinite().all())) == (True, True)


def _only(kind):
    return {name: value for name, value in kind.items() if name != "generator"}


@pytest.mark.parametrize("times", [UniformTimes(), ImportanceTimes()])
def test_ratio_leaves_the_objective_unbiased(sde: SDE, times: Times):
    u, weights = legendre()
    t, ratio = times.quantile(sde, u)
    uniform = sde.t_min + (sde.T - sde.t_min) * u
    torch.testing.assert_close(weights @ ratio, u.new_tensor(1.0), rtol=1e-9, atol=0)
    for h in (lambda t: (t / sde.T) ** 2, lambda t: torch.cos(3 * t / sde.T)):
        expected = weights @ h(uniform)
        torch.testing.assert_close(weights @ (ratio * h(t)), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("times", [UniformTimes(), ImportanceTimes(), InformationTimes(2.0)])
def test_ratio_is_of_the_densities(sde: SDE, times: Times):
    u, h = legendre(16)[0], 1e-6
    slope = (times.quantile(sde, u + h)[0] - times.quantile(sde, u - h)[0]) / (2 * h)
    torch.testing.assert_close(
        times.quantile(sde, u)[1], slope / (sde.T - sde.t_min), rtol=1e-6, atol=0
    )


def test_importance_makes_the_likelihood_weight_constant(sde: SDE):
    t, ratio = ImportanceTimes().quantile(sde, torch.rand(50, generator=generator(0)).double())
    weight = likelihood(sde.level(t), Denoiser(nn.Identity(), sde, "v")) * ratio
    spread = 2 * (float(sde.lam(sde.t_min)) - float(sde.lam(sde.T))) / (sde.T - sde.t_min)
    torch.testing.assert_close(weight, torch.full_like(t, spread), rtol=1e-12, atol=0)


@pytest.mark.parametrize("c", [0.3, 2.0])
def test_information_is_spread_evenly_and_bounds_the_weighted_error(c: float):
    # at every process, alpha(T) = 0 included: error of eps = (alpha c / r)^2 times that of v
    for sde in PROCESSES.values():
        u = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0 - 2.0**-53], dtype=torch.float64)
        t, ratio = InformationTimes(c).quantile(sde, u)
        level = sde.level(t)
        information = torch.log(level.radius(c) / level.sigma)
        ends = [math.log(sde.level(s).radius(c) / sde.level(s).sigma) for s in (sde.t_min, sde.T)]
        expected = ends[1] + (ends[0] - ends[1]) * (1 - u)
        torch.testing.assert_close(information, expected, rtol=1e-6, atol=1e-12)
        weight = likelihood(level, Denoiser(nn.Identity(), sde, "v")) * ratio
        bounded = weight * (level.alpha * c / level.radius(c)) ** 2
        constant = torch.full_like(u, 2 * (ends[0] - ends[1]) / (sde.T - sde.t_min))
        torch.testing.assert_close(bounded[:-1], constant[:-1], rtol=1e-9, atol=0)
        # at the last draw of all, 1 - t of the rectified flow is known to a digit or so of u
        torch.testing.assert_close(bounded[-1:], constant[-1:], rtol=1e-6, atol=0)


def test_log_normal_is_the_law_of_edm():
    # hardly cut off: quantiles of N(-1.2, 1.2^2) in log sigma
    t, ratio = LogNormalTimes().quantile(EDMSDE(), torch.tensor([0.1587, 0.5, 0.8413]).double())
    expected = torch.tensor([-2.4, -1.2, 0.0], dtype=torch.float64)
    torch.testing.assert_close(t.log(), expected, rtol=0, atol=1e-3)
    assert (ratio == 1).all()


def test_log_normal_is_logit_normal_on_a_rectified_flow():
    u = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    t, ratio = LogNormalTimes(0.3, 0.8).quantile(RectifiedFlow(), u)
    torch.testing.assert_close(t, torch.sigmoid(0.3 + 0.8 * torch.special.ndtri(u)))
    assert (ratio == 1).all()


def test_discrete_times_are_those_of_smld():
    # Song and Ermon 2019: a geometric ladder from sigma_min to sigma_max, each level as likely
    sde, n = PROCESSES["ve"], 5
    t, ratio = DiscreteTimes(n).draw(sde, n, generator(0))
    ladder = torch.logspace(math.log10(0.01), 1.0, n, dtype=torch.float64)
    torch.testing.assert_close(sde.sigma(t).sort().values, ladder)
    assert (ratio == 1).all()
    ends, _ = DiscreteTimes(n).quantile(sde, t.new_tensor([0.0, 0.1999, 0.8001, 1.0]))
    assert ends.tolist() == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("n", [2, 7, 1000])
def test_discrete_times_lie_in_the_range_of_the_process(n: int):
    for sde in PROCESSES.values():
        t, _ = DiscreteTimes(n).quantile(sde, (torch.arange(n).double() + 0.5) / n)
        assert t[0] == sde.t_min
        # as the network sees it; of the two floats where alpha is 0 the one before
        assert t[-1].float() == sde.T
        assert (t[-1] == sde.T) == (float(sde.alpha(sde.T)) > 0.0)
        assert float(sde.alpha(t[-1])) > 0.0
        assert (t.diff() > 0).all()


def test_log_normal_is_cut_off_in_proportion():
    sde = replace(EDMSDE(), t_min=math.exp(-1.2))  # half of the mass
    t, _ = LogNormalTimes().quantile(sde, torch.tensor([0.0, 0.5]).double())
    expected = t.new_tensor([-1.2, -1.2 + 1.2 * 0.6744897501960817])
    torch.testing.assert_close(t.log(), expected, rtol=0, atol=1e-5)


def test_refusals():
    u = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="alpha is 0 at T=1"):
        ImportanceTimes().quantile(RectifiedFlow(), u)
    with pytest.raises(ValueError, match="this law all but misses"):
        LogNormalTimes(mean=40.0).quantile(PROCESSES["vp"], u)
    with pytest.raises(ValueError, match="std=0"):
        LogNormalTimes(std=0.0)
    with pytest.raises(ValueError, match="n=1"):
        DiscreteTimes(1)
    with pytest.raises(ValueError, match="data_std=0"):
        InformationTimes(0.0)
    with pytest.raises(ValueError, match="mean=nan"):
        LogNormalTimes(mean=float("nan"))
    with pytest.raises(ValueError, match="gamma=-1"):
        MinSNR(-1.0)
