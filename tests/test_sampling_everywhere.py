"""Every solver on every process, device, compiler and batch."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import cycle, pairwise

import pytest
import torch
from conftest import PROCESSES, slow
from solver_examples import FIXED, SOLVERS, GivenNoise, label, model_on, normal, steps_of
from torch import nn

import scoresde as sd
from scoresde import (
    DDIM,
    VPSDE,
    AdamsPC,
    AdaptiveSolver,
    Churned,
    Denoiser,
    DPMSolverPP,
    Field,
    Heun,
    PredictorCorrector,
    UniformGrid,
)
from scoresde.testing import count_operations


def refusal(solver, sde):
    """Return what a solver says against a process at the start of a solve; None if it takes it."""
    try:
        solver.init(Field(model_on(sde)), normal(2, 3), sde.level(sde.T))
    except ValueError as error:
        return str(error)
    return None


def is_finite(solver, sde, dtype, steps):
    x = sd.sample(model_on(sde, dtype), (2, 3), solver=solver, seed=0, **steps_of(solver, steps))
    return x.dtype == torch.float32 and bool(x.isfinite().all())


@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_every_solver_is_finite_on_every_process_or_refuses_it_at_the_start(solver, sde):
    if said := refusal(solver, sde):
        # only where alpha is 0 may a solver refuse; it names the remedy, which is one
        assert float(sde.alpha(sde.T)) == 0.0, said
        assert re.match(rf"solver=.*{type(sde).__name__}.*smaller T", said)
        with pytest.raises(ValueError, match=re.escape(said)):
            sd.sample(model_on(sde), (2, 3), solver=solver, **steps_of(solver, 2))
        sde = replace(sde, T=0.99)
    for steps in (1,) if isinstance(solver, AdaptiveSolver) else (1, 2, 3, 10):
        assert is_finite(solver, sde, torch.float32, steps)
    assert is_finite(solver, sde, torch.bfloat16, 6)


@pytest.mark.slow
@pytest.mark.parametrize("solver", FIXED, ids=label)
def test_every_number_of_steps_up_to_fifty_is_finite(solver):
    # the processes take turns
    for steps, sde in zip(range(1, 51), cycle(PROCESSES.values()), strict=False):
        taken = replace(sde, T=0.99) if refusal(solver, sde) else sde
        for dtype in (torch.bfloat16, torch.float32):
            assert is_finite(solver, taken, dtype, steps), f"{steps} steps on {taken}"


@pytest.mark.parametrize("solver", FIXED, ids=label)
def test_everything_runs_on_the_meta_device(solver):
    model = model_on().to("meta")
    solution = sd.solve(model, (2, 3, 4), solver=solver, steps=4, seed=0, trajectory=True)
    assert solution.trajectory.shape == (5, 2, 3, 4)
    assert solution.x.device.type == "meta"


@pytest.mark.parametrize("solver", [AdamsPC(), DDIM(1.0), PredictorCorrector()], ids=label)
@pytest.mark.parametrize("n", [12, 40])
def test_the_loop_adds_two_operations_a_step_and_a_read_in_sixteen(solver, n):
    sde = VPSDE()
    field, x, z = Field(model_on(sde)), normal(2, 3), normal(2, 3, seed=1)
    levels = UniformGrid().levels(sde, n)

    def bare():
        y, state = x, solver.init(field, x, levels[0])
        for here, there in pairwise(levels):
            y, state, _ = solver.step(field, y, here, there, state, GivenNoise(z))

    def loop():
        how = {"grid": UniformGrid(), "noise": GivenNoise(z), "denoise": False}
        sd.sample(field.model, x=x, solver=solver, steps=n, **how)

    with torch.no_grad():
        step, whole = count_operations(bare), count_operations(loop)
    assert step.reads == []
    assert len(whole.operations) - len(step.operations) <= n + 12 + 6 * (n // 16)
    assert len(whole.reads) <= 2 + n // 16  # is the start finite, are the sums


QUICK = (
    AdamsPC(3),
    DPMSolverPP(3),
    DDIM(1.0),
    Churned(Heun(), 0.2, inflation=1.01),
    PredictorCorrector(),
)


@pytest.mark.parametrize(
    "solver",
    [s if s in QUICK else slow(s) for s in FIXED],
    ids=label,
)
def test_a_compiled_step_is_the_step(solver):
    torch._dynamo.reset()
    sde = VPSDE()
    net = nn.Linear(3, 3)
    model = Denoiser(Linear(net), sde, "eps")
    levels, start = UniformGrid().levels(sde, 5), normal(2, 3)
    step = torch.compile(solver.step, fullgraph=True, backend="eager", dynamic=False)

    def walk(step):
        field, x = Field(model), start
        state = solver.init(field, x, levels[0])
        for k, (here, there) in enumerate(pairwise(levels[:-1])):
            noise = GivenNoise(normal(2, 3, seed=k))
            x, state, _ = step(field, x, here, there, state, noise)
        return x

    with torch.no_grad():
        assert torch.equal(walk(step), walk(solver.step))


class Linear(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, t):
        return self.layer(x) * (1.0 + t[:, None])


# the steps of an adaptive solve follow the state, which shows above the tolerances that methods of
# low order reach; the contract checks their gradients on fixed steps
SMOOTH = tuple(s for s in SOLVERS if not isinstance(s, AdaptiveSolver) or s.order >= 5)


@pytest.mark.parametrize("solver", SMOOTH, ids=label)
def test_gradients_through_a_solve_are_right(solver):
    model = model_on(dtype=torch.float64)
    steps = steps_of(solver, 4)
    if isinstance(solver, AdaptiveSolver):  # steps that change with x change the error left
        solver = replace(solver, rtol=1e-9, atol=1e-9)

    def end(x, shift):
        return sd.sample(
            model,
            x=x,
            solver=solver,
            seed=0,
            cond={"shift": shift},
            gradient="direct",
            **steps,
        )

    inputs = [normal(2, 2, seed=k, dtype=torch.float64).requires_grad_() for k in (0, 1)]
    assert torch.autograd.gradcheck(end, inputs, eps=1e-6, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_no_graph_is_built_unless_asked_for(solver):
    x = normal(2, 3).requires_grad_()
    for gradient in (None, "direct"):
        how = {"gradient": gradient, **steps_of(solver, 3)}
        end = sd.sample(model_on(), x=x, solver=solver, seed=0, **how)
        assert end.requires_grad == (gradient is not None)


@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_an_empty_batch_has_an_empty_result(solver):
    solution = sd.solve(model_on(), (0, 3, 4), solver=solver, seed=0, **steps_of(solver, 3))
    assert solution.x.shape == (0, 3, 4)
    assert solution.nfe.shape == (0,)
