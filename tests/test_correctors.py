"""Correctors: what they leave invariant, and where a predictor-corrector runs them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from conftest import generator, spread
from solver_examples import GivenNoise, model_on

import scoresde as sd
from scoresde import (
    DDIM,
    MALA,
    VPSDE,
    AnnealedLangevin,
    Field,
    FixedLangevin,
    Gaussian,
    GaussianMixture,
    InjectedNoise,
    PredictorCorrector,
    ReverseDiffusion,
    Solver,
    Step,
    UnderdampedLangevin,
    UniformGrid,
)
from scoresde.testing import PANEL, convergence, law, marginal

SDE = VPSDE(t_min=0.3)
LEVEL = SDE.level(SDE.t_min)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


DATA = Gaussian(tensor(0.7), tensor([0.3]))
V = float(marginal(DATA, LEVEL).covariance)


@dataclass(frozen=True)
class Flow(Solver):
    """The exact probability flow of Gaussian data."""

    data: Gaussian = DATA
    order = 1
    stochastic = False

    def step(self, field, x, here, there, state, noise):
        return Step(self.data.flow(x, here, there))


def after(corrector, corrections):
    """Return the exact law at t_min, reached exactly and corrected there."""
    solver = PredictorCorrector(Flow(), corrector, corrections)
    start = marginal(DATA, SDE.level(SDE.T))
    return law(solver, SDE, DATA, steps=1, denoise=False, start=start)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_stationary_variance_of_a_fixed_step(share):
    e = share * LEVEL.sigma**2
    found, slope = after(FixedLangevin(e), 400), 1.0 - e / V
    stationary = V / (1.0 - e / (2.0 * V))
    left = slope**800 * (V - stationary)
    assert math.isclose(float(found.covariance), stationary + left, rel_tol=1e-10)
    assert math.isclose(float(found.mean), LEVEL.alpha * 0.7, rel_tol=1e-10)


def test_a_step_that_is_a_share_of_sigma_squared_is_annealed_langevin(mixture):
    x, z = normal(6, 2), GivenNoise(normal(6, 2, seed=1))
    field = Field(mixture.denoiser(SDE))
    ends = [
        corrector.step(field, x, LEVEL, LEVEL, None, z).x
        for corrector in (
            AnnealedLangevin(0.2),
            FixedLangevin(lambda level: 2.0 * (0.2 * level.sigma) ** 2),
            FixedLangevin(2.0 * (0.2 * LEVEL.sigma) ** 2),
        )
    ]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def baoab(h, friction):
    """Return slope (2, 2) and noise (2,) of one step on (x, v), as a product of its parts."""
    kick = np.array([[1.0, 0.0], [-0.5 * h / V, 1.0]])
    drift = np.array([[1.0, 0.5 * h], [0.0, 1.0]])
    c = math.exp(-friction * h / LEVEL.sigma)
    damp, fresh = np.diag([1.0, c]), np.array([0.0, math.sqrt(1.0 - c * c)])
    return kick @ drift @ damp @ drift @ kick, kick @ drift @ fresh


@pytest.mark.parametrize("corrections", [1, 2, 5])
@pytest.mark.parametrize("friction", [0.0, 0.7, 50.0])
def test_law_of_underdamped_langevin_is_that_of_its_parts(friction, corrections):
    h = 0.8 * LEVEL.sigma
    slope, fresh = baoab(h, friction)
    covariance = np.diag([V, 1.0])
    for _ in range(corrections):
        covariance = slope @ covariance @ slope.T + np.outer(fresh, fresh)
    found = after(UnderdampedLangevin(0.8, friction), corrections)
    assert math.isclose(float(found.covariance), covariance[0, 0], rel_tol=1e-12)
    assert math.isclose(float(found.mean), LEVEL.alpha * 0.7, rel_tol=1e-12)


def test_underdamped_langevin_leaves_gaussians_as_they_are_in_the_limit_of_many_corrections():
    assert math.isclose(float(after(UnderdampedLangevin(1.5), 100).covariance), V, rel_tol=1e-12)


@pytest.mark.parametrize("friction", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("corrections", [1, 3, 8])
def test_repeated_visits_of_underdamped_langevin_stay_within_its_bound(friction, corrections):
    # velocities drawn anew tilt the law: V + tilt is where the variance stays from visit to visit
    h = 1.2 * LEVEL.sigma
    slope, fresh = baoab(h, friction)
    walk = np.linalg.matrix_power(slope, corrections)
    tilt = h * h / (4.0 * V) * walk[0, 1] ** 2 / (1.0 - walk[0, 0] ** 2)
    assert 0.0 < tilt / V <= h * h / (4.0 * V - h * h) * (1.0 + 1e-9)
    covariance = np.diag([V + tilt, 1.0])
    for _ in range(corrections):
        covariance = slope @ covariance @ slope.T + np.outer(fresh, fresh)
    assert math.isclose(covariance[0, 0], V + tilt, rel_tol=1e-12)


class Draws(GivenNoise):
    """One draw for the proposal, and another for its acceptance."""

    def __init__(self, z, chance):
        super().__init__(z)
        self.chance = chance

    def fold(self, key):
        return GivenNoise(self.chance)


def flux(data, x, y, snr):
    """Return log p(x) k(x, y) of the kernel k of MALA, its acceptance found by bisection."""
    field, e = Field(data.denoiser(SDE)), 2.0 * (snr * LEVEL.sigma) ** 2
    z = (y - x - e * field(x, LEVEL).score) / math.sqrt(2.0 * e)
    low, high = torch.full_like(x, -30.0), torch.full_like(x, 9.0)
    for _ in range(70):
        middle = 0.5 * (low + high)
        end = MALA(snr).step(field, x, LEVEL, LEVEL, None, Draws(z, middle)).x
        moved = (end != x).any(1, keepdim=True)
        low, high = torch.where(moved, middle, low), torch.where(moved, high, middle)
    log_q = -0.5 * z.square().sum(1)
    return marginal_log_prob(data, x) + log_q + torch.special.log_ndtr(low[:, 0])


def marginal_log_prob(data, x):
    a, s = LEVEL.alpha, LEVEL.sigma
    noise = s * s * torch.eye(x.shape[1], dtype=x.dtype)
    return GaussianMixture(data.weights, a * data.means, a * a * data.covariances + noise).log_prob(
        x
    )


@pytest.mark.parametrize("snr", [0.3, 1.0])
def test_mala_is_in_detailed_balance_on_gaussian_data(snr):
    nodes = torch.linspace(-1.5, 2.5, 15, dtype=torch.float64)
    pairs = torch.cartesian_prod(nodes, nodes)
    x, y = pairs[pairs[:, 0] < pairs[:, 1]][..., None].unbind(1)
    there, back = flux(DATA, x, y, snr), flux(DATA, y, x, snr)
    torch.testing.assert_close(there, back, rtol=0, atol=1e-9)


def test_mala_is_in_detailed_balance_in_several_dimensions():
    data = Gaussian(tensor(0.5, -1.0, 0.2), spread(1.0, 0.3, 0.05))
    x, y = normal(40, 3), normal(40, 3, seed=1)
    torch.testing.assert_close(flux(data, x, y, 0.6), flux(data, y, x, 0.6), rtol=0, atol=1e-9)


def test_detailed_balance_of_mala_fails_by_the_third_power_of_the_move(mixture):
    x, d = normal(30, 2), normal(30, 2, seed=1)
    errors = []
    for size in (0.1, 0.05, 0.025):
        y = x + size * d
        errors.append(float((flux(mixture, x, y, 0.3) - flux(mixture, y, x, 0.3)).abs().max()))
    for coarse, fine in pairwise(errors):
        assert abs(math.log2(coarse / fine) - 3.0) < 0.2, errors


def test_mala_takes_one_call_more_than_corrections_and_changes_nothing_by_that(mixture):
    field, x, walks = Field(mixture.denoiser(SDE)), normal(8, 2), []
    for carried in (False, True):
        y, state, field.nfe = x, None, 0
        for k in range(3):
            noise = Draws(normal(8, 2, seed=k), normal(8, 2, seed=9 + k))
            y, state, _ = MALA().step(field, y, LEVEL, LEVEL, state if carried else None, noise)
        walks.append(y)
        assert field.nfe == (MALA().nfe(3, denoise=False) if carried else 6)
    torch.testing.assert_close(*walks, rtol=1e-12, atol=1e-12)


def test_mala_hides_no_failure_of_the_network():
    class Spoilt(torch.nn.Module):
        def forward(self, x, t):
            return torch.where(x > 0.5, torch.nan, x)

    model, x = sd.Denoiser(Spoilt(), SDE, "v"), torch.full((2, 3), 0.4)
    noise = Draws(torch.full((2, 3), 9.0), torch.full((2, 3), 9.0))
    end = MALA().step(Field(model), x, LEVEL, LEVEL, None, noise).x
    assert bool((end > 0.5).all())  # where the next call finds what is wrong
    start = torch.full((64, 3), 0.4)  # of which some walk to where it is spoilt
    with pytest.raises(sd.NonFiniteState):
        sd.sample(model, x=start, solver=PredictorCorrector(DDIM(), MALA()), steps=4, seed=0)


def test_steps_of_fixed_size_leave_a_bias_that_more_levels_do_not_remove():
    biased = convergence(
        PredictorCorrector(DDIM(1.0), AnnealedLangevin(0.16)), PANEL[1], (256, 512)
    )
    assert biased.order < 0.2
    assert 5e-4 < biased.errors[-1] < 0.16**2


FLAGS = list(product([False, True], [False, True], [False, True]))


@pytest.mark.parametrize(("first", "last", "denoise"), FLAGS)
def test_predictor_and_corrector_alternate(first, last, denoise):
    """The network's calls come in the order that the flags and the class's text say."""
    for steps, corrections in product((1, 2, 4), (1, 3)):
        model, seen = model_on(), []
        model.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[1].t))
        solver = PredictorCorrector(DDIM(), MALA(), corrections, first, last)
        solution = sd.solve(model, (1, 2), solver=solver, steps=steps, seed=0, denoise=denoise)
        above = [level.t for level in solution.levels if level.sigma > 0.0]
        expected = []
        for k, t in enumerate(above):
            arrives, leaves = k > 0, k < len(above) - 1
            if len(above) > 1 and (arrives or first) and (leaves or last):
                expected += [t] * (1 + corrections)
            expected += [t] * (leaves or denoise)
        assert seen == expected
        assert len(seen) == solver.nfe(steps, denoise)


def test_predictor_corrector_of_the_papers_code_corrects_before_it_predicts(mixture):
    """The loop of Song et al. 2021's code, on VE, with the expected data for its last mean."""
    sde, snr, steps = sd.VESDE(0.01, 10.0), 0.2, 6
    model, x = mixture.denoiser(sde), 10.0 * normal(6, 2)
    levels, y = UniformGrid().levels(sde, steps - 1), x
    draws = [normal(6, 2, seed=k) for k in range(2 * steps)]
    given = iter(draws)
    for k, level in enumerate(levels):
        e = 2.0 * (snr * level.sigma) ** 2
        y = y + e * model(y, level).score + math.sqrt(2.0 * e) * next(given)
        if k + 1 < len(levels):
            rise = level.sigma**2 - levels[k + 1].sigma ** 2
            y = y + rise * model(y, level).score + math.sqrt(rise) * next(given)
        else:
            y = y + level.sigma**2 * model(y, level).score
    solver = PredictorCorrector(ReverseDiffusion(), AnnealedLangevin(snr), correct_first=True)
    noise = InjectedNoise(draws)
    # our corrector at a level runs as the last act of the step to it, in the same order
    how = {"grid": UniformGrid(), "steps": steps, "noise": noise}
    found = sd.sample(model, x=x, solver=solver, **how)
    torch.testing.assert_close(found, y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [{"step_size": 2.0}, {"step_size": 0.0}, {"friction": -1.0}])
def test_underdamped_langevin_refuses_steps_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        UnderdampedLangevin(**options)
