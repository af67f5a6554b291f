"""Grids fitted to a model, from one pilot solve."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from conftest import generator, spread

import scoresde as sd
from scoresde import AdamsPC, EulerMaruyama, FittedGrid, Gaussian, fit_grid
from scoresde.fitting import _errors, _fly, _Pilot
from scoresde.grids import default_grid

PILOT = (32, 2)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def fine_mixture():
    """Six thin components, whose shape shows at the end of a solve only."""
    means = normal(6, 2, seed=3)
    thin = torch.stack([spread(2e-4, 4e-3, seed=k) for k in range(6)])
    return sd.GaussianMixture(torch.full((6,), 1 / 6, dtype=torch.float64), means, thin)


@pytest.mark.parametrize("nfe", [12, 25])
def test_a_fitted_grid_errs_less_than_the_default_one(nfe, mixture, sde):
    # data far from the deviation of 1 that the model is said to have
    small = sd.GaussianMixture(mixture.weights, 0.05 * mixture.means, 0.0025 * mixture.covariances)
    model = small.denoiser(sde, 1.0)
    grid = fit_grid(model, nfe=nfe, shape=PILOT)
    x = float(sde.sigma(sde.T)) * normal(256, 2)  # not the pilot's starts
    exact = sd.sample(model, x=x, solver=sd.DormandPrince(1e-9, 1e-9), denoise=False)
    ends = (sd.sample(model, x=x, grid=g, nfe=nfe, denoise=False) for g in (grid, None))
    fitted, default = (float((end - exact).square().mean().sqrt()) for end in ends)
    assert fitted < 0.7 * default


def test_the_pilot_tells_the_growth_of_errors(sde):
    # of an error made at lam, the Gaussian flow leaves sqrt(V_end / V) at the end
    data = Gaussian(torch.zeros(1, dtype=torch.float64), torch.tensor([[0.09]]).double())
    pilot = _fly(data.denoiser(sde, 0.7), (4, 1), None, seed=0)
    exact = [0.5 * math.log(v / r**2) for v, r in (sizes(sde.level_at(u)) for u in pilot.lams)]
    expected = exact[-1] - np.array(exact)
    assert np.allclose(pilot.growth, expected[:, None], atol=1e-4)


def sizes(level):
    return 0.09 * level.alpha**2 + level.sigma**2, level.radius(0.7)


def test_errors_of_steps_are_those_of_the_adams_pair_on_the_exact_slopes():
    # a slope that is a polynomial of degree k - 1 in the coordinate is integrated without error
    lams = np.linspace(-4.0, 4.0, 161)
    angles = np.arctan(np.exp(-lams))
    u = np.log((np.sin(angles) + 0.1) / (np.cos(angles) + 0.1))
    for k in (1, 2, 3):
        slopes = sum(u**j for j in range(k))[:, None, None] * np.ones((1, 2, 3))
        pilot = _Pilot(lams, slopes, np.zeros((161, 2)), 1.0)
        errors = _errors(pilot, np.array([-1.1, -0.8, -0.4, 0.1, 0.4, 0.8, 1.1]), k)
        assert (errors[k - 1 :] < 1e-6).all(), errors
        assert k == 1 or (errors[: k - 1] > 1e-3).all(), errors
        assert (_errors(pilot, np.array([-4.0, -1.0, 4.0]), 1) > 1e-3).all() or k == 1


def test_white_data_ask_for_no_other_grid(sde):
    white = Gaussian(torch.zeros(2, dtype=torch.float64), 0.49 * torch.eye(2).double())
    model = white.denoiser(sde)
    grid = fit_grid(model, shape=PILOT)
    default = default_grid(model.data_std)
    found, expected = ([at.lam for at in g.levels(sde, 10)] for g in (grid, default))
    assert np.allclose(found[1:], expected[1:], atol=0.4)


def test_a_fitted_grid_is_a_value_for_any_number_of_steps():
    sde = sd.VPSDE()
    grid = fit_grid(fine_mixture().denoiser(sde), AdamsPC(2), 12, shape=PILOT)
    assert FittedGrid(tuple(json.loads(json.dumps(asdict(grid)))["lams"])) == grid
    for steps in (1, 7, 300):
        levels = grid.levels(sde, steps)
        assert (levels[0].t, levels[-1].t, len(levels)) == (sde.T, sde.t_min, steps + 1)
    assert grid == fit_grid(fine_mixture().denoiser(sde), AdamsPC(2), 12, shape=PILOT)


def test_mistakes_are_named():
    model = fine_mixture().denoiser(sd.VPSDE())
    with pytest.raises(ValueError, match=r"solver=EulerMaruyama.*deterministic"):
        fit_grid(model, EulerMaruyama(), shape=PILOT)
    with pytest.raises(ValueError, match=r"solver=DormandPrince"):
        fit_grid(model, sd.DormandPrince(), shape=PILOT)
    with pytest.raises(ValueError, match=r"shape=\(0, 2\)"):
        fit_grid(model, shape=(0, 2))
    with pytest.raises(ValueError, match="nfe=0"):
        fit_grid(model, nfe=0, shape=PILOT)
    with pytest.raises(ValueError, match=r"lams=.*increase"):
        FittedGrid((1.0, 0.0))
    with pytest.raises(ValueError, match=r"lams: from .*EDMSDE.*fit a grid"):
        fit_grid(model, shape=PILOT).levels(sd.EDMSDE(), 10)
