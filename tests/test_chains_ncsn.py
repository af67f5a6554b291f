"""NCSN and NCSNv2: annealed Langevin dynamics, and the rules for levels and steps."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from conftest import generator, spread
from scipy.spatial.distance import pdist

import scoresde as sd
from scoresde import Gaussian
from scoresde.chains import (
    GeometricSigmas,
    Hold,
    LevelTimes,
    LinearBetas,
    Respaced,
    annealed_langevin,
    best_step,
    largest_distance,
    level_count,
    ncsnv2_ladder,
    ncsnv2_sampler,
)
from scoresde.testing import law, weak_error
from scoresde.training import DSM


@pytest.mark.parametrize("denoise", [True, False])
def test_annealed_langevin_dynamics_has_the_law_of_the_paper(denoise):
    """Alg. 1 of Song and Ermon 2019 with its own letters, and its final denoising step."""
    data = Gaussian(torch.tensor([0.5, -1.0]).double(), spread(0.4, 0.1))
    sde = GeometricSigmas(n=4, sigma_max=2.0, sigma_min=0.1)
    epsilon, steps, one = 2e-3, 3, torch.eye(2).double()
    mean, covariance = data.mean, data.covariance + 4.0 * one
    for i in range(4, 0, -1):
        sigma = sde.sigma(float(i))
        alpha = epsilon * sigma**2 / 0.1**2
        precision = torch.linalg.inv(data.covariance + sigma**2 * one)
        move = one - 0.5 * alpha * precision
        for _ in range(steps):
            mean = move @ mean + 0.5 * alpha * precision @ data.mean
            covariance = move @ covariance @ move.mT + alpha * one
    if denoise:  # x + sigma_L^2 score
        move = one - 0.1**2 * precision
        mean = move @ mean + 0.1**2 * precision @ data.mean
        covariance = move @ covariance @ move.mT
    solver = annealed_langevin(epsilon / (2 * 0.1**2), steps)
    found = law(solver, sde, data, Respaced(), steps=3 + denoise, denoise=denoise)
    assert weak_error(found, Gaussian(mean, 0.5 * (covariance + covariance.mT))) < 1e-12


def test_the_calls_of_ncsn_are_counted():
    sde = GeometricSigmas(n=10)
    data = Gaussian(torch.zeros(2), torch.eye(2))
    solver = annealed_langevin()
    found = sd.solve(data.denoiser(sde), (2, 2), solver=solver, grid=Respaced(), steps=10, seed=0)
    assert int(found.nfe[0]) == 10 * 100 + 1 == solver.nfe(10, denoise=True)
    assert found.x.shape == (2, 2)


def test_the_step_of_ncsn_is_that_of_its_settings():
    """Epsilon = 2e-5 at sigma_L = 0.01: alpha_i is a fifth of sigma_i^2."""
    corrector = annealed_langevin(2e-5 / (2 * 0.01**2)).corrector
    assert corrector == annealed_langevin().corrector
    assert 4 * corrector.snr**2 == pytest.approx(0.2)


def test_holding_keeps_the_data():
    x = torch.ones(2, 3)
    for sde in (GeometricSigmas(), LinearBetas()):
        here, there = sde.level(9.0), sde.level(3.0)
        found = Hold().step(None, x, here, there, None, None).x
        assert torch.allclose(found * here.alpha, x * there.alpha)


def test_one_network_without_levels_serves_all():
    """Technique 3: score(x, sigma) = net(x) / sigma up to the sign."""

    class Net(torch.nn.Module):
        def forward(self, x, t):
            return x.sin()

    sde = GeometricSigmas()
    model, x = sd.Denoiser(Net(), sde, "eps"), torch.randn(2, 3, generator=generator(0))
    for t in (1.0, 4.0, 10.0):
        level = sde.level(t)
        torch.testing.assert_close(model(x, level).score, -x.sin() / level.sigma)


def test_the_objective_of_ncsn_weighs_levels_by_their_variance():
    """Song and Ermon 2019, eqs. 5, 6: the mean of sigma^2 |score + (x~ - x) / sigma^2|^2 / 2."""
    sde, d = GeometricSigmas(n=4), 3
    data = Gaussian(torch.zeros(d).double(), spread(1.5, 0.4, 0.1))
    model, x0 = data.denoiser(sde), torch.randn(8, d, generator=generator(0)).double()
    seen = {}

    def weighting(level, model):
        seen["sigma"] = level.sigma
        return 1.0

    loss = DSM(weighting, LevelTimes())(model, x0, generator(1))
    g = generator(1)
    torch.rand(8, generator=g, dtype=torch.float64)
    torch.randperm(8, generator=g)
    eps = torch.empty_like(x0).normal_(generator=g)
    sigma = seen["sigma"]
    noisy = x0 + sigma * eps
    score = model(noisy, sd.Level(torch.zeros_like(sigma), torch.ones_like(sigma), sigma)).score
    each = 0.5 * sigma**2 * (score + (noisy - x0) / sigma**2).square()
    assert float(loss) == pytest.approx(float(each.sum(1).mean()) * 2 / d, rel=1e-9)


# The rules of NCSNv2


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_the_largest_distance_is_that_of_all_pairs(chunk):
    x = torch.randn(30, 2, 3, generator=generator(0))
    exact = pdist(x.flatten(1).double().numpy()).max()
    assert largest_distance(x, chunk) == pytest.approx(exact, rel=1e-5)
    assert largest_distance(x.double(), chunk) == pytest.approx(exact, rel=1e-12)
    assert largest_distance(torch.tensor([[0], [255], [3]], dtype=torch.uint8)) == 255.0
    # far from 0, which rounding alone would make 20
    assert largest_distance(x + 1e4, chunk) == pytest.approx(exact, rel=1e-2)


@pytest.mark.parametrize(
    ("sigma_max", "size", "count"),
    [(50.0, 32, 232), (90.0, 64, 500), (140.0, 96, 788), (190.0, 128, 1086), (348.0, 256, 2311)],
)
def test_the_numbers_of_levels_are_those_of_the_paper(sigma_max, size, count):
    """Song and Ermon 2020, App. B.3: all have the same overlap, somewhat above a half."""
    found = level_count(sigma_max, 0.01, 3 * size**2, overlap=0.567)
    assert found == pytest.approx(count, rel=2e-3)
    assert 0.9 * count < level_count(sigma_max, 0.01, 3 * size**2) < count


def spread_of_noise(ratio, q, steps):
    """Return s_T^2 / sigma^2 of the sampler itself, on data that are one point."""
    data = Gaussian(torch.zeros(1).double(), torch.zeros(1, 1).double())
    sde = GeometricSigmas(n=2, sigma_max=ratio, sigma_min=1.0)
    # noise of the upper level, which its own steps would change, is where the lower one starts
    solver = sd.PredictorCorrector(Hold(), sd.AnnealedLangevin(math.sqrt(q / 2)), steps)
    found = law(
        solver, sde, data, Respaced(), steps=1, denoise=False, model=data.denoiser(sde, 1.0)
    )
    return float(found.covariance)


@pytest.mark.parametrize(("ratio", "steps"), [(1.0376, 5), (1.2, 3), (1.6, 1), (1.01, 20)])
def test_the_step_leaves_the_noise_nearest_to_the_level(ratio, steps):
    q = best_step(ratio, steps)
    here = abs(spread_of_noise(ratio, q, steps) - 1.0)
    others = [abs(spread_of_noise(ratio, f * q, steps) - 1.0) for f in (0.5, 0.9, 1.1, 1.5)]
    assert here < min(others)
    left = 2.0 / (2.0 - q)  # Prop. 3
    exact = (1.0 - q) ** (2 * steps) * (ratio**2 - left) + left
    assert spread_of_noise(ratio, q, steps) == pytest.approx(exact, rel=1e-12)


def test_the_step_for_cifar_10_is_that_of_the_paper():
    """Epsilon = 6.2e-6 at sigma_L = 0.01 for 232 levels to 50 and T = 5 (Song and Ermon 2020)."""
    ratio = 5000.0 ** (1 / 231)
    assert best_step(ratio, 5) == pytest.approx(6.2e-6 / 0.01**2, rel=0.02)
    solver = ncsnv2_sampler(GeometricSigmas(n=232, sigma_max=50.0))
    assert solver.corrections == 5
    assert 2 * solver.corrector.snr**2 == pytest.approx(best_step(ratio, 5), rel=1e-6)


def test_the_ladder_for_data_and_its_sampler():
    variances = torch.linspace(0.2, 1.0, 24).double()
    data = Gaussian(torch.zeros(24).double(), variances.diag())
    z = torch.randn(300, 24, generator=generator(0)).double()
    x = data.sample(z, torch.zeros(300).double())
    sde = ncsnv2_ladder(x, sigma_min=0.05)
    assert sde.sigma_max == largest_distance(x)
    assert sde.n == level_count(sde.sigma_max, 0.05, 24)
    assert ncsnv2_ladder(x).sigma_min == 0.01
    ratio = sde.sigma(2.0) / sde.sigma(1.0)
    solver = ncsnv2_sampler(sde, corrections=4)
    assert solver.corrections == 4
    assert 2 * solver.corrector.snr**2 == pytest.approx(best_step(ratio, 4), rel=1e-6)


def test_bad_input_is_refused_by_name():
    x = torch.zeros(3, 2)
    for word, call in {
        "x: 3 samples": partial(largest_distance, x),
        "x: 1 samples": partial(largest_distance, torch.ones(1, 2)),
        "chunk=0": partial(largest_distance, x, 0),
        "sigma_max": partial(level_count, 0.01, 0.01, 8),
        "dim=4": partial(level_count, 1.0, 0.01, 4),
        "overlap": partial(level_count, 1.0, 0.01, 8, 1.0),
        "ratio": partial(best_step, 1.0, 5),
        "corrections=0": partial(best_step, 1.1, 0),
        "step=-1": partial(annealed_langevin, -1.0),
    }.items():
        with pytest.raises(ValueError, match=word):
            call()
    for sde in (sd.VESDE(), LinearBetas()):
        with pytest.raises(TypeError, match=r"sde=.*is no GeometricSigmas"):
            ncsnv2_sampler(sde)
