"""The loop with adaptive steps, and solves that go wrong in either loop."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pytest
import torch
from solver_examples import FIXED, Curve, label, model_on, normal
from torch import nn

import scoresde as sd
from scoresde import (
    VPSDE,
    AdamsPC,
    AdaptiveAdams,
    Denoiser,
    DormandPrince,
    EulerMaruyama,
    Gaussian,
    MaxEvaluations,
    NonFiniteState,
    SolveError,
    StepSizeUnderflow,
)
from scoresde.adaptive import READ_EVERY


class Stiff(nn.Module):
    """An elementwise network that oscillates fast in the samples whose condition says so."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, x, t, speed):
        self.rows.append(len(x))
        return x / (1.0 + x * x) + torch.where(speed > 0.0, (speed * t[:, None]).cos(), 0.0)


class Failing(Curve):
    """A network whose output is NaN in some rows from one call on, wherever they are."""

    def __init__(self, call, marks=float("inf")):
        super().__init__()
        self.call, self.marks = call, marks

    def forward(self, x, t, mark):
        out = super().forward(x, t)
        broken = (mark > 0.0) & (self.calls >= self.call)
        return torch.where(broken, torch.nan, out)


def failing(call):
    return Denoiser(Failing(call), VPSDE(), "v")


KINDS = [DormandPrince, AdaptiveAdams]


def test_error_is_proportional_to_the_tolerance(sde, gaussian):
    model, exact = gaussian.denoiser(sde, 0.6), normal(16, 4, dtype=torch.float64)
    x = gaussian.flow(exact, sde.level(sde.t_min), sde.level(sde.T))
    errors, nfe = [], []
    for tol in (1e-4, 1e-6, 1e-8):
        solution = sd.solve(model, x=x, solver=DormandPrince(tol, tol), denoise=False)
        errors.append(float((solution.x - exact).abs().max()))
        nfe.append(float(solution.nfe.float().mean()))
    assert errors[2] < 20.0 * 1e-8
    assert errors[0] > 5.0 * errors[1] > 25.0 * errors[2]
    # the fifth root of 100 is 2.5
    assert 1.25 < nfe[1] / nfe[0] < 3.0
    assert 1.5 < nfe[2] / nfe[1] < 3.0


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_the_identity_within_the_tolerance(kind, sde, gaussian):
    model, x = gaussian.denoiser(sde, 1.0), normal(6, 4, dtype=torch.float64)
    solver = kind(1e-8, 1e-8)
    code = sd.encode(model, x, solver=solver)
    scale = float(sde.level(sde.T).radius() / sde.level(sde.t_min).radius())
    exact = gaussian.flow(x, sde.level(sde.t_min), sde.level(sde.T))
    assert float((code - exact).abs().max()) < 1e-6 * scale
    back = sd.decode(model, code, solver=solver)
    assert float((back - x).abs().max()) < 20.0 * solver.atol


@pytest.mark.parametrize("kind", KINDS)
def test_tolerances_are_each_samples_own(kind):
    model = model_on()
    nfe = sd.solve(model, (64, 3), solver=kind(), seed=0).nfe
    assert len(nfe.unique()) > 1
    assert model.net.calls < int(nfe.max()) + READ_EVERY * kind().evals


@pytest.mark.parametrize("kind", KINDS)
def test_a_stiff_batch_mate_changes_nothing(kind):
    model = Denoiser(Stiff(), VPSDE(), "v")
    x, speed = normal(5, 3), torch.zeros(5, 1)
    how = {"solver": kind(1e-4, 1e-4)}
    alone = sd.solve(model, x=x, cond={"speed": speed}, **how)
    x, speed = torch.cat([x[:2], normal(1, 3, seed=9), x[2:]]), torch.zeros(6, 1)
    speed[2] = 300.0
    mixed = sd.solve(model, x=x, cond={"speed": speed}, **how)
    others = torch.tensor([0, 1, 3, 4, 5])
    assert torch.equal(mixed.x[others], alone.x)
    assert torch.equal(mixed.nfe[others], alone.nfe)
    assert mixed.nfe[2] > 3 * alone.nfe.max()


@pytest.mark.parametrize("kind", KINDS)
def test_finished_samples_leave_the_networks_batch(kind):
    model = Denoiser(Stiff(), VPSDE(), "v")
    speed = torch.zeros(8, 1)
    speed[0] = 300.0
    solution = sd.solve(
        model,
        x=normal(8, 3),
        cond={"speed": speed},
        solver=kind(1e-4, 1e-4),
        denoise=False,
    )
    rows = model.net.rows
    assert rows[0] == 8
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] == 1
    idle = sum(rows) - int(solution.nfe.sum())
    assert 0 <= idle <= 8 * (READ_EVERY - 1) * kind().evals


@pytest.mark.parametrize("kind", KINDS)
def test_a_condition_that_is_no_samples_own_stays_whole_as_the_batch_shrinks(kind):
    # a shared table has as many rows as the batch comes down to on its way
    class Table(Stiff):
        def forward(self, x, t, speed, table):
            assert table.shape == (3, 2)
            return super().forward(x, t, speed)

    speed = torch.tensor([0.0, 0.0, 30.0, 100.0, 300.0])[:, None]
    cond = {"speed": speed, "table": torch.zeros(3, 2)}
    model = Denoiser(Table(), VPSDE(), "v")
    sd.sample(model, x=normal(5, 3), cond=cond, solver=kind(1e-4, 1e-4))
    assert 3 in model.net.rows
    assert min(model.net.rows) < 3


@pytest.mark.parametrize("call", [1, 2, 5, 9])
@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_nan_from_the_network_names_time_and_rows_and_keeps_the_others(kind, call, denoise):
    mark = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None]
    x = normal(4, 3)
    how = {"x": x, "solver": kind(), "denoise": denoise}
    with pytest.raises(NonFiniteState, match=r"rows 1, 3") as caught:
        sd.sample(failing(call), cond={"mark": mark}, **how)
    error = caught.value
    assert error.indices == (1, 3)
    first, last = map(int, re.match(r"network calls (\d+) to (\d+) of row 1", str(error)).groups())
    assert first <= call <= last <= first + DormandPrince().evals
    assert VPSDE().t_min <= error.t <= 1.0
    assert f"{error.t:.6g}" in str(error)
    assert error.nfe > 0
    whole = sd.sample(failing(10**9), cond={"mark": mark}, **how)
    assert torch.equal(error.x[[0, 2]], whole[[0, 2]])


@pytest.mark.parametrize("kind", KINDS)
def test_nan_in_the_very_last_call_of_an_adaptive_solve_is_no_silent_nan(kind):
    mark = torch.tensor([0.0, 1.0])[:, None]
    how = {"x": normal(2, 3), "cond": {"mark": mark}, "solver": kind()}
    model = failing(10**9)
    last = int(sd.solve(model, **how).nfe[1])
    with pytest.raises(NonFiniteState, match=rf"^network call {last} of row 1 .*rows 1") as caught:
        sd.sample(failing(model.net.calls), **how)
    assert caught.value.indices == (1,)
    assert caught.value.t == pytest.approx(VPSDE().t_min)
    assert torch.isfinite(caught.value.x[0]).all()


@pytest.mark.parametrize("call", [1, 3, 6])
def test_nan_on_a_fixed_grid_names_the_level_and_the_number_of_the_call(call):
    mark = torch.tensor([0.0, 1.0, 0.0])[:, None]
    how = {"x": normal(3, 3), "cond": {"mark": mark}, "solver": sd.Euler(), "steps": 6}
    with pytest.raises(NonFiniteState, match=rf"^network call {call}, of .*rows 1") as caught:
        sd.sample(failing(call), **how)
    error, levels = caught.value, sd.solve(failing(10**9), **how).levels
    assert (error.indices, error.nfe) == ((1,), call)
    assert error.t == levels[call - 1].t
    assert f"step to t = {levels[call].t:.6g}, left" in str(error)
    assert torch.equal(error.x[[0, 2]], sd.sample(failing(10**9), **how)[[0, 2]])


@pytest.mark.parametrize("solver", FIXED, ids=label)
def test_no_solver_hides_a_nan(solver):
    how = {"cond": {"mark": torch.ones(2, 1)}, "solver": solver, "steps": 6}
    with pytest.raises(NonFiniteState, match=r"^network calls? (\d+)") as caught:
        sd.sample(failing(4), (2, 3), **how)
    first, last = re.match(r"network calls? (\d+)(?: to (\d+))?,", str(caught.value)).groups()
    assert int(first) <= 4 <= int(last or first) == caught.value.nfe


def test_every_sample_that_went_wrong_is_named_whatever_it_was():
    speed = torch.tensor([0.0, 1e4, 0.0])[:, None]
    mark = torch.tensor([0.0, 0.0, 1.0])[:, None]

    class Both(Stiff):
        def forward(self, x, t, speed, mark):
            return torch.where(mark > 0.0, torch.nan, super().forward(x, t, speed))

    how = {"cond": {"speed": speed, "mark": mark}, "solver": DormandPrince(max_nfe=60)}
    with pytest.raises(NonFiniteState, match=r"of row 2 .*rows 1, 2\)") as caught:
        sd.sample(Denoiser(Both(), VPSDE(), "v"), x=normal(3, 3), **how)
    assert caught.value.indices == (1, 2)
    assert caught.value.x[0].isfinite().all()


def test_a_likelihood_hides_no_nan():
    for solver in (AdamsPC(4), DormandPrince(), AdaptiveAdams()):
        with pytest.raises(NonFiniteState, match="rows 1"):
            sd.log_likelihood(
                failing(7), normal(2, 3), cond={"mark": torch.tensor([[0.0], [1.0]])}, solver=solver
            )


class Sliding(nn.Module):
    """A field that throws the state back and forth across 0, faster than steps can follow."""

    def forward(self, x, t, speed):
        return torch.where(t[:, None] < 0.5, speed, 0.0) * x.sign()


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_no_step_resolves_ends_in_an_underflow_that_keeps_the_others(kind):
    model = Denoiser(Sliding(), VPSDE(), "v")
    speed = torch.tensor([0.0, 1e8, 0.0], dtype=torch.float64)[:, None]
    how = {"x": normal(3, 2, dtype=torch.float64), "solver": kind(1e-9, 1e-9)}
    with pytest.raises(StepSizeUnderflow, match=r"step size .* at t = 0\.[45].*rows 1") as caught:
        sd.sample(model, cond={"speed": speed}, **how)
    assert caught.value.indices == (1,)
    assert caught.value.t == pytest.approx(0.5, abs=1e-3)
    expected = sd.sample(model, cond={"speed": torch.zeros_like(speed)}, **how)
    assert torch.equal(caught.value.x[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_is_never_exceeded_and_what_is_finished_is_kept(kind, denoise):
    speed = torch.tensor([0.0, 300.0, 0.0])[:, None]
    x, solver = normal(3, 3), kind(1e-5, 1e-5)
    run = lambda solver: sd.solve(  # noqa: E731
        Denoiser(Stiff(), VPSDE(), "v"), x=x, cond={"speed": speed}, solver=solver, denoise=denoise
    )
    whole = run(solver)
    for budget in (100, 101, 105, 106):
        with pytest.raises(MaxEvaluations, match=r"max_nfe .*rows 1") as caught:
            run(replace(solver, max_nfe=budget))
        assert caught.value.indices == (1,)
        assert budget - kind().evals - 1 < caught.value.nfe <= budget
        assert torch.equal(caught.value.x[[0, 2]], whole.x[[0, 2]])
    enough = run(replace(solver, max_nfe=int(whole.nfe.max())))
    assert torch.equal(enough.x, whole.x)
    with pytest.raises(MaxEvaluations):
        run(replace(solver, max_nfe=int(whole.nfe.max()) - 1))


def test_errors_are_one_family():
    for error in (NonFiniteState, StepSizeUnderflow, MaxEvaluations):
        assert issubclass(error, SolveError)
        assert issubclass(error, RuntimeError)


def test_an_error_shortens_a_long_list_of_rows():
    error = NonFiniteState("gone", t=0.5, indices=tuple(range(20)), nfe=7, x=torch.zeros(30, 2))
    assert str(error) == (
        "gone at t = 0.5 in 20 of 30 samples (rows 0, 1, 2, 3, 4, 5, 6, 7, ...), "
        "after 7 network evaluations; the other rows are in `.x`"
    )


def test_an_adaptive_solver_of_ones_own_needs_no_registration(gaussian):
    @dataclass(frozen=True)
    class Wary(DormandPrince):
        """Dormand-Prince whose error estimate is a thousand times as large."""

        def step(self, field, x, here, there, state, noise):
            step = super().step(field, x, here, there, state, noise)
            return step._replace(error=1e3 * step.error)

    model, x = gaussian.denoiser(VPSDE(), 1.0), normal(3, 4, dtype=torch.float64)
    plain, wary = (sd.solve(model, x=x, solver=s) for s in (DormandPrince(), Wary()))
    assert torch.allclose(plain.x, wary.x, atol=1e-3)
    assert (wary.nfe > plain.nfe).all()


def test_white_data_take_the_fewest_steps(sde):
    # v = 0: every step is accepted and grows by the largest factor
    white = Gaussian(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    nfe = sd.solve(white.denoiser(sde), (3, 2), solver=DormandPrince(), seed=0).nfe
    assert int(nfe.max()) <= 1 + 4 * 6 + 1


def test_a_stochastic_solver_on_a_grid_takes_no_adaptive_arguments():
    with pytest.raises(TypeError):
        EulerMaruyama(rtol=1e-3)
