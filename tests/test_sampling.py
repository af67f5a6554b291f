"""The loop on a fixed grid: samples on their own, budgets, records, conditions."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import generator, slow
from solver_examples import (
    DETERMINISTIC,
    FIXED,
    SOLVERS,
    couples,
    label,
    model_on,
    normal,
    on_steps,
    one_of_each,
    steps_of,
)

import scoresde as sd
from scoresde import (
    CLEAN,
    DDIM,
    VPSDE,
    AdamsPC,
    AdaptiveSDE,
    AdaptiveSolver,
    BrownianNoise,
    Churned,
    DormandPrince,
    DPMSolverPP,
    EulerMaruyama,
    FixedGrid,
    InjectedNoise,
    PredictorCorrector,
    Prior,
    RecordedNoise,
    Restart,
    SeededNoise,
)
from scoresde.nets import MLP


@pytest.mark.parametrize("solver", [s for s in SOLVERS if not couples(s)], ids=label)
def test_sample_i_of_a_seed_is_the_same_in_every_batch(solver):
    model, how = model_on(), {"solver": solver, **steps_of(solver, 5)}
    whole = sd.sample(model, (16, 3), seed=7, **how)
    assert not torch.equal(whole, sd.sample(model, (16, 3), seed=8, **how))
    for size in (1, 3, 7):
        assert torch.equal(sd.sample(model, (size, 3), seed=7, **how), whole[:size])
    assert torch.equal(sd.sample(model, (4, 3), noise=SeededNoise(7, start=12), **how), whole[12:])
    order = torch.randperm(16, generator=generator(0))
    noise = SeededNoise(7, indices=order)
    assert torch.equal(sd.sample(model, (16, 3), noise=noise, **how), whole[order])


# a step of an adaptive solve moves with the last bit, and a Brownian path is rough where it lands
STEADY = [s for s in SOLVERS if not couples(s) and not isinstance(s, AdaptiveSDE)]


@pytest.mark.parametrize("solver", one_of_each(STEADY), ids=label)
def test_a_network_that_mixes_dimensions_gives_each_sample_in_every_batch(solver):
    # matrix products differ in the last bit with the size of the batch
    mlp = MLP(3, hidden=32, depth=2)
    with torch.no_grad():
        for k, p in enumerate(mlp.parameters()):
            p.copy_(0.2 * normal(*p.shape, seed=k))
    model = sd.Denoiser(mlp, VPSDE(), "v")
    how = {"solver": solver, **steps_of(solver, 5)}
    whole = sd.sample(model, (16, 3), seed=7, **how)
    # the steps of an adaptive one move by rounding, and what is left of their error with them
    share = 1e-4 if isinstance(solver, AdaptiveSolver) else 1e-5
    close = {"rtol": 0.0, "atol": share * max(1.0, float(whole.abs().max()))}
    for size in (1, 3, 7):
        assert torch.allclose(sd.sample(model, (size, 3), seed=7, **how), whole[:size], **close)
    order = torch.randperm(16, generator=generator(0))
    turned = sd.sample(model, (16, 3), noise=SeededNoise(7, indices=order), **how)
    assert torch.allclose(turned, whole[order], **close)


@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_the_global_generator_is_left_alone(solver):
    before = torch.get_rng_state()
    sd.sample(model_on(), (2, 3), solver=solver, **steps_of(solver, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_likelihood_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    sd.log_likelihood(model_on(), normal(2, 3), trace=sd.Hutchinson())
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_that_nobody_gave_differ_and_are_kept():
    first, second = (sd.solve(model_on(), (2, 3), steps=3) for _ in range(2))
    assert not torch.equal(first.x, second.x)
    assert torch.equal(sd.sample(model_on(), (2, 3), steps=3, seed=first.noise.seed), first.x)


@pytest.mark.parametrize("solver", FIXED, ids=label)
@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize("budgets", [(*range(1, 13), 30), slow(range(13, 30))], ids=str)
def test_a_budget_of_network_calls_is_spent_and_never_exceeded(solver, denoise, budgets):
    for nfe in budgets:
        model = model_on()
        how = {"solver": solver, "nfe": nfe, "denoise": denoise, "seed": 0}
        if nfe < solver.nfe(1, denoise):
            with pytest.raises(ValueError, match=f"nfe={nfe}: one step of"):
                sd.solve(model, (2, 3), **how)
            continue
        solution = sd.solve(model, (2, 3), **how)
        assert solution.nfe.tolist() == [model.net.calls] * 2
        assert model.net.calls <= nfe < solver.nfe(len(solution.levels), denoise)


@pytest.mark.parametrize("solver", FIXED, ids=label)
def test_steps_are_the_steps_taken(solver):
    for steps in (1, 2, 5):
        seen = {}
        how = {"solver": solver, "steps": steps, "seed": 0}
        note = lambda k, level, x, seen=seen: seen.update({k: level})  # noqa: E731
        solution = sd.solve(model_on(), (2, 3), callback=note, **how)
        assert list(seen) == list(range(steps))
        assert tuple(seen.values()) == solution.levels[1:]
        assert solution.levels[-1] == CLEAN
        assert len(sd.solve(model_on(), (2, 3), steps=steps, denoise=False).levels) == steps + 1


def test_fifty_steps_are_taken_where_nothing_is_said():
    model = model_on()
    sd.sample(model, (1, 3))
    assert model.net.calls == 50


def test_trajectory_and_callback_show_the_states_at_the_levels():
    seen = []
    how = {"steps": 6, "seed": 0, "solver": PredictorCorrector()}
    solution = sd.solve(
        model_on(), (2, 3), trajectory=True, callback=lambda k, s, x: seen.append(x), **how
    )
    assert solution.trajectory.shape == (7, 2, 3)
    assert torch.equal(solution.trajectory[1:], torch.stack(seen))
    assert torch.equal(solution.trajectory[-1], solution.x)
    start = SeededNoise(0).fold(-1).normal(torch.empty(2, 3))
    assert torch.equal(solution.trajectory[0], VPSDE().prior().draw(start))
    assert sd.solve(model_on(), (2, 3), **how).trajectory is None


def test_a_record_of_the_noise_replays_a_solve():
    record = RecordedNoise(SeededNoise(0))
    how = {"steps": 6, "solver": PredictorCorrector()}
    x = sd.sample(model_on(), (2, 3), noise=record, **how)
    assert len(record.draws) == 1 + 2 * 5
    assert torch.equal(sd.sample(model_on(), (2, 3), noise=InjectedNoise(record.draws), **how), x)


def test_progress_is_shown_when_asked_for(capsys):
    for solver in (AdamsPC(), DormandPrince()):
        for progress in (False, True):
            sd.sample(model_on(), (2, 3), solver=solver, progress=progress, **steps_of(solver, 4))
            shown = capsys.readouterr()
            assert shown.out == ""
            assert ("100%" in shown.err) == progress


def test_prior_is_where_the_solve_starts():
    model, prior = model_on(), Prior(mean=3.0, std=0.5)
    start = sd.solve(model, (4, 3), steps=2, seed=0, prior=prior, trajectory=True).trajectory[0]
    z = SeededNoise(0).fold(-1).normal(torch.empty(4, 3))
    assert torch.allclose(start, 3.0 + 0.5 * z)


def test_conditions_reach_the_network():
    shift = normal(4, 3)
    plain, shifted = (
        sd.sample(model_on(), (4, 3), seed=0, steps=4, cond=cond)
        for cond in (None, {"shift": shift})
    )
    one = sd.sample(model_on(), (1, 3), seed=0, steps=4, cond={"shift": shift[:1]})
    assert not torch.equal(plain, shifted)
    assert torch.equal(one, shifted[:1])


@pytest.mark.parametrize(
    "solver", [AdamsPC(), DPMSolverPP(3), DDIM(1.0), DormandPrince(1e-8, 1e-8)], ids=label
)
def test_network_in_half_precision_runs_under_a_state_in_single(solver):
    model = model_on(dtype=torch.bfloat16)
    x = sd.sample(model, (4, 3), seed=0, solver=solver, **steps_of(solver, 20))
    assert x.dtype == torch.float32
    exact = sd.sample(model_on(), (4, 3), seed=0, solver=solver, **steps_of(solver, 20))
    assert torch.allclose(x, exact, atol=0.05)
    wide = sd.sample(model_on(), (4, 3), seed=0, steps=4, state_dtype=torch.float64)
    assert wide.dtype == torch.float64


@pytest.mark.parametrize("solver", DETERMINISTIC, ids=label)
def test_decode_inverts_encode(solver):
    model, x = model_on(dtype=torch.float64), normal(4, 3, dtype=torch.float64)
    family, steps = on_steps(solver), steps_of(solver, 100)
    solver = family(100) if callable(family) else family
    code = sd.encode(model, x, solver=solver, **steps)
    assert not torch.allclose(code, x, atol=0.1)
    back = sd.decode(model, code, solver=solver, **steps)
    tolerance = 0.2 if solver.order == 1 and "Adams" not in str(solver) else 2e-3
    assert float((back - x).abs().max()) < tolerance


def test_a_given_grid_is_followed():
    times = (1.0, 0.6, 0.3, 0.05)
    model, grid = model_on(VPSDE(t_min=0.05)), FixedGrid(times)
    for steps in ({}, {"steps": 3}, {"nfe": 9}):
        solution = sd.solve(model, (2, 3), grid=grid, denoise=False, **steps)
        assert tuple(level.t for level in solution.levels) == times
    for steps in ({}, {"steps": 4}, {"nfe": 4}):
        solution = sd.solve(model, (2, 3), grid=grid, **steps)
        assert tuple(level.t for level in solution.levels) == (*times, 0.0)


def test_a_given_state_may_be_taken_over_part_of_the_way():
    model, x = model_on(), normal(2, 3)
    grid = FixedGrid((0.5, 0.2, 0.1))
    solution = sd.solve(model, x=x, grid=grid, denoise=False)
    late = sd.solve(model_on(VPSDE(T=0.5, t_min=0.1)), x=x, grid=grid, denoise=False)
    assert torch.equal(solution.x, late.x)


@pytest.mark.parametrize(
    "noise",
    [
        lambda: SeededNoise(0, start=5),
        lambda: SeededNoise(None),
        lambda: SeededNoise(3, indices=torch.tensor([7, 1])),
        lambda: BrownianNoise(2, 0.0, 1.0),
        lambda: SeededNoise(3).fold(4),
    ],
)
def test_a_solution_holds_what_replays_it(noise):
    how = {"solver": EulerMaruyama(), "steps": 9, "denoise": False}
    first = sd.solve(model_on(VPSDE(t_min=0.1)), (2, 3), noise=noise(), **how)
    again = FixedGrid(tuple(level.t for level in first.levels))
    model = model_on(VPSDE(t_min=0.1))
    how = {"solver": first.solver, "grid": again, "noise": first.noise, "denoise": False}
    assert torch.equal(sd.sample(model, (2, 3), **how), first.x)


def test_end_to_end_on_a_mixture():
    # wiring only: the law of 20 000 samples against the mixture's, Kolmogorov's D at 5e-7
    data = sd.GaussianMixture(
        torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [0.8]]), torch.tensor([[[0.04]], [[0.25]]])
    )
    n = 20_000
    sde = VPSDE()
    prior = sde.prior(float(data.mean), float(data.covariance))
    for solver, steps in ((AdamsPC(), 20), (EulerMaruyama(), 300), (DDIM(1.0), 300)):
        x = sd.sample(
            data.denoiser(sde),
            (n, 1),
            solver=solver,
            steps=steps,
            seed=1,
            denoise=False,
            prior=prior,
        )
        level = sde.level(sde.t_min)
        below = torch.zeros(n, dtype=torch.float64)
        for w, m, v in ((0.3, -1.0, 0.04), (0.7, 0.8, 0.25)):
            std = math.sqrt(level.alpha**2 * v + level.sigma**2)
            below += w * torch.special.ndtr((x[:, 0].double() - level.alpha * m) / std)
        steps_up = torch.arange(1, n + 1) / n
        assert float((below.sort().values - steps_up).abs().max()) < 0.0195, solver


@pytest.mark.parametrize(
    "solver",
    [
        PredictorCorrector(Churned(), sd.Langevin(), corrections=2),
        PredictorCorrector(Churned(DDIM(1.0)), sd.MALA(), corrections=2, correct_first=True),
        Restart(Restart(PredictorCorrector(Churned(EulerMaruyama())), steps=1), 0.06, 1.0, steps=1),
    ],
    ids=label,
)
def test_every_draw_of_a_solve_has_an_address_of_its_own(solver):
    record = RecordedNoise(SeededNoise(0))
    sd.sample(model_on(), (1, 3), solver=solver, steps=6, noise=record)
    draws = torch.stack(record.draws).flatten(1)
    assert len(torch.unique(draws, dim=0)) == len(draws)
