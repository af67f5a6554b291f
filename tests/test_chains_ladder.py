"""Ladders: the levels of the papers, one process through them, and the solvers of both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import mpmath
import pytest
import torch
from conftest import spread
from hypothesis import given, settings
from hypothesis import strategies as st

import scoresde as sd
from scoresde import FixedGrid, Gaussian, Level, QuadraticGrid
from scoresde.chains import (
    CosineBetas,
    GeometricSigmas,
    LinearBetas,
    Respaced,
    VELadder,
    VPLadder,
    feed_index,
)
from scoresde.testing import check_process, law, marginal, weak_error

LADDERS = {
    "linear": LinearBetas(),
    "cosine": CosineBetas(n=4000),
    "geometric": GeometricSigmas(n=232, sigma_max=50.0),
    "short": LinearBetas(n=2, beta_min=0.1, beta_max=0.5),
}
every_ladder = pytest.mark.parametrize("name", LADDERS)


@every_ladder
def test_a_ladder_is_a_process(name):
    check_process(LADDERS[name]).raise_if_failed()


@settings(max_examples=8)
@given(st.integers(2, 60), st.floats(1e-4, 0.1), st.floats(0.1, 0.9))
def test_ladders_of_any_parameters_are_processes(n, low, high):
    kinds = LinearBetas(n, low, high), CosineBetas(n, low, high), GeometricSigmas(n, high, low / 2)
    for sde in kinds:
        check_process(sde).raise_if_failed()


def test_levels_of_ddpm_are_the_products_of_the_paper():
    sde = LinearBetas(n=1000)
    with mpmath.workdps(40):
        kept = mpmath.mpf(1)
        for i in range(1, 1001):
            step = (mpmath.mpf(0.02) - mpmath.mpf(1e-4)) / 999
            kept *= 1 - (mpmath.mpf(1e-4) + (i - 1) * step)
            level = sde.level(float(i))
            assert level.alpha == pytest.approx(float(mpmath.sqrt(kept)), rel=1e-13)
            assert level.sigma == pytest.approx(float(mpmath.sqrt(1 - kept)), rel=1e-13)
    # the noise that Ho et al. 2020, Sec. 4, speak of: L_T of about 1e-5 bits/dim
    assert float(sde.alpha(1000.0)) ** 2 == pytest.approx(4.04e-5, rel=1e-2)


def test_levels_of_the_cosine_are_the_ratios_of_the_paper():
    sde = CosineBetas(n=1000)
    angle = [(i / 1000 + 0.008) / 1.008 * math.pi / 2 for i in range(1001)]
    for i in (1, 2, 500, 999):
        exact = (math.cos(angle[i]) / math.cos(angle[0])) ** 2
        assert sde.alpha(float(i)) ** 2 == pytest.approx(exact, rel=1e-12)
    assert sde.betas()[-1] == 0.999  # the last alone is cut off
    assert max(sde.betas()[:-1]) < 0.999
    assert sde.alpha(1000.0) ** 2 == pytest.approx(0.001 * sde.alpha(999.0) ** 2, rel=1e-12)


def test_levels_of_ncsn_are_geometric():
    sde = GeometricSigmas(n=10, sigma_max=1.0, sigma_min=0.01)
    sigmas = [sde.sigma(float(i)) for i in range(1, 11)]
    assert sigmas[0] == pytest.approx(0.01, rel=1e-14)
    assert sigmas[-1] == 1.0
    for low, high in pairwise(sigmas):
        assert high / low == pytest.approx(100.0 ** (1 / 9), rel=1e-12)
    # which is the VE process, whose lam is linear everywhere
    other = sd.VESDE(sigma_min=0.01, sigma_max=1.0)
    assert sde.sigma(5.5) == pytest.approx(other.sigma(0.5), rel=1e-12)


@every_ladder
def test_lam_is_linear_between_levels(name):
    sde = LADDERS[name]
    for i in {1, sde.n // 2, sde.n - 1}:
        low, high = sde.lam(float(i)), sde.lam(i + 1.0)
        assert sde.lam(i + 0.25) == pytest.approx(0.75 * low + 0.25 * high, rel=1e-12)
    ends = sde.lam(1.0) - sde.lam(2.0)
    assert sde.lam(0.5) == pytest.approx(sde.lam(1.0) + 0.5 * ends, rel=1e-12)


def test_a_transition_of_one_step_has_the_variance_beta():
    for sde in (LinearBetas(), CosineBetas()):
        betas = sde.betas()
        for i in (2, 3, sde.n // 2, sde.n):
            kernel = sde.transition(i - 1.0, float(i))
            assert kernel.std**2 == pytest.approx(betas[i - 1], rel=1e-9)
            assert kernel.scale**2 == pytest.approx(1.0 - betas[i - 1], rel=1e-9)


def test_the_level_below():
    sde = LinearBetas(n=10)
    assert sde.before(sde.level(7.0)) == sde.level(6.0)
    assert sde.before(sde.level(1.0)) == sde.level(1.0)
    each = sde.before(sde.level(torch.tensor([1.0, 7.0]).double()))
    assert each.t.tolist() == [1.0, 6.0]


def test_the_network_is_fed_indices_from_0():
    fed = []

    class Net(torch.nn.Module):
        def forward(self, x, t):
            fed.append(t)
            return x

    sde = LinearBetas(n=1000)
    model = sd.Denoiser(Net(), sde, time_input=feed_index)
    x = torch.zeros(2, 3)
    for t in (1.0, 1000.0, 17.25):
        model(x, sde.level(t))
    model(x, sde.level(torch.tensor([3.0, 5.0])))
    assert [t.tolist() for t in fed] == [[0.0, 0.0], [999.0, 999.0], [16.25, 16.25], [2.0, 4.0]]


def test_a_ladder_of_your_own_is_one_method():
    @dataclass(frozen=True)
    class RootLinear(VPLadder):
        """Stable Diffusion's."""

        def betas(self):
            ends = 0.00085**0.5, 0.012**0.5
            step = (ends[1] - ends[0]) / (self.n - 1)
            return [(ends[0] + i * step) ** 2 for i in range(self.n)]

    sde = RootLinear()
    check_process(sde).raise_if_failed()
    assert sde.sigma(1.0) == pytest.approx(0.00085**0.5, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: LinearBetas(n=1), "n=1"),
        (lambda: LinearBetas(n=10.5), "n=10.5"),
        (lambda: LinearBetas(beta_max=1.0), "betas"),
        (lambda: LinearBetas(beta_min=0.0), "betas"),
        (lambda: CosineBetas(s=0.0), "s="),
        (lambda: CosineBetas(max_beta=1.0), "max_beta"),
        (lambda: GeometricSigmas(sigma_max=0.01), "sigma_max"),
        (lambda: GeometricSigmas(sigma_min=-1.0), "sigma_min"),
    ],
)
def test_bad_ladders_are_refused_by_name(make, word):
    with pytest.raises(ValueError, match=word):
        make()


@dataclass(frozen=True)
class Given(VELadder):
    """A ladder of given levels."""

    given: tuple[float, ...] = ()

    def sigmas(self):
        return self.given


@pytest.mark.parametrize("given", [(0.1, 0.1, 0.2), (0.1, 0.3, 0.2), (0.1, 0.2), (0.0, 0.1, 0.2)])
def test_levels_of_your_own_rise(given):
    with pytest.raises(ValueError, match=r"gives \d levels for n=3|math domain|rising noise"):
        Given(n=3, given=given)


# Grids of levels


def indices(spacing, n, steps):
    grid = Respaced(spacing) if spacing else Respaced()
    return [int(level.t) for level in grid.levels(LinearBetas(n=n), steps)]


def test_all_steps_visit_all_levels():
    assert indices(None, 1000, 999) == list(range(1000, 0, -1))
    assert indices(QuadraticGrid(), 100, 99) == list(range(100, 0, -1))


def test_uniform_respacing_is_that_of_improved_ddpm():
    # K evenly spaced real numbers from 1 to T, both included, rounded to integers
    assert indices(None, 1000, 9) == [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1]
    for k in (25, 50, 100, 200, 400):
        for i, found in enumerate(indices(None, 4000, k - 1)[::-1]):
            assert abs(found - (1 + i * 3999 / (k - 1))) <= 0.5 + 1e-9


def test_quadratic_respacing_is_even_in_the_root():
    found = indices(QuadraticGrid(), 1000, 20)
    roots = [t**0.5 for t in found]
    assert found[0] == 1000
    assert found[-1] == 1
    gap = (1000**0.5 - 1) / 20
    assert all(abs(high - low - gap) < 0.4 for high, low in pairwise(roots))


@given(st.integers(2, 50), st.data())
def test_levels_are_distinct_and_lead_to_both_ends(n, data):
    steps = data.draw(st.integers(1, n - 1))
    for spacing in (None, QuadraticGrid(), sd.KarrasGrid(), sd.LogSNRGrid()):
        found = indices(spacing, n, steps)
        assert (found[0], found[-1], len(found)) == (n, 1, steps + 1)
        assert all(a > b for a, b in pairwise(found))


def test_nodes_that_crowd_move_apart():
    crowded = FixedGrid((10.0, 9.8, 9.7, 9.6, 1.0))
    assert indices(crowded, 10, 4) == [10, 9, 8, 7, 1]
    assert indices(FixedGrid((10.0, 1.3, 1.2, 1.1, 1.0)), 10, 4) == [10, 4, 3, 2, 1]
    assert Respaced(crowded).steps == 4
    assert Respaced().steps is None


def test_respacing_needs_levels_and_enough_of_them():
    with pytest.raises(ValueError, match=r"Respaced.*levels of a chain.*VPSDE"):
        Respaced().levels(sd.VPSDE(), 5)
    with pytest.raises(ValueError, match="has 10 levels"):
        Respaced().levels(LinearBetas(n=10), 10)


# Ancestral sampling is the paper's


def gaussian(d=3):
    return Gaussian(torch.tensor([0.5, -1.0, 0.2]).double(), spread(1.5, 0.4, 0.1))


def papers_law(sde, data, variance):
    """The law of Alg. 2 of Ho et al. 2020 on Gaussian data, by its own formulas in betas."""
    betas = torch.tensor(sde.betas(), dtype=torch.float64)
    kept = torch.cumprod(1.0 - betas, 0)
    c, m, one = data.covariance, data.mean, torch.eye(3).double()
    mean, covariance = kept[-1].sqrt() * m, kept[-1] * c + (1 - kept[-1]) * one
    for i in range(sde.n, 0, -1):
        beta, a, here = betas[i - 1], 1.0 - betas[i - 1], kept[i - 1]
        before = kept[i - 2] if i > 1 else torch.tensor(1.0).double()
        # eps = sqrt(1 - abar) V^-1 (x - sqrt(abar) m), exact for Gaussian data
        of_x = (1 - here).sqrt() * torch.linalg.inv(here * c + (1 - here) * one)
        share = beta / (1 - here).sqrt()
        move = (one - share * of_x) / a.sqrt()
        shift = share * of_x @ (here.sqrt() * m) / a.sqrt()
        noise = {"beta": beta, "posterior": beta * (1 - before) / (1 - here)}[variance]
        mean = move @ mean + shift
        covariance = move @ covariance @ move.mT + (noise * one if i > 1 else 0.0)
    return Gaussian(mean, 0.5 * (covariance + covariance.mT))


@pytest.mark.parametrize("make", [LinearBetas, CosineBetas])
@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_ancestral_sampling_has_the_law_of_the_paper(make, variance):
    sde, data = make(n=20), gaussian()
    solver = sd.Ancestral(forward_variance=variance == "beta")
    found = law(solver, sde, data, Respaced(), steps=20)
    assert weak_error(found, papers_law(sde, data, variance)) < 1e-10


@every_ladder
def test_every_step_of_the_chain_leads_to_the_data(name):
    sde, data = LADDERS[name], gaussian()
    found = law(sd.DDIM(), sde, data, Respaced(), steps=min(sde.n, 400))
    if name != "short":
        assert weak_error(found, data) < 0.03


@pytest.mark.parametrize(
    "solver", [sd.AdamsPC(), sd.DPMSolverPP(), sd.Heun(sd.PolarFrame()), sd.UniPC()]
)
def test_solvers_of_continuous_time_solve_between_levels(solver):
    data = gaussian()
    for name in ("linear", "cosine", "geometric"):
        sde = LADDERS[name]
        assert weak_error(law(solver, sde, data, steps=60), data) < 0.01, name


def test_levels_of_a_ladder_are_values():
    assert LinearBetas(n=10) == LinearBetas(n=10)
    assert hash(LinearBetas(n=10)) == hash(LinearBetas(n=10))
    assert repr(LinearBetas(n=10)) == "LinearBetas(n=10, beta_min=0.0001, beta_max=0.02)"
    assert isinstance(LinearBetas(n=10).level(3.0), Level)


@pytest.mark.parametrize("name", ["linear", "geometric"])
def test_a_chain_has_an_exact_likelihood(name):
    """By the flow through its levels, for which the discrete chain itself has a bound alone."""
    sde, data = LADDERS[name], Gaussian(gaussian().mean, torch.diag(gaussian().variances[0]))
    prior = sde.prior(data.mean, data.covariance.diagonal())
    model, first = data.denoiser(sde), sde.level(1.0)
    x = torch.tensor([[0.3, -1.2, 0.4], [0.0, 0.5, -0.1]]).double()
    found = sd.log_likelihood(model, x, trace=sd.ExactTrace(), steps=40, prior=prior)
    assert torch.allclose(found.nats, marginal(data, first).log_prob(x), atol=1e-3)
    code = sd.encode(model, x, steps=40)
    assert torch.allclose(sd.decode(model, code, steps=40), x, atol=1e-3)


@pytest.mark.gpu
def test_levels_do_not_wait_for_the_device():
    sde, t = LinearBetas(n=8), torch.tensor([1.0, 5.5], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        lam = sde.level(t).lam
        back = sde.t_at(lam)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(back, t)
