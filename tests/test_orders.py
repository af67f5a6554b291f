"""Measured orders of the deterministic solvers, and the flows that they follow exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import generator, slow
from solver_examples import DETERMINISTIC, label

import scoresde as sd
from scoresde import (
    DDIM,
    RK4,
    VESDE,
    VPSDE,
    AdamsPC,
    AdaptiveSolver,
    BogackiShampine,
    DormandPrince,
    DormandPrince853,
    DPMSolver,
    DPMSolverAdaptive,
    DPMSolverFast,
    DPMSolverPP,
    DPMSolverPPSingle,
    EpsFrame,
    Euler,
    EulerMaruyama,
    FixedGrid,
    Gaussian,
    Heun,
    LogFrame,
    Midpoint,
    PolarFrame,
    ReverseDiffusion,
    TimeFrame,
    Tsitouras,
    UniPC,
    X0Frame,
)
from scoresde.testing import PANEL, ROUGH, Problem, convergence, measured_order

# orders in the limit of fine grids: from exact starting values, and from a solver's own start
ORDERS = [
    (Euler(), 1, 1),
    (EulerMaruyama(0.0), 1, 1),
    (DDIM(), 1, 1),
    (DPMSolverPP(1), 1, 1),
    (DPMSolverPP(2), 2, 2),
    (DPMSolverPP(3), 3, 2),
    (Heun(), 2, 2),
    (AdamsPC(1), 2, 2),
    (AdamsPC(2), 3, 3),
    (AdamsPC(3), 4, 3),
    (AdamsPC(4), 5, 3),
    (UniPC(2), 3, 3),
    (DormandPrince(), 5, 5),
    (Euler(PolarFrame()), 1, 1),
    (Heun(frame=EpsFrame()), 2, 2),
    *((Midpoint(frame), 2, 2) for frame in (PolarFrame(), LogFrame(EpsFrame()))),
    (RK4(PolarFrame()), 4, 4),
    *((kind(k), k, k) for kind in (DPMSolver, DPMSolverPPSingle) for k in (1, 2, 3)),
    (DPMSolverFast(10_000), 3, 3),
    *((DPMSolverAdaptive(order=k), k, k) for k in (2, 3)),
    (BogackiShampine(), 3, 3),
    (Tsitouras(), 5, 5),
    (DormandPrince853(), 8, 8),
]


# the method again, in other frames
REPEATED = [(RK4(frame), 4, 4) for frame in (TimeFrame(), EpsFrame(), X0Frame())]


# numbers of steps that leave the errors of high orders above rounding, on the panel and its rough
# problems; the finest pair that does is measured
STEPS = {
    DormandPrince: ((24, 48), (24, 48)),
    Tsitouras: ((48, 96), (96, 192)),
    DormandPrince853: ((10, 14), (12, 24, 48)),
}


def close(a, b, tol=1e-12):
    return float((a - b).abs().max()) <= tol * float(b.abs().max())


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("solver", "order", "own"), [*ORDERS, *(slow(*each) for each in REPEATED)], ids=label
)
def test_order_on_the_panel(solver, order, own):
    smooth, rough = STEPS.get(type(solver), ((128, 256),) * 2)
    for problem in (*PANEL, *ROUGH):
        steps = rough if problem in ROUGH else smooth
        curve = convergence(solver, problem, steps, exact_start=own < order)
        assert curve.order >= order - 0.25, f"{problem.sde}: {curve}"
        assert curve.errors[-1] < 0.1, f"{problem.sde}: {curve}"
        if problem in PANEL[1:3] and order < 8:  # VP, where no leading term cancels
            assert abs(curve.order - order) <= 0.25, f"{problem.sde}: {curve}"


@pytest.mark.parametrize(("solver", "order", "own"), [o for o in ORDERS if o[2] < o[1]], ids=label)
def test_order_of_a_multistep_solver_from_its_own_start(solver, order, own):
    # on VE a start of low order shows the most
    assert abs(measured_order(solver, PANEL[7], (128, 256)) - own) <= 0.25


@pytest.mark.parametrize(
    ("solver", "order"),
    [(Euler(), 1), (DDIM(), 1), (Heun(), 2), (DPMSolverPP(2), 2), (AdamsPC(1), 2), (AdamsPC(2), 3)],
    ids=label,
)
@pytest.mark.parametrize("sde", [VPSDE(t_min=0.02), VESDE(0.05, 20.0)], ids=["vp", "ve"])
def test_order_on_a_mixture(solver, order, sde, mixture):
    curve = convergence(solver, Problem(mixture, sde), (64, 128))
    assert curve.order >= order - 0.25, str(curve)
    assert curve.errors[-1] < 0.1, str(curve)


@pytest.mark.parametrize("solver", DETERMINISTIC, ids=label)
def test_deterministic_solvers_run_both_ways(solver, gaussian):
    sde = VPSDE(t_min=0.01)
    model, x = gaussian.denoiser(sde, 1.0), normal(8, 4)
    ends = sde.level(sde.t_min), sde.level(sde.T)
    # the forward kernel, taken for a step of the flow, is the coarsest of them
    count = 800 if isinstance(solver, ReverseDiffusion) else 200
    steps = None if isinstance(solver, AdaptiveSolver) else count
    code = sd.encode(model, x, solver=solver, steps=steps)
    assert close(code, gaussian.flow(x, *ends), 0.05)
    back = sd.decode(model, code, solver=solver, steps=steps)
    first = solver.order == 1 or solver == DPMSolverFast()  # out of calls at the seventh step
    assert close(back, x, 0.1 if first else 1e-3)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_adams_costs_white_data_no_steps(order, sde):
    white = Gaussian(torch.zeros(3, dtype=torch.float64), 0.49 * torch.eye(3, dtype=torch.float64))
    model, x = white.denoiser(sde), normal(5, 3)
    for steps in (1, 4):
        end = sd.sample(model, x=x, solver=AdamsPC(order), steps=steps, denoise=False)
        assert close(end, white.flow(x, sde.level(sde.T), sde.level(sde.t_min)), 1e-13)


def test_adams_finishes_from_the_corrected_state(sde, mixture):
    # order 1 line by line: Euler, the trapezoidal rule in the polynomial's own variable, and v
    # carried along with a third of the move for x0 and two thirds for eps
    c = 0.8
    model, x = mixture.denoiser(sde, c), normal(6, 2)
    here, there = (sde.level_at(lam) for lam in (-1.5, 0.0))
    (phi, r), (psi, s) = ((at.angle(c), at.radius(c)) for at in (here, there))

    def v(x, at):
        out = model(x, at)
        return math.cos(at.angle(c)) * out.eps - math.sin(at.angle(c)) * out.x0 / c

    def u(angle):
        return np.log((np.sin(angle) + 0.1) / (np.cos(angle) + 0.1))

    y, slope = x / r, v(x, here)
    predicted = y + (psi - phi) * slope
    new = v(s * predicted, there)
    angles = np.linspace(phi, psi, 20_001)
    share = float(np.trapezoid((u(angles) - u(phi)) / (u(psi) - u(phi)), angles))
    corrected = y + (psi - phi - share) * slope + share * new
    rate = (2.0 / math.tan(psi) - math.tan(psi)) / 3.0
    carried = new + rate * (corrected - predicted)
    expected = c * (math.cos(psi) * corrected - math.sin(psi) * carried)
    grid = FixedGrid((here.t, there.t))
    found = sd.sample(model, x=x, solver=AdamsPC(1), grid=grid, steps=2)
    assert close(found, expected, 1e-4)  # eight Gauss points do not resolve a step this long
    assert not close(found, model(s * predicted, there).x0, 2e-3)
