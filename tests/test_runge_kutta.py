"""Runge-Kutta methods in every frame, and their tableaus."""

from __future__ import annotations

import itertools
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import generator
from scipy.integrate._ivp import dop853_coefficients as dop853
from solver_examples import label

import scoresde as sd
from scoresde import (
    EDMSDE,
    RK4,
    VPSDE,
    BogackiShampine,
    DormandPrince,
    DormandPrince853,
    EpsFrame,
    Euler,
    Field,
    Gaussian,
    Heun,
    KarrasGrid,
    LogFrame,
    Midpoint,
    PolarFrame,
    RectifiedFlow,
    Tsitouras,
)
from scoresde.solvers import tableau

EMBEDDED = (BogackiShampine, DormandPrince, Tsitouras, DormandPrince853)


def close(a, b, tol=1e-12):
    return float((a - b).abs().max()) <= tol * float(b.abs().max())


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def trees(order):
    """Return the rooted trees of an order, each the sorted tuple of its subtrees."""
    if order == 1:
        return [()]
    found = set()
    for sizes in partitions(order - 1, order - 1):
        found |= {tuple(sorted(t)) for t in itertools.product(*map(trees, sizes))}
    return sorted(found)


def partitions(total, most):
    if total == 0:
        return [[]]
    sizes = range(1, min(total, most) + 1)
    return [[k, *rest] for k in sizes for rest in partitions(total - k, k)]


def size(tree):
    return 1 + sum(map(size, tree))


def density(tree):
    return size(tree) * math.prod(map(density, tree))


def elementary(matrix, tree):
    """Return the elementary weights of a tree in every stage, with the matrix of the stages."""
    return math.prod((matrix @ elementary(matrix, t) for t in tree), start=np.ones(len(matrix)))


@pytest.mark.parametrize(
    ("method", "order", "errors"),
    [
        (tableau.EULER, 1, ()),
        (tableau.MIDPOINT, 2, ()),
        (tableau.HEUN, 2, ()),
        (tableau.CLASSICAL, 4, ()),
        (tableau.BOGACKI_SHAMPINE, 3, (2,)),
        (tableau.DORMAND_PRINCE, 5, (4,)),
        (tableau.TSITOURAS, 5, (4,)),
        (tableau.DORMAND_PRINCE_853, 8, (5, 3)),
    ],
)
def test_tableau_meets_the_order_conditions(method, order, errors):
    # Butcher's: b . phi(tree) = 1 / density(tree), for all trees up to the order and no further
    matrix = np.zeros((len(method.weights) + 1,) * 2)
    for i, row in enumerate((*method.rows, method.weights), start=1):
        matrix[i, :i] = row
    assert np.allclose(matrix[1:-1].sum(1), method.nodes, rtol=0, atol=2e-15)
    weights, stages = np.array(method.weights), matrix[:-1, :-1]

    def defect(of):
        return max(abs(weights @ elementary(stages, t) - 1.0 / density(t)) for t in trees(of))

    assert max(defect(k) for k in range(1, order + 1)) < 1e-13
    assert defect(order + 1) > 1e-5
    # an estimate is a difference of two solutions: what they agree in, it does not see
    for estimate, lower in zip(method.errors, errors, strict=True):
        seen = [max(abs(estimate @ elementary(matrix, t)) for t in trees(k)) for k in range(1, 10)]
        assert max(seen[:lower]) < 1e-13
        assert seen[lower] > 1e-4


def test_dormand_prince_853_has_the_coefficients_of_dop853():
    method = tableau.DORMAND_PRINCE_853
    for i, row in enumerate(method.rows, start=1):
        np.testing.assert_allclose(row, dop853.A[i, :i], rtol=1e-15)
    np.testing.assert_allclose(method.nodes, dop853.C[1:12], rtol=1e-15)
    np.testing.assert_allclose(method.weights, dop853.B, rtol=1e-15)
    np.testing.assert_allclose(method.errors, [dop853.E5, dop853.E3], rtol=1e-15)


def test_error_of_dormand_prince_853_is_that_of_dop853(mixture):
    sde, solver = VPSDE(), DormandPrince853()
    field, x = Field(mixture.denoiser(sde)), 3.0 * normal(4, 2)
    here, there = sde.level(0.5), sde.level(0.3)
    state = solver.init(field, x, here)
    found = solver.step(field, x, here, there, state, None).error
    frame = PolarFrame()
    method = tableau.DORMAND_PRINCE_853
    new, slopes = method.step(frame, field, x, here, there, (1.0, state))
    slopes.append((1.0, frame.slope(field, new, there)))
    fifth, third = method.estimates(frame, field, here, there, slopes)
    # the norm of Hairer, Norsett and Wanner 1993, Sec. II.10, for tolerances alike in all of x
    square, other = fifth.square().sum(1), third.square().sum(1)
    expected = square / (square + 0.01 * other).sqrt()
    assert close(found.norm(dim=1), expected)
    assert close(found / found.norm(dim=1, keepdim=True), fifth / fifth.norm(dim=1, keepdim=True))


def classical(slope, x, sigmas, rows, weights):
    """An explicit method on dx/dsigma, as textbooks have it."""
    nodes = [0.0, *(sum(row) for row in rows)]
    for sigma, after in pairwise(sigmas):
        h, k = after - sigma, []
        for node, row in zip(nodes, [(), *rows], strict=True):
            stage = x + h * sum((a * k[j] for j, a in enumerate(row)), torch.zeros_like(x))
            k.append(slope(stage, sigma + node * h))
        x = x + h * sum(b * each for b, each in zip(weights, k, strict=True))
    return x


@pytest.mark.parametrize(
    ("solver", "rows", "weights"),
    [
        (Euler(EpsFrame()), [], [1.0]),
        (Heun(frame=EpsFrame()), [[1.0]], [0.5, 0.5]),
        (Midpoint(EpsFrame()), [[0.5]], [0.0, 1.0]),
        (RK4(EpsFrame()), [[0.5], [0.0, 0.5], [0.0, 0.0, 1.0]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
    ],
    ids=label,
)
def test_methods_in_sigma_over_alpha_are_the_classical_ones_on_edm(solver, rows, weights, mixture):
    sde = EDMSDE()
    model, x, grid = mixture.denoiser(sde), 80.0 * normal(6, 2), KarrasGrid()

    def slope(x, sigma):
        return (x - model(x, sde.level(sigma)).x0) / sigma

    expected = classical(slope, x, grid.times(sde, 12), rows, weights)
    found = sd.sample(model, x=x, solver=solver, grid=grid, steps=12, denoise=False)
    assert close(found, expected, 1e-10)


def test_euler_in_sigma_over_alpha_is_ddim(sde, mixture):
    if float(sde.alpha(sde.T)) == 0.0:
        pytest.skip("sigma / alpha is infinite at T")
    model, x = mixture.denoiser(sde), normal(6, 2)
    ends = [
        sd.sample(model, x=x, solver=solver, steps=20) for solver in (Euler(EpsFrame()), sd.DDIM())
    ]
    assert close(*ends, 1e-11)


@pytest.mark.parametrize(
    "solver",
    [Euler(PolarFrame()), Heun(frame=PolarFrame()), Midpoint(), RK4()],
    ids=label,
)
def test_white_data_cost_no_steps_in_the_polar_frame(solver, sde):
    white = Gaussian(torch.zeros(3, dtype=torch.float64), 0.49 * torch.eye(3, dtype=torch.float64))
    model, x = white.denoiser(sde), normal(5, 3)
    exact = white.flow(x, sde.level(sde.T), sde.level(sde.t_min))
    for steps in (1, 4):
        end = sd.sample(model, x=x, solver=solver, steps=steps, denoise=False)
        assert close(end, exact, 1e-13)


@pytest.mark.parametrize(
    "solver", [Euler(EpsFrame()), Heun(frame=EpsFrame()), RK4(LogFrame(EpsFrame()))], ids=label
)
def test_a_frame_without_alpha_is_refused_at_either_end(solver, mixture):
    model, x = mixture.denoiser(RectifiedFlow()), normal(3, 2)
    for solve in (sd.sample, sd.encode):
        with pytest.raises(ValueError, match=r"solver=.*RectifiedFlow.*smaller T"):
            solve(model, x=x, solver=solver, steps=4)
    sd.sample(mixture.denoiser(RectifiedFlow(T=0.99)), x=x, solver=solver, steps=4)


def test_the_last_slope_of_a_step_is_the_first_of_the_next(mixture):
    sde = VPSDE()
    for kind, calls in zip(EMBEDDED, (3, 6, 6, 12), strict=True):
        field, x = Field(mixture.denoiser(sde)), normal(3, 2)
        here, there = sde.level(0.6), sde.level(0.5)
        state = kind().init(field, x, here)
        step = kind().step(field, x, here, there, state, None)
        assert field.nfe == 1 + calls == kind().nfe(1, denoise=False)
        assert close(step.state, PolarFrame().slope(field, step.x, there))


@pytest.mark.parametrize("kind", EMBEDDED)
def test_error_falls_with_the_tolerance_on_every_process(kind, sde, gaussian):
    model, x = gaussian.denoiser(sde, 0.6), normal(4, 4)
    exact = gaussian.flow(x, sde.level(sde.T), sde.level(sde.t_min))
    errors = []
    for tol in (1e-3, 1e-5, 1e-7):
        end = sd.sample(model, x=x, solver=kind(tol, tol), denoise=False)
        errors.append(float((end - exact).abs().max()))
        assert errors[-1] < 20.0 * tol
    assert errors[0] > errors[1] > errors[2]


def test_high_orders_pay_at_tight_tolerances_and_low_ones_at_loose(gaussian):
    model, x = gaussian.denoiser(VPSDE(), 0.6), normal(4, 4)

    def calls(solver):
        return float(sd.solve(model, x=x, solver=solver).nfe.double().mean())

    assert calls(BogackiShampine(1e-2, 1e-2)) < calls(DormandPrince853(1e-2, 1e-2))
    loose, tight = (kind(1e-10, 1e-10) for kind in (DormandPrince, DormandPrince853))
    assert calls(tight) < 0.8 * calls(loose)
