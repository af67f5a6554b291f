"""Processes: the identities that tie alpha, sigma, f, g and lam, and the exact laws of paths."""

from __future__ import annotations

import math
import re
from functools import partial

import mpmath
import pytest
import torch
from conftest import PROCESSES, generator
from hypothesis import given, settings
from hypothesis import strategies as st

from scoresde import (
    CLEAN,
    EDMSDE,
    VESDE,
    VPSDE,
    CosineVPSDE,
    GaussianSDE,
    Level,
    Prior,
    RectifiedFlow,
    SubVPSDE,
)
from scoresde.sde import forward_kernel
from scoresde.testing import check_process, strategies

EPS = torch.finfo(torch.float64).eps
FINE = {"t_min": 1e-7}

KINDS = {
    "vp": VPSDE,
    "subvp": SubVPSDE,
    "ve": VESDE,
    "cosine": CosineVPSDE,
    "edm": EDMSDE,
    "flow": RectifiedFlow,
    "gaussian": GaussianSDE,
}
shares = st.floats(0.0, 1.0)
every_process = pytest.mark.parametrize("name", PROCESSES)


def between(sde, share):
    """Return the time at a share of the way from t_min to T, in steps that shrink with t."""
    low = max(sde.t_min, 1e-4 * sde.T)
    return min(low * (sde.T / low) ** share, sde.T)


# The SDE and its marginals


@every_process
def test_processes_of_any_parameters_keep_their_contract(name):
    """The coefficients solve the SDE, lam has its inverse, floats and tensors agree, ..."""

    @settings(max_examples=20 if name == "gaussian" else 100)
    @given(strategies.processes(KINDS[name]))
    def check(sde):
        check_process(sde).raise_if_failed()

    check()


def test_variance_preserving_processes_preserve_it():
    for sde in (VPSDE(), CosineVPSDE()):
        for t in torch.linspace(sde.t_min, sde.T, 33, dtype=torch.float64).tolist():
            assert sde.alpha(t) ** 2 + sde.sigma(t) ** 2 == pytest.approx(1.0, abs=1e-15)


def test_processes_are_those_of_their_papers():
    # beta integrates to 10.05 over [0, 1] (Song et al. 2021, App. C)
    assert VPSDE().alpha(1.0) == pytest.approx(math.exp(-0.5 * 10.05), rel=1e-14)
    assert SubVPSDE().sigma(1.0) == pytest.approx(1 - math.exp(-10.05), rel=1e-14)
    assert VESDE().sigma(0.5) == pytest.approx(math.sqrt(0.01 * 50.0), rel=1e-14)
    cosine = CosineVPSDE()
    for t in (0.1, 0.5, 0.9):
        shifted = [math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (t, 0.0)]
        assert cosine.alpha(t) ** 2 == pytest.approx(shifted[0] / shifted[1], rel=1e-14)
    assert (EDMSDE().sigma(80.0), EDMSDE().alpha(80.0)) == (80.0, 1.0)
    assert (RectifiedFlow().sigma(0.25), RectifiedFlow().alpha(0.25)) == (0.25, 0.75)


def test_the_flow_at_its_end_has_no_data_and_an_infinite_drift():
    sde = RectifiedFlow()
    for t in (1.0, torch.ones(2, 1, dtype=torch.float64)):
        ends = [torch.as_tensor(v) for v in (sde.alpha(t), sde.lam(t), sde.f(t), sde.g2(t))]
        assert [float(v.max()) for v in ends] == [0.0, -math.inf, -math.inf, math.inf]
        assert float(torch.as_tensor(sde.dalpha(t)).max()) == -1.0
        assert float(torch.as_tensor(sde.dsigma(t)).max()) == 1.0


def test_a_process_of_functions_equals_the_same_in_closed_form():
    exact = VPSDE()
    sde = GaussianSDE(
        lambda t: torch.exp(-0.5 * (0.1 * t + 9.95 * t * t)),
        lambda t: torch.sqrt(-torch.expm1(-(0.1 * t + 9.95 * t * t))),
    )
    for t in (0.001, 0.1, 0.5, 1.0):
        for name in ("alpha", "sigma", "f", "dalpha", "lam"):
            ours, theirs = getattr(sde, name)(t), getattr(exact, name)(t)
            assert ours == pytest.approx(theirs, rel=1e-12), name
        assert sde.g2(t) == pytest.approx(exact.g2(t), rel=1e-10)
        assert sde.t_at(exact.lam(t)) == pytest.approx(t, rel=1e-10)
    with torch.no_grad(), torch.inference_mode():  # as inside a solve
        assert sde.f(0.5) == pytest.approx(exact.f(0.5), rel=1e-12)


# lam and its inverse


@pytest.mark.parametrize("kind", [float, partial(torch.tensor, dtype=torch.float64)])
def test_t_at_infinity(kind):
    clean = {"vp": 0.0, "subvp": 0.0, "cosine": 0.0, "edm": 0.0, "flow": 0.0, "gaussian": 0.0}
    for name, t in clean.items():
        assert float(PROCESSES[name].t_at(kind(math.inf))) == pytest.approx(t, abs=1e-16)
    assert float(PROCESSES["flow"].t_at(kind(-math.inf))) == 1.0
    assert float(PROCESSES["edm"].t_at(kind(-math.inf))) == math.inf
    assert float(PROCESSES["gaussian"].t_at(kind(-math.inf))) == 1.0


def test_t_at_is_sharp_at_small_times():
    for sde in (VPSDE(**FINE), SubVPSDE(**FINE), CosineVPSDE(**FINE), RectifiedFlow(**FINE)):
        for t in (1e-7, 1e-5, 1e-3):
            assert sde.t_at(sde.lam(t)) == pytest.approx(t, rel=1e-10)
            assert sde.t_at(torch.tensor(sde.lam(t))).item() == pytest.approx(t, rel=1e-5, abs=1e-8)


# Single precision


@pytest.mark.parametrize(
    "sde",
    [
        VPSDE(**FINE),
        SubVPSDE(**FINE),
        VESDE(),
        CosineVPSDE(**FINE),
        EDMSDE(**FINE),
        RectifiedFlow(),
    ],
    ids=repr,
)
def test_float32_variance_is_accurate_at_every_time(sde):
    t = torch.logspace(-7, 0, 2001)
    t = t[t <= sde.T]
    single, double = sde.sigma(t).double() ** 2, sde.sigma(t.double()) ** 2
    assert ((single / double - 1).abs() <= 1e-6).all()
    alpha = (sde.alpha(t).double() - sde.alpha(t.double())).abs()
    assert (alpha <= 4e-7).all()


@pytest.mark.parametrize(
    "sde", [VPSDE(), VPSDE(beta_max=40.0), SubVPSDE(beta_max=40.0), CosineVPSDE()], ids=repr
)
def test_the_slope_of_sigma_is_accurate_where_the_process_saturates(sde):
    t = torch.linspace(0.01, sde.T, 1001)
    double = torch.func.vmap(torch.func.grad(sde.sigma))(t.double())
    alpha = sde.alpha(t.double())
    # one rounding of B is a relative EPS B of e^-B
    bound = 3e-7 * (4.0 - 2.0 * alpha.log())
    if isinstance(sde, CosineVPSDE):  # and one of theta EPS / cos(theta)
        bound = 3e-7 * (2.0 + 1.0 / alpha)
    assert ((sde.dsigma(t) / double - 1).abs() <= bound).all()


# Levels


def test_a_level_holds_its_coefficients(sde):
    t = between(sde, 0.6)
    level = sde.level(t)
    assert (level.t, level.alpha, level.sigma) == (t, sde.alpha(t), sde.sigma(t))
    a, s = level.alpha, level.sigma
    assert level.lam == pytest.approx(math.log(a / s), abs=1e-14)
    assert level.radius(0.5) == pytest.approx(math.sqrt(0.25 * a * a + s * s), rel=1e-15)
    assert math.tan(level.angle(0.5)) == pytest.approx(s / (0.5 * a), rel=1e-12)
    assert level.information(0.5) == pytest.approx(math.log(level.radius(0.5) / s), rel=1e-12)
    assert isinstance(sde.level(1 if sde.T >= 1 else 0.5).sigma, float)


def test_a_level_of_each_sample_takes_the_rank_of_the_batch():
    level = VPSDE().level(torch.tensor([0.1, 0.5]))
    wide = level.like(torch.zeros(2, 3, 4))
    assert wide.t.shape == wide.alpha.shape == wide.sigma.shape == (2, 1, 1)
    assert CLEAN.like(torch.zeros(2, 3)) == CLEAN
    one = VPSDE().level(torch.tensor(0.5)).like(torch.zeros(4, 3))
    assert one.sigma.shape == (1, 1)
    for shape in ((1,), (3,), (2, 2), (1, 4)):
        with pytest.raises(ValueError, match=r"t: a level of shape .* for 4 samples"):
            VPSDE().level(torch.full(shape, 0.5)).like(torch.zeros(4, 3))


def test_the_clean_level_is_the_data():
    assert (CLEAN.alpha, CLEAN.sigma, CLEAN.lam, CLEAN.angle()) == (1.0, 0.0, math.inf, 0.0)
    assert Level(1.0, 0.0, 1.0).angle() == pytest.approx(math.pi / 2, rel=1e-15)
    assert (Level(1.0, 0.0, 1.0).information(), CLEAN.information()) == (0.0, math.inf)


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan, math.inf])
def test_levels_outside_the_time_span_are_refused(t):
    for value in (t, torch.tensor([0.5, t])):
        with pytest.raises(ValueError, match=r"t=.*outside \[0, 1.0\]"):
            VPSDE().level(value)


@pytest.mark.parametrize(
    ("x0", "t", "eps", "named"),
    [
        (torch.zeros(4, 2), 0.5, torch.zeros(2), r"eps: shape \(2,\) for an x0 of \(4, 2\)"),
        (torch.zeros(1, 2), torch.full((5,), 0.5), torch.zeros(1, 2), r"t: .* for 1 samples"),
        (torch.zeros(4, 2, dtype=torch.uint8), 0.5, torch.zeros(4, 2), r"x0: dtype torch.uint8"),
        (torch.full((4, 2), math.nan), 0.5, torch.zeros(4, 2), r"x0: has NaN"),
    ],
)
def test_perturb_refuses_what_does_not_fit(x0, t, eps, named):
    with pytest.raises(ValueError, match=named):
        VPSDE().perturb(x0, t, eps)


# Transitions


def composed(first, second):
    return second.scale * first.scale, second.std**2 + (second.scale * first.std) ** 2


@every_process
def test_transitions_form_a_semigroup(name):
    @settings(max_examples=200)
    @given(strategies.processes(KINDS[name]), st.tuples(shares, shares, shares))
    def check(sde, where):
        u, s, t = sorted(between(sde, share) for share in where)
        direct = sde.transition(u, t)
        scale, variance = composed(sde.transition(u, s), sde.transition(s, t))
        assert scale == pytest.approx(direct.scale, rel=1e-12)
        assert abs(variance - direct.std**2) <= 1e-12 * sde.sigma(t) ** 2
        a, s_u, s_t = direct.scale, sde.sigma(u), sde.sigma(t)
        assert direct.std**2 + (a * s_u) ** 2 == pytest.approx(s_t**2, rel=1e-12)
        assert a == pytest.approx(sde.alpha(t) / sde.alpha(u), rel=1e-14)

    check()


def integral(t):
    return mpmath.mpf(0.1) * t + (mpmath.mpf(20.0) - mpmath.mpf(0.1)) * t * t / 2


def ve_variance(s, t):
    rate = 2 * mpmath.log(mpmath.mpf(10.0) / mpmath.mpf(0.01))
    return mpmath.mpf(0.01) ** 2 * (mpmath.exp(rate * t) - mpmath.exp(rate * s))


VARIANCES = {
    "vp": lambda s, t: -mpmath.expm1(integral(s) - integral(t)),
    "subvp": lambda s, t: (
        mpmath.expm1(integral(s) - integral(t)) * mpmath.expm1(-integral(s) - integral(t))
    ),
    "ve": ve_variance,
    "edm": lambda s, t: (t - s) * (t + s),
    "flow": lambda s, t: (t - s) * (t + s - 2 * s * t) / (1 - s) ** 2,
}


@pytest.mark.parametrize("name", VARIANCES)
def test_the_variance_of_a_transition_is_exact_for_nearby_times_too(name):
    sde = PROCESSES[name]
    with mpmath.workdps(50):
        for s in (0.003 * sde.T, 0.3 * sde.T, 0.9 * sde.T):
            for step in (1e-12, 1e-9, 1e-6, 1e-3, 0.1):
                t = s * (1 + step)
                exact = VARIANCES[name](mpmath.mpf(s), mpmath.mpf(t))
                # t is known to EPS t only, so the share of new noise is to about EPS
                error = abs(sde.transition(s, t).std ** 2 - exact) / sde.sigma(t) ** 2
                assert error <= 8 * EPS


@given(st.floats(0.01, 0.99))
def test_transitions_between_adjacent_times_are_real(u):
    for sde in PROCESSES.values():
        s = u * sde.T
        kernel = sde.transition(s, math.nextafter(s, math.inf))
        assert kernel.scale == pytest.approx(1.0, abs=1e-13)
        assert 0.0 <= kernel.std <= 1e-6 * sde.sigma(s)
        each = sde.transition(*torch.tensor([[s], [s]], dtype=torch.float64))
        assert each.std.tolist() == [0.0]


def test_transitions_from_the_data_and_to_pure_noise():
    for name in ("vp", "subvp", "cosine", "edm", "flow", "gaussian"):
        sde = PROCESSES[name]
        assert sde.transition(0.0, sde.T) == pytest.approx((sde.alpha(sde.T), sde.sigma(sde.T)))
        assert sde.transition(0.0, 0.0) == (1.0, 0.0)
        assert forward_kernel(CLEAN, sde.level(sde.T)) == pytest.approx(sde.transition(0, sde.T))
    assert PROCESSES["flow"].transition(0.5, 1.0) == (0.0, 1.0)


def test_ve_runs_from_sigma_min():
    sde = VESDE(0.01, 10.0)
    for t in (1e-6, 0.01, 0.5, 1.0):
        exact = 0.01**2 * math.expm1(2 * math.log(1000.0) * t)
        assert sde.transition(0.0, t).std ** 2 == pytest.approx(exact, rel=1e-9)
    assert sde.level(0.0).sigma == pytest.approx(0.01, rel=1e-15)


def test_a_transition_back_in_time_is_refused(sde):
    with pytest.raises(ValueError, match=r"s=.* t=.*t >= s"):
        sde.transition(0.5, 0.25)
    s, t = torch.tensor([[0.1, 0.5], [0.2, 0.25]])
    with pytest.raises(ValueError, match=r"s=.* t=.*t >= s"):
        sde.transition(s, t)
    with pytest.raises(ValueError, match=r"s=.* t=.*t >= s"):
        sde.transition(0.5, t)


# Prior and paths


def test_the_prior_has_the_moments_of_the_last_marginal(sde):
    a, s = sde.alpha(sde.T), sde.sigma(sde.T)
    assert (sde.prior().mean, sde.prior().std) == (0.0, pytest.approx(s))
    informed = sde.prior(mean=2.0, variance=0.25)
    assert informed.mean == pytest.approx(2.0 * a)
    assert informed.std == pytest.approx(math.sqrt(0.25 * a * a + s * s), rel=1e-14)
    variance = torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64)
    each = sde.prior(mean=variance, variance=variance)
    assert torch.allclose(each.std, (a * a * variance + s * s).sqrt(), rtol=1e-14)
    assert torch.allclose(each.mean, a * variance, rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_prior_draws_from_its_own_density(dtype):
    mean = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    std = torch.tensor([[0.1, 2.0], [1.0, 5.0]], dtype=torch.float64)
    z = torch.randn(5, 2, 2, generator=generator(1), dtype=dtype)
    for prior, scale in [(Prior(mean, std), std), (Prior(0.3, 2.0), torch.full((2, 2), 2.0))]:
        x = prior.draw(z)
        assert x.dtype == dtype
        assert torch.allclose((x.double() - prior.mean) / scale, z.double(), atol=1e-4)
        exact = torch.distributions.Normal(torch.as_tensor(prior.mean), scale).log_prob(x.double())
        assert prior.log_prob(x).dtype == dtype
        assert torch.allclose(prior.log_prob(x).double(), exact.sum((1, 2)), rtol=1e-5)


@pytest.mark.parametrize(
    "std", [0.0, -1.0, math.nan, math.inf, torch.tensor([1.0, 0.0]), torch.tensor([1.0, math.inf])]
)
def test_a_prior_has_a_positive_deviation(std):
    with pytest.raises(ValueError, match=r"std=.*must be positive and finite"):
        Prior(0.0, std)


def test_paths_have_the_exact_law(sde):
    """Unit draws one at a time give the columns L of the path's law: its covariance is L L^T."""
    times = [between(sde, u) for u in (0.05, 0.3, 0.31, 0.6, 0.95)]
    n = len(times)
    # row 0 is the noiseless path of x0 = 1, row i the answer to draw i alone
    x0 = torch.zeros(n + 1, 1, dtype=torch.float64).index_fill(0, torch.tensor([0]), 1.0)
    draws = list(torch.eye(n + 1, dtype=torch.float64)[:, 1:].T.unsqueeze(-1))
    path = sde.paths(x0, times, draws)[..., 0]
    assert path[:, 0].tolist() == pytest.approx([sde.alpha(t) for t in times], rel=1e-12)
    loadings = path[:, 1:]
    for i, s in enumerate(times):
        for j, t in enumerate(times[i:], i):
            covariance = sde.alpha(t) / sde.alpha(s) * sde.sigma(s) ** 2
            assert loadings[i] @ loadings[j] == pytest.approx(covariance, rel=1e-12)


def test_paths_refuse_times_and_draws_that_do_not_fit(sde):
    x0 = torch.zeros(2, 3)
    times = [0.2 * sde.T, 0.4 * sde.T]
    with pytest.raises(ValueError, match="draws: 1 tensors for 2 times"):
        sde.paths(x0, times, [x0])
    with pytest.raises(ValueError, match="draws: 0 tensors for 0 times"):
        sde.paths(x0, [], [])
    with pytest.raises(ValueError, match=r"times=.*must increase strictly"):
        sde.paths(x0, times[::-1], [x0, x0])
    with pytest.raises(ValueError, match="outside"):
        sde.paths(x0, [0.5 * sde.T, 1.5 * sde.T], [x0, x0])


# Construction


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (partial(VPSDE, t_min=0.0), "t_min=0.0: sigma is 0"),
        (partial(VPSDE, t_min=2.0), "t_min=2.0 and T=1.0"),
        (partial(VPSDE, t_min=-1.0), "t_min=-1.0"),
        (partial(VPSDE, t_min=math.nan), "t_min=nan"),
        (partial(VPSDE, T=math.inf), "T=inf"),
        (partial(VPSDE, 20.0, 0.1), "beta_min=20.0, beta_max=0.1"),
        (partial(VPSDE, 0.0), "beta_min=0.0"),
        (partial(SubVPSDE, math.nan), "beta_min=nan"),
        (partial(VPSDE, 0.1, math.inf), "beta_max=inf"),
        (partial(VESDE, 0.01, math.inf), "sigma_max=inf"),
        (partial(SubVPSDE, t_min=0.0), "choose a larger t_min"),
        (partial(VESDE, 50.0, 0.01), "sigma_min=50.0, sigma_max=0.01"),
        (partial(VESDE, 0.0), "sigma_min=0.0"),
        (partial(CosineVPSDE, T=1.0), "T=1.0: the cosine schedule"),
        (partial(CosineVPSDE, 0.0), "s=0.0"),
        (partial(EDMSDE, t_min=0.0), "sigma is 0"),
        (partial(RectifiedFlow, T=1.5), "T=1.5: a rectified flow"),
        (partial(GaussianSDE, torch.sin, torch.cos), "must decrease strictly"),
        (partial(GaussianSDE, lambda t: 1.0, lambda t: t), "of_alpha: maps a tensor to 1.0"),
        (partial(GaussianSDE, torch.ones_like, torch.sum), "of_sigma: maps a tensor to"),
    ],
)
def test_a_process_that_cannot_be_is_refused(build, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        build()


def test_processes_are_values():
    assert VPSDE() == VPSDE(0.1, 20.0)
    assert VPSDE() != SubVPSDE()
    assert len({VPSDE(), VPSDE(), VPSDE(t_min=1e-4)}) == 2
    assert eval(repr(VESDE(0.02, 5.0))) == VESDE(0.02, 5.0)
    with pytest.raises(AttributeError):
        VPSDE().beta_min = 1.0
