"""What every solver does with a solve that makes no sense, or hardly any."""

from __future__ import annotations

import math

import pytest
import torch
from solver_examples import DETERMINISTIC, FIXED, SOLVERS, label, model_on, normal, steps_of

import scoresde as sd
from scoresde import AdaptiveSolver, FixedGrid, RectifiedFlow, Restart
from scoresde.interop.scipy import SciPySolver
from scoresde.interop.torchsde import TorchsdeSolver

ALL = (*SOLVERS, SciPySolver(rtol=1e-4, atol=1e-4), TorchsdeSolver())


def to_time_zero(sde):
    """Return times from 0.9 T to 0, by way of t_min."""
    shares = (0.9, 0.6, 0.3, 0.1)
    return FixedGrid((*(sde.T * share for share in shares), *sorted({sde.t_min, 0.0})[::-1]))


@pytest.mark.parametrize("solver", ALL, ids=label)
@pytest.mark.parametrize("how", [{"steps": 0}, {"steps": -1}, {"steps": 2.5}, {"nfe": 0}])
def test_no_steps_and_no_calls_are_refused_by_name(solver, how):
    ((name, value),) = how.items()
    with pytest.raises(ValueError, match=rf"^{name}(={value}|: SciPySolver)"):
        sd.sample(model_on(), (2, 3), solver=solver, seed=0, **how)


@pytest.mark.parametrize("solver", ALL, ids=label)
@pytest.mark.parametrize("denoise", [True, False])
def test_an_empty_batch_is_solved_to_an_empty_one(solver, denoise):
    how = {"solver": solver, "denoise": denoise, **steps_of(solver, 3)}
    for given in ({"shape": (0, 3, 4)}, {"x": torch.zeros(0, 3, 4)}):
        solution = sd.solve(model_on(), **given, **how)
        assert (solution.x.shape, solution.nfe.shape) == ((0, 3, 4), (0,))


@pytest.mark.parametrize("solver", DETERMINISTIC, ids=label)
def test_an_empty_batch_has_an_empty_code_and_no_likelihoods(solver):
    x, how = torch.zeros(0, 3), {"solver": solver, **steps_of(solver, 3)}
    assert sd.encode(model_on(), x, **how).shape == (0, 3)
    found = sd.log_likelihood(model_on(), x, **how)
    assert found.nats.shape == found.nfe.shape == (0,)


@pytest.mark.parametrize("solver", FIXED, ids=label)
def test_a_grid_of_ones_own_may_lead_to_time_zero(solver, sde):
    grid, model = to_time_zero(sde), model_on(sde)
    how = {"x": normal(2, 3), "solver": solver, "grid": grid, "seed": 0}
    if float(sde.sigma(0.0)) > 0.0:
        assert sd.sample(model, **how).isfinite().all()
        return
    end = sd.sample(model, denoise=False, **how)
    short = sd.sample(model, **how | {"grid": FixedGrid(grid.nodes[:-1])})
    assert end.isfinite().all()
    assert torch.equal(end, short)
    with pytest.raises(ValueError, match=r"^grid=FixedGrid.* sigma = 0 .*denoise=False$"):
        sd.sample(model, **how)


@pytest.mark.parametrize("solver", SOLVERS, ids=label)
@pytest.mark.parametrize("nodes", [(2.0, 0.5, 1e-3), (1.0 + 1e-15, 1e-3)])
def test_a_grid_beyond_the_process_is_refused_by_its_name(solver, nodes):
    named = r"grid=FixedGrid" if isinstance(solver, AdaptiveSolver) else r"^FixedGrid.* within$"
    with pytest.raises(ValueError, match=named):
        sd.sample(model_on(), x=normal(2, 3), solver=solver, grid=FixedGrid(nodes))


@pytest.mark.parametrize(
    "solver", [s for s in FIXED if isinstance(s, sd.SEEDS | sd.DPMSolver | sd.PNDM)], ids=label
)
def test_a_solve_that_starts_where_alpha_is_positive_is_taken(solver):
    model, x = model_on(RectifiedFlow()), normal(2, 3)
    grid = to_time_zero(RectifiedFlow())
    assert sd.sample(model, x=x, solver=solver, grid=grid, denoise=False).isfinite().all()
    for how in ({}, {"grid": FixedGrid((1.0, 0.5, 1e-3))}):
        with pytest.raises(ValueError, match=r"solver=.*RectifiedFlow.*smaller T"):
            sd.sample(model, x=x, solver=solver, **how)


def test_a_code_where_alpha_is_zero_is_refused_by_what_cannot_end_there():
    for solver in (s for s in DETERMINISTIC if isinstance(s, sd.SEEDS)):
        with pytest.raises(ValueError, match=r"solver=SEEDS.*RectifiedFlow.*smaller T"):
            sd.encode(model_on(RectifiedFlow()), normal(2, 3), solver=solver, steps=4)


@pytest.mark.parametrize(
    ("nodes", "restarts"),
    [
        ((1.0, 0.3, 1e-3), True),
        ((1.0, 1e-3), True),
        ((0.3, 1e-3), True),
        ((1.0, 0.5, 0.3), False),
        ((0.05, 0.01, 1e-3), False),
    ],
)
def test_a_restart_is_made_by_the_solves_that_step_over_its_bottom(nodes, restarts):
    solver, model = Restart(sd.DDIM(), bottom=0.2, top=1.0, steps=3, repeats=2), model_on()
    ratios = [math.exp(-model.sde.level(t).lam) for t in nodes]
    assert (ratios[0] > 0.2 >= ratios[-1]) == restarts
    for denoise in (True, False):
        how = {"solver": solver, "grid": FixedGrid(nodes), "denoise": denoise, "seed": 0}
        solution = sd.solve(model, x=normal(2, 3), **how)
        steps = len(nodes) - 1 + denoise
        assert int(solution.nfe[0]) == steps + 6 * restarts
        assert solver.nfe(steps, denoise) == steps + 6
