"""Noise over any solver of the flow, and amounts of noise that are functions of the level."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from conftest import generator
from solver_examples import DETERMINISTIC, bell, label, model_on

import scoresde as sd
from scoresde import (
    DDIM,
    PNDM,
    RK4,
    VESDE,
    VPSDE,
    AdamsPC,
    AdaptiveSolver,
    Ancestral,
    Churned,
    CosineVPSDE,
    DormandPrince,
    DPMSolverFast,
    DPMSolverPP,
    EulerMaruyama,
    Field,
    FixedGrid,
    FixedLangevin,
    Heun,
    InjectedNoise,
    Langevin,
    Noised,
    PolarFrame,
    PredictorCorrector,
    RectifiedFlow,
    ReverseDiffusion,
    SDEDPMSolverPP,
    SeededNoise,
    StochasticAdamsPC,
    UniC,
    UniPC,
)
from scoresde.testing import PANEL, convergence, law, marginal, strong_convergence, weak_error

REFUSED = AdaptiveSolver | UniC | Noised | PNDM | DPMSolverFast
PLAIN = [s for s in DETERMINISTIC if not isinstance(s, REFUSED)]


def band(level):
    """Return noise at some levels only."""
    return 1.0 if abs(level.lam) < 2.0 else 0.0


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("tau", [0.3, 1.0, 1.7, bell])
@pytest.mark.parametrize("sde", [VPSDE(), VESDE(), CosineVPSDE()], ids=lambda s: type(s).__name__)
def test_over_ddim_it_is_the_reverse_sde_of_constant_x0(sde, tau, mixture):
    # draw for draw: the noise is in the same clock
    field, x = Field(mixture.denoiser(sde)), normal(6, 2)
    for start, h in ((-2.0, 0.1), (-0.5, 1.0), (0.5, 0.3)):
        here, there = sde.level_at(start), sde.level_at(start + h)
        ends = [
            solver.step(field, x, here, there, None, SeededNoise(0)).x
            for solver in (Noised(DDIM(), tau), SDEDPMSolverPP(1, tau))
        ]
        torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", PLAIN, ids=label)
@pytest.mark.parametrize("tau", [0.0, lambda level: 0.0], ids=["number", "function"])
def test_without_noise_it_is_the_wrapped_solver(solver, tau, mixture):
    model, x = mixture.denoiser(VPSDE()), normal(6, 2)
    grid = sd.DensityGrid()  # the default is another one where there may be noise
    for steps in (1, 7):
        ends = [
            sd.sample(model, x=x, solver=s, steps=steps, grid=grid)
            for s in (Noised(solver, tau), solver)
        ]
        assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        *((Noised(DDIM()), 1), (Noised(Heun(PolarFrame())), 2), (Noised(RK4()), 4)),
        *((Noised(RK4(), bell), 4), (Noised(sd.DPMSolver(3), 0.5), 3)),
        *((Noised(AdamsPC()), 1), (Noised(DPMSolverPP(2)), 1), (Noised(UniPC()), 1)),
        (Noised(sd.ExponentialAdams(3, PolarFrame()), bell), 1),
        *((Noised(AdamsPC(), 2.0), 1), (Noised(AdamsPC(), band), 1), (Noised(UniPC(), 0.5), 1)),
    ],
    ids=label,
)
def test_weak_order_is_that_of_one_step_of_the_flow(solver, order):
    assert solver.order == order
    for problem in (PANEL[1], PANEL[7]):  # VP, VE
        curve = convergence(solver, problem, (64, 128))
        assert abs(curve.order - order) <= 0.25, str(curve)
        assert curve.errors[-1] < 0.05


@pytest.mark.parametrize("solver", [AdamsPC(), DPMSolverPP(3), UniPC()], ids=label)
def test_a_history_ends_with_a_step_that_has_noise_and_goes_on_with_others(solver, mixture):
    field, x, state = Field(mixture.denoiser(VPSDE())), normal(6, 2), None
    levels = sd.LogSNRGrid().levels(VPSDE(), 8)
    noised, noise = Noised(solver, lambda level: float(level is levels[4])), SeededNoise(0)
    for k, (here, there) in enumerate(pairwise(levels)):
        plain = solver.step(field, x, here, there, state, noise)
        x, state, _ = noised.step(field, x, here, there, state, noise)
        if k == 4:
            assert state is None
        else:
            assert torch.equal(x, plain.x)
            assert len(state) == len(plain.state)


@pytest.mark.parametrize("solver", [AdamsPC(), UniPC(), DPMSolverPP(3)], ids=label)
def test_much_noise_over_a_history_goes_wrong_nowhere(solver, mixture):
    for tau in (2.0, 5.0):
        x = sd.sample(mixture.denoiser(VPSDE()), x=normal(6, 2), solver=Noised(solver, tau), seed=0)
        assert float(x.abs().max()) < 10.0


@pytest.mark.parametrize("solver", [Noised(DDIM()), Noised(AdamsPC()), Noised(RK4())], ids=label)
def test_finer_steps_follow_the_same_path(solver):
    # to within the last step, which has no noise: half an order
    curve = strong_convergence(solver, (32, 64, 128, 256))
    assert 0.35 < curve.order < 0.6, str(curve)
    assert curve.errors[-1] < 0.1, str(curve)


def test_the_network_is_called_on_the_way_from_the_top_to_t_min_only():
    for sde in (VPSDE(), RectifiedFlow()):
        model, levels = model_on(sde), []
        model.register_forward_pre_hook(lambda _, args: levels.append(args[1].t))  # noqa: B023
        sd.sample(model, (1, 2), solver=Noised(RK4(), 3.0), steps=5, seed=0, denoise=False)
        assert min(levels) == sde.t_min
        assert max(levels) == sde.T


def test_no_noise_goes_in_where_it_cannot():
    # a step from alpha = 0, and the last one
    sde = RectifiedFlow()
    for steps, draws in ((1, 0), (2, 0), (3, 1), (6, 4)):
        noise = sd.RecordedNoise(SeededNoise(0))
        how = {"solver": Noised(DDIM()), "steps": steps, "noise": noise, "denoise": False}
        sd.sample(model_on(sde), x=torch.ones(1, 2), **how)
        assert len(noise.draws) == draws


@pytest.mark.parametrize("kind", [EulerMaruyama, ReverseDiffusion, DDIM, Ancestral], ids=str)
def test_an_amount_that_is_a_function_is_taken_at_the_start_of_each_step(kind, mixture):
    model, x, grid = mixture.denoiser(VPSDE()), normal(6, 2), FixedGrid((1.0, 0.6, 0.3, 1e-3))
    levels = grid.levels(VPSDE(), 3)
    amounts = dict(zip([level.t for level in levels], (0.9, 0.0, 0.4), strict=False))
    draws = [normal(6, 2, seed=k) for k in range(3)]
    noise = InjectedNoise(draws)
    how = {"solver": kind(lambda level: amounts[level.t]), "noise": noise, "denoise": False}
    found = sd.sample(model, x=x, grid=grid, **how)
    for k, z in enumerate(draws):
        solver = kind(amounts[levels[k].t])
        step = Field(model), x, levels[k], levels[k + 1], None, InjectedNoise([z])
        x = solver.step(*step).x
    assert torch.equal(found, x)


def test_reverse_diffusion_without_noise_is_that_of_the_probability_flow(mixture):
    # on VE, in the paper's own terms: x + (sigma_i^2 - sigma_{i-1}^2) score / 2
    sde, x = VESDE(), normal(6, 2)
    model, levels = mixture.denoiser(sde), FixedGrid((1.0, 0.5, 0.2, 1e-3)).levels(sde, 3)
    expected = 50.0 * x
    for here, there in pairwise(levels):
        rise = here.sigma**2 - there.sigma**2
        expected = expected + 0.5 * rise * model(expected, here).score
    grid = FixedGrid(tuple(level.t for level in levels))
    how = {"solver": ReverseDiffusion(0.0), "grid": grid, "denoise": False}
    torch.testing.assert_close(sd.sample(model, x=50.0 * x, **how), expected)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0, lambda level: level.sigma])
def test_ancestral_steps_leave_the_marginals_of_one_point_as_they_are(eta):
    sde, point = VPSDE(), sd.Gaussian(torch.tensor([0.6]).double(), torch.zeros(1, 1).double())
    found = law(Ancestral(eta), sde, point, steps=5, denoise=False, model=point.denoiser(sde, 1.0))
    exact = marginal(point, sde.level(sde.t_min))
    assert weak_error(found, exact) < 1e-11


@pytest.mark.parametrize("steps", [1, 5])
def test_ancestral_steps_of_the_forward_variance_are_right_for_white_data(steps):
    sde, white = VPSDE(), sd.Gaussian(torch.zeros(2).double(), torch.eye(2).double())
    found = law(Ancestral(forward_variance=True), sde, white, steps=steps, denoise=False)
    assert weak_error(found, white) < 1e-11


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        *((EulerMaruyama, "tau"), (ReverseDiffusion, "tau"), (StochasticAdamsPC, "tau")),
        *((DDIM, "eta"), (Ancestral, "eta")),
        (lambda amount: Noised(DDIM(), amount), "tau"),
        (lambda amount: Churned(DDIM(), amount), "amount"),
        (lambda e: PredictorCorrector(DDIM(), FixedLangevin(e)), "step_size"),
    ],
)
def test_amounts_that_are_none_are_refused(make, name, bad):
    with pytest.raises(ValueError, match=rf"^{name}={bad} must be finite and at least 0"):
        make(bad)
    for value in (bad, torch.tensor(bad)):
        with pytest.raises(ValueError, match=rf"{name} of .* at t=[\d.]+: {name}={bad} must be"):
            sd.sample(model_on(), (2, 3), solver=make(lambda level: value), steps=3, seed=0)  # noqa: B023


def test_one_bad_amount_among_those_of_the_samples_is_refused():
    solver = sd.AdaptiveSDE(tau=lambda level: torch.where(level.lam < 0.0, 1.0, -1.0))
    with pytest.raises(ValueError, match=r"tau=-1.0 must be"):
        sd.sample(model_on(), (2, 3), solver=solver, seed=0)


@pytest.mark.parametrize(
    ("solver", "match"),
    [
        (DDIM(1.0), r"solver=DDIM.*one that draws noise has an amount of its own"),
        (Langevin(), r"solver=Langevin"),
        (DormandPrince(), r"solver=DormandPrince.*on a fixed grid"),
        (DPMSolverFast(), r"solver=DPMSolverFast.*counts its steps"),
        (PNDM(), r"solver=PNDM.*counts its steps"),
        (UniC(), r"solver=UniC.*makes the last step again.*or UniPC\(\)"),
    ],
    ids=label,
)
def test_what_noise_cannot_go_over_is_refused(solver, match):
    with pytest.raises(ValueError, match=match):
        Noised(solver)


def test_levels_of_each_samples_own_are_refused():
    level = VPSDE().level(torch.tensor([[0.5], [0.6]]))
    with pytest.raises(ValueError, match=r"solver=Noised.*one level for the whole batch"):
        Noised().init(Field(model_on()), torch.ones(2, 1), level)
