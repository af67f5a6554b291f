"""DPM-Solver against the papers' formulas, and the phi functions it is made of."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from itertools import pairwise

import pytest
import torch
from conftest import generator
from hypothesis import given
from hypothesis import strategies as st
from solver_examples import label

import scoresde as sd
from scoresde import (
    DDIM,
    VPSDE,
    DPMSolver,
    DPMSolverAdaptive,
    DPMSolverFast,
    DPMSolverPPSingle,
    Field,
    LogSNRGrid,
    RectifiedFlow,
)
from scoresde.solvers.phi import phi

SOLVERS = (DPMSolver(3), DPMSolverPPSingle(3), DPMSolverFast(), DPMSolverAdaptive(), DPMSolver(1))


def close(a, b, tol=1e-12):
    return float((a - b).abs().max()) <= tol * float(b.abs().max())


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def exact_phi(order, z):
    """Return the series of phi in decimals enough."""
    with localcontext(prec=60):
        z, total, term = Decimal(z), Decimal(0), 1 / Decimal(math.factorial(order))
        for k in range(order + 1, order + 80):
            total += term
            term *= z / k
        return float(total)


@given(z=st.floats(-12.0, 12.0) | st.floats(-1e-3, 1e-3), order=st.integers(1, 5))
def test_phi_functions_do_not_cancel(z, order):
    exact = exact_phi(order, z)
    assert math.isclose(phi(order, z), exact, rel_tol=2e-14)
    both = phi(order, torch.tensor([z, 0.0], dtype=torch.float64))
    assert math.isclose(float(both[0]), exact, rel_tol=2e-14)
    assert math.isclose(float(both[1]), 1.0 / math.factorial(order), rel_tol=1e-15)


def test_orders_one_are_ddim(sde, mixture):
    if float(sde.alpha(sde.T)) == 0.0:
        pytest.skip("lam is infinite at T")
    model, x = mixture.denoiser(sde), normal(6, 2)
    expected = sd.sample(model, x=x, solver=DDIM(), steps=20)
    for solver in (DPMSolver(1), DPMSolverPPSingle(1), DPMSolverFast(1)):
        assert close(sd.sample(model, x=x, solver=solver, steps=20), expected, 1e-11)


def dpm_solver_2(eps, x, here, middle, there, h):
    """Algorithm 1 of Lu et al. 2022 (2206.00927)."""
    u = middle.alpha / here.alpha * x - middle.sigma * (math.exp(h / 2) - 1) * eps(x, here)
    return there.alpha / here.alpha * x - there.sigma * (math.exp(h) - 1) * eps(u, middle)


def dpm_solver_3(eps, x, here, at, there, h):
    """Algorithm 2 of Lu et al. 2022 (2206.00927)."""
    r1, r2 = 1 / 3, 2 / 3
    first = at(r1)
    u = first.alpha / here.alpha * x - first.sigma * (math.exp(r1 * h) - 1) * eps(x, here)
    d1 = eps(u, first) - eps(x, here)
    second = at(r2)
    u = second.alpha / here.alpha * x - second.sigma * (math.exp(r2 * h) - 1) * eps(x, here)
    u = u - second.sigma * r2 / r1 * ((math.exp(r2 * h) - 1) / (r2 * h) - 1) * d1
    d2 = eps(u, second) - eps(x, here)
    new = there.alpha / here.alpha * x - there.sigma * (math.exp(h) - 1) * eps(x, here)
    return new - there.sigma / r2 * ((math.exp(h) - 1) / h - 1) * d2


def dpm_solver_pp_2s(x0, x, here, middle, there, h, r=0.5):
    """Algorithm 1 of Lu et al. 2022 (2211.01095)."""
    u = middle.sigma / here.sigma * x - middle.alpha * (math.exp(-r * h) - 1) * x0(x, here)
    d = (1 - 1 / (2 * r)) * x0(x, here) + 1 / (2 * r) * x0(u, middle)
    return there.sigma / here.sigma * x - there.alpha * (math.exp(-h) - 1) * d


@pytest.mark.parametrize("solver", [DPMSolver(2), DPMSolver(3), DPMSolverPPSingle(2)], ids=label)
def test_single_steps_are_those_of_the_papers(solver, sde, mixture):
    model, x = mixture.denoiser(sde), normal(6, 2)
    levels, y = [sde.level_at(-2.0 + 0.7 * k) for k in range(6)], x
    for here, there in pairwise(levels):
        h = there.lam - here.lam

        def at(share, here=here, h=h):
            return sde.level_at(here.lam + share * h)

        if solver == DPMSolver(3):
            y = dpm_solver_3(lambda x, t: model(x, t).eps, y, here, at, there, h)
        elif solver == DPMSolver(2):
            y = dpm_solver_2(lambda x, t: model(x, t).eps, y, here, at(0.5), there, h)
        else:
            y = dpm_solver_pp_2s(lambda x, t: model(x, t).x0, y, here, at(0.5), there, h)
    found, field = x, Field(model)
    for here, there in pairwise(levels):
        found = solver.step(field, found, here, there, None, None).x
    assert close(found, y, 1e-11)


@pytest.mark.parametrize("calls", range(1, 15))
def test_fast_spends_its_calls_as_the_paper_says(calls, mixture):
    whole, rest = divmod(calls, 3)  # Lu et al. 2022, Sec. 3.4
    orders = {0: [3] * (whole - 1) + [2, 1], 1: [3] * whole + [1], 2: [3] * whole + [2]}[rest]
    model, x = mixture.denoiser(VPSDE()), normal(4, 2)
    levels = LogSNRGrid().levels(model.sde, len(orders))
    field, y = Field(model), x
    for order, (here, there) in zip(orders, pairwise(levels), strict=True):
        y = DPMSolver(order).step(field, y, here, there, None, None).x
    assert field.nfe == calls
    how = {"solver": DPMSolverFast(calls), "grid": LogSNRGrid()}
    solution = sd.solve(model, x=x, nfe=calls, denoise=False, **how)
    assert close(solution.x, y)
    assert solution.nfe.tolist() == [calls] * 4
    assert sd.solve(model, x=x, nfe=calls + 1, **how).nfe.tolist() == [calls + 1] * 4


def test_fast_refuses_no_calls():
    with pytest.raises(ValueError, match="calls=0"):
        DPMSolverFast(0)


@pytest.mark.parametrize("order", [2, 3])
def test_embedded_errors_are_the_difference_of_the_papers_two_orders(order, mixture):
    # App. C: DDIM within DPM-Solver-2, DPM-Solver-2 with r1 = 1/3 within DPM-Solver-3
    sde = VPSDE()
    field, x = Field(mixture.denoiser(sde)), normal(6, 2)
    here, there = sde.level_at(-1.0), sde.level_at(-0.4)
    solver, h, r1 = DPMSolverAdaptive(order=order), 0.6, 1 / 3
    step = solver.step(field, x, here, there, x, None)
    assert close(step.x, DPMSolver(order).step(field, x, here, there, None, None).x)
    eps = field(x, here).eps
    lower = there.alpha / here.alpha * x - there.sigma * math.expm1(h) * eps
    if order == 3:
        middle = sde.level_at(here.lam + r1 * h)
        u = middle.alpha / here.alpha * x - middle.sigma * math.expm1(r1 * h) * eps
        change = field(u, middle).eps - eps
        lower = lower - there.sigma / (2 * r1) * math.expm1(h) * change
    assert close(step.error, step.x - lower, 1e-11)


@pytest.mark.parametrize(
    ("order", "tolerances"), [(2, (1e-2, 1e-3, 1e-4)), (3, (1e-3, 1e-4, 1e-5))]
)
def test_adaptive_error_falls_with_the_tolerance(order, tolerances, gaussian):
    sde = VPSDE()
    model, x = gaussian.denoiser(sde, 0.6), normal(4, 4)
    exact = gaussian.flow(x, sde.level(sde.T), sde.level(sde.t_min))
    errors, calls = [], []
    for tol in tolerances:
        solver = DPMSolverAdaptive(tol, tol, order=order)
        solution = sd.solve(model, x=x, solver=solver, denoise=False)
        errors.append(float((solution.x - exact).abs().max()))
        calls.append(solution.nfe)
        assert errors[-1] < 20.0 * tol
    assert errors[0] > errors[1] > errors[2]
    assert bool((calls[0] < calls[2]).all())
    assert all(bool((n % order == 0).all()) for n in calls)


@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_infinite_lam_is_refused_at_either_end(solver, mixture):
    steps = {} if isinstance(solver, DPMSolverAdaptive) else {"steps": 4}
    model, x = mixture.denoiser(RectifiedFlow()), normal(3, 2)
    for solve in (sd.sample, sd.encode):
        with pytest.raises(ValueError, match=r"solver=.*RectifiedFlow.*smaller T"):
            solve(model, x=x, solver=solver, **steps)
    sd.sample(mixture.denoiser(RectifiedFlow(T=0.99)), x=x, solver=solver, **steps)


@pytest.mark.parametrize("kind", [DPMSolver, DPMSolverPPSingle, DPMSolverAdaptive])
@pytest.mark.parametrize("order", [0, 4])
def test_orders_that_there_are_not(kind, order):
    with pytest.raises(ValueError, match=f"order={order}"):
        kind(order=order)
