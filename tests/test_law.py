"""The exact laws of stochastic samplers, by unit draws through the real code."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from conftest import generator, spread
from solver_examples import GivenNoise, label

import scoresde as sd
from scoresde import (
    DDIM,
    VESDE,
    VPSDE,
    Ancestral,
    AnnealedLangevin,
    BrownianNoise,
    Churned,
    DensityGrid,
    EulerMaruyama,
    Field,
    Gaussian,
    Heun,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    SeededNoise,
    Solver,
    Step,
    SubVPSDE,
    UniformGrid,
)
from scoresde.tensors import lincomb
from scoresde.testing import (
    PANEL,
    NotAffine,
    convergence,
    law,
    marginal,
    strong_convergence,
    weak_error,
)
from scoresde.testing.strong import PathNoise

MEAN, VARIANCE = 0.7, 0.3  # of the scalar data


def scalar(mean, variance):
    return Gaussian(
        torch.tensor([mean], dtype=torch.float64), torch.tensor([[variance]], dtype=torch.float64)
    )


DATA = scalar(MEAN, VARIANCE)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def score_of(level):
    """Return k, m with score = -k (x - m), for the scalar data."""
    return 1.0 / (level.alpha**2 * VARIANCE + level.sigma**2), level.alpha * MEAN


def euler_maruyama(sde, here, there, eta):
    k, m = score_of(here)
    dt, pull = here.t - there.t, 0.5 * (1.0 + eta**2) * sde.g2(here.t) * k
    return 1.0 - dt * (sde.f(here.t) + pull), dt * pull * m, eta * math.sqrt(dt * sde.g2(here.t))


def posterior(sde, here, there, std):
    """Return x -> alpha_s x0 + sqrt(sigma_s^2 - std^2) eps, as a slope and an intercept."""
    k, m = score_of(here)
    slope_eps, shift_eps = here.sigma * k, -here.sigma * k * m
    slope_x0 = (1.0 - here.sigma * slope_eps) / here.alpha
    shift_x0 = -here.sigma * shift_eps / here.alpha
    rest = math.sqrt(there.sigma**2 - std**2)
    return there.alpha * slope_x0 + rest * slope_eps, there.alpha * shift_x0 + rest * shift_eps


def posterior_std(here, there):
    ratio = here.alpha / there.alpha
    beta2 = here.sigma**2 - ratio**2 * there.sigma**2
    return there.sigma / here.sigma * math.sqrt(beta2)


def ddim(sde, here, there, eta):
    std = eta * posterior_std(here, there)
    return *posterior(sde, here, there, std), std


def ancestral(sde, here, there, forward):
    std = posterior_std(here, there)
    kernel = math.sqrt(here.sigma**2 - (here.alpha / there.alpha) ** 2 * there.sigma**2)
    return *posterior(sde, here, there, std), kernel if forward else std


def reverse_diffusion(sde, here, there):
    k, m = score_of(here)
    a = here.alpha / there.alpha
    s2 = here.sigma**2 - a**2 * there.sigma**2
    return 2.0 - a - s2 * k, s2 * k * m, math.sqrt(s2)


def annealed(level, snr):
    k, m = score_of(level)
    e = 2.0 * (snr * level.sigma) ** 2
    return 1.0 - e * k, e * k * m, math.sqrt(2.0 * e)


def churned_heun(sde, here, there, churn):
    hat = sde.level(max(min(sde.t_at(here.lam - math.log1p(churn)), sde.T), here.t))
    gain = hat.alpha / here.alpha
    std = math.sqrt(max(hat.sigma**2 - gain**2 * here.sigma**2, 0.0))
    (k, m), (k_there, m_there), dt = score_of(hat), score_of(there), there.t - hat.t
    pull, pull_there = 0.5 * sde.g2(hat.t) * k, 0.5 * sde.g2(there.t) * k_there
    rate, rate_there = sde.f(hat.t) + pull, sde.f(there.t) + pull_there
    slope = 1.0 + 0.5 * dt * (rate + rate_there * (1.0 + dt * rate))
    shift = -0.5 * dt * (pull * m * (1.0 + dt * rate_there) + pull_there * m_there)
    return slope * gain, shift, slope * std


RECURSIONS = [
    (Churned(Heun(), 0.2), lambda sde, a, b: [churned_heun(sde, a, b, 0.2)]),
    (EulerMaruyama(), lambda sde, a, b: [euler_maruyama(sde, a, b, 1.0)]),
    (EulerMaruyama(0.5), lambda sde, a, b: [euler_maruyama(sde, a, b, 0.5)]),
    (DDIM(1.0), lambda sde, a, b: [ddim(sde, a, b, 1.0)]),
    (DDIM(0.3), lambda sde, a, b: [ddim(sde, a, b, 0.3)]),
    (Ancestral(), lambda sde, a, b: [ancestral(sde, a, b, False)]),
    (Ancestral(forward_variance=True), lambda sde, a, b: [ancestral(sde, a, b, True)]),
    (ReverseDiffusion(), lambda sde, a, b: [reverse_diffusion(sde, a, b)]),
    (
        PredictorCorrector(DDIM(1.0), AnnealedLangevin(0.2), corrections=2),
        lambda sde, a, b: [ddim(sde, a, b, 1.0), annealed(b, 0.2), annealed(b, 0.2)],
    ),
]


@pytest.mark.parametrize(("solver", "recursion"), RECURSIONS, ids=label)
@pytest.mark.parametrize(
    "sde", [VPSDE(), SubVPSDE(), VESDE(0.01, 10.0)], ids=lambda s: type(s).__name__
)
def test_law_is_the_affine_recursion(solver, recursion, sde):
    for steps in (1, 2, 3, 7, 16, 50, 100):
        levels = UniformGrid().levels(sde, steps)
        start = marginal(DATA, levels[0])
        mean, variance = float(start.mean), float(start.covariance)
        for here, there in pairwise(levels):
            for slope, shift, std in recursion(sde, here, there):
                mean, variance = slope * mean + shift, slope**2 * variance + std**2
        found = law(solver, sde, DATA, UniformGrid(), steps=steps, denoise=False)
        assert math.isclose(float(found.mean), mean, rel_tol=1e-10, abs_tol=1e-12)
        assert math.isclose(float(found.covariance), variance, rel_tol=1e-10)


def test_a_thousand_euler_maruyama_steps_reach_the_variance_within_half_a_percent():
    sde = VPSDE()
    found = law(EulerMaruyama(), sde, DATA, UniformGrid(), steps=1000, denoise=False)
    exact = marginal(DATA, sde.level(sde.t_min))
    assert abs(float(found.covariance / exact.covariance) - 1.0) < 0.005


class ExactReverse(Solver):
    """Samples the exact reverse kernel of the scalar Gaussian data."""

    order, stochastic = 1, True

    def step(self, field, x, here, there, state, noise):
        (k, m), (k_there, m_there) = score_of(here), score_of(there)
        gain = here.alpha / there.alpha * k / k_there
        std = math.sqrt(1.0 / k_there - gain**2 / k)
        shift = torch.full_like(x, m_there - gain * m)
        return Step(lincomb((gain, x), (1.0, shift), (std, noise.normal(x, here.t))))


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_the_exact_reverse_kernel_has_the_exact_law_in_any_number_of_steps(steps):
    sde = VPSDE()
    found = law(ExactReverse(), sde, DATA, steps=steps, denoise=False)
    assert weak_error(found, marginal(DATA, sde.level(sde.t_min))) < 1e-12


@pytest.mark.parametrize("denoise", [False, True])
def test_law_agrees_with_samples_in_several_dimensions(denoise):
    # wiring only: 20 000 samples and |z| <= 5.03 for each of 9 entries
    data = Gaussian(torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64), spread(1.0, 0.3, 0.05))
    sde, n = VPSDE(), 20_000
    start = marginal(data, sde.level(sde.T))
    how = {"steps": 12, "denoise": denoise}
    found = law(EulerMaruyama(), sde, data, **how)
    x = start.sample(normal(n, 3), torch.zeros(n, dtype=torch.float64))
    x = sd.sample(data.denoiser(sde), x=x, solver=EulerMaruyama(), seed=5, **how)
    v = found.covariance.diagonal()
    assert float(((x.mean(0) - found.mean) / (v / n).sqrt()).abs().max()) < 5.03
    spread_of = ((v[:, None] * v + found.covariance**2) / n).sqrt()
    assert float(((x.T.cov() - found.covariance) / spread_of).abs().max()) < 5.03


WEAK = [EulerMaruyama(), EulerMaruyama(0.5), DDIM(1.0), DDIM(0.5), Ancestral()]
WEAK += [Ancestral(forward_variance=True), ReverseDiffusion()]


@pytest.mark.parametrize("solver", WEAK, ids=label)
def test_weak_order_is_one(solver):
    for problem in (PANEL[1], PANEL[4]):  # VP, sub-VP
        curve = convergence(solver, problem, (64, 128))
        assert 0.9 <= curve.order <= 1.2, str(curve)
        assert curve.errors[-1] < 0.1


def test_churn_keeps_the_second_order_of_heun_where_it_falls_with_the_steps():
    curve = convergence(lambda n: Churned(Heun(), 2.0 / n), PANEL[1], (64, 128))
    assert abs(curve.order - 2.0) < 0.2, str(curve)


def test_churn_that_does_not_fall_stops_the_convergence():
    curve = convergence(Churned(Heun(), 0.05), PANEL[1], (64, 128, 256))
    assert curve.order < 1.0
    assert curve.errors[-1] < 1e-3


def test_stationary_variance_of_annealed_langevin():
    sde, snr = VPSDE(), 0.25
    level, model = sde.level(0.3), DATA.denoiser(VPSDE())
    here = marginal(DATA, level)
    found = law_of_corrections(AnnealedLangevin(snr), model, here, level, 4000)
    e, v = 2.0 * (snr * level.sigma) ** 2, float(here.covariance)
    assert math.isclose(float(found.covariance), v / (1.0 - e / (2.0 * v)), rel_tol=1e-10)
    assert math.isclose(float(found.mean), float(here.mean), rel_tol=1e-10)


def law_of_corrections(corrector, model, start, level, count):
    """Return the law after corrections at one level, by the slope and noise of one of them."""
    rows, draws = torch.tensor([[[0.0], [1.0], [0.0]], [[0.0], [0.0], [1.0]]], dtype=torch.float64)
    out = corrector.step(Field(model), rows, level, level, None, GivenNoise(draws)).x.flatten()
    shift, slope, std = float(out[0]), float(out[1] - out[0]), float(out[2] - out[0])
    mean, variance = float(start.mean), float(start.covariance)
    for _ in range(count):
        mean, variance = slope * mean + shift, slope**2 * variance + std**2
    return scalar(mean, variance)


def test_error_of_predictor_corrector_falls_linearly_with_the_correctors_step():
    # many corrections on a fine grid: the marginal's error is that of the corrector, e / 2V
    sde = VPSDE(t_min=0.3)
    exact = marginal(DATA, sde.level(sde.t_min))
    errors = []
    for snr in (0.1, 0.1 * math.sqrt(2.0), 0.2):
        solver = PredictorCorrector(DDIM(1.0), AnnealedLangevin(snr), corrections=100)
        found = law(solver, sde, DATA, DensityGrid(), steps=12, denoise=False)
        errors.append(weak_error(found, exact))
    e = 2.0 * (0.2 * sde.level(sde.t_min).sigma) ** 2
    v = float(exact.covariance)
    assert math.isclose(errors[-1], 1.0 / (1.0 - e / (2.0 * v)) - 1.0, rel_tol=1e-3)
    for coarse, fine in pairwise(reversed(errors)):
        assert math.isclose(coarse / fine, 2.0, rel_tol=0.1)


@pytest.mark.parametrize(("batch_mean_norms", "tilt"), [(True, 0.0), (False, 4.0)])
def test_stationary_variance_of_langevin(batch_mean_norms, tilt):
    # a step of e = 2 snr^2 V leaves V / (1 - e / 2V); one of each sample's own norms tilts that by
    # |score|^2 |z|^2, a relative 4 / D
    d, n, snr, level = 64, 2000, 0.16, VPSDE().level(0.5)
    data = Gaussian(torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))
    field, x = Field(data.denoiser(VPSDE())), normal(n, d)
    corrector = Langevin(snr, batch_mean_norms)
    for k in range(60):
        x = corrector.step(field, x, level, level, None, SeededNoise(k)).x
    expected = (1.0 + tilt / d) / (1.0 - snr**2)
    assert abs(float(x.square().mean()) - expected) < 5.03 * expected * math.sqrt(2.0 / (n * d))


@pytest.mark.parametrize("batch_mean_norms", [False, True])
def test_law_refuses_what_is_not_affine(batch_mean_norms):
    solver = PredictorCorrector(corrector=Langevin(0.16, batch_mean_norms))
    with pytest.raises(NotAffine, match=r"sampler=PredictorCorrector"):
        law(solver, VPSDE(), DATA, steps=4)


@pytest.mark.parametrize("solver", WEAK, ids=label)
def test_strong_order_is_one_on_a_shared_brownian_path(solver):
    curve = strong_convergence(solver)
    assert curve.steps == (16, 32, 64, 128, 256)
    assert abs(sum(curve.slopes) / 4 - solver.strong_order) < 0.1, str(curve)
    assert curve.errors[-1] < 0.01


def test_draws_that_are_no_increments_follow_no_path():
    curve = strong_convergence(Churned(Heun(), 0.1), (16, 32, 64))
    assert curve.order < 0.2
    assert curve.errors[-1] > 0.3


def test_a_lookup_of_a_path_is_what_brownian_noise_draws_for_law_and_refinement():
    # increments of unit variance, and finer ones that sum to coarser ones
    z = torch.empty(256, 2, dtype=torch.float64)
    noise = PathNoise(1.0, 5.0)
    times = [1.0 + 4.0 * k / 64 for k in range(65)]
    moves = torch.stack([noise.increment(z, a, b) for a, b in pairwise(times)])
    whole = noise.increment(z, 1.0, 5.0)
    assert torch.allclose(moves.sum(0) / 8.0, whole, atol=1e-12)
    n = moves.numel()
    assert abs(float(moves.square().mean()) - 1.0) < 5.03 * math.sqrt(2.0 / n)
    each = torch.full((256, 1), 2.3, dtype=torch.float64)
    assert torch.equal(noise.increment(z, each, 4.1), noise.increment(z, 2.3, 4.1))


def test_halving_the_steps_follows_the_same_path_and_another_seed_another():
    sde = VPSDE(t_min=0.1)
    x, model = normal(8, 1), DATA.denoiser(sde)
    coarse, fine, other = (
        sd.sample(
            model,
            x=x,
            steps=n,
            solver=EulerMaruyama(),
            grid=UniformGrid(),
            noise=BrownianNoise(seed, sde.t_min, sde.T, resolution=2**-12),
            denoise=False,
        )
        for n, seed in ((64, 0), (128, 0), (128, 1))
    )
    assert float((coarse - fine).abs().max()) < 0.2 * float((fine - other).abs().mean())
