"""Multistep methods: their weights, and each against its paper's own formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import PROCESSES, generator
from scipy.integrate import quad
from solver_examples import label

import scoresde as sd
from scoresde import (
    BH1,
    BH2,
    DDIM,
    DEIS,
    IPNDM,
    PNDM,
    VESDE,
    VPSDE,
    AdamsPC,
    DormandPrince,
    DPMSolverPP,
    EpsFrame,
    ExponentialAdams,
    Field,
    FixedGrid,
    Gaussian,
    Heun,
    Lam,
    LogSNRGrid,
    Phi,
    PolarFrame,
    RectifiedFlow,
    Rho,
    Time,
    TimeFrame,
    UniC,
    UniformGrid,
    UniP,
    UniPC,
    Vary,
    X0Frame,
)
from scoresde.solvers.interpolation import adams_weights
from scoresde.testing import PANEL, ROUGH, convergence

FRAMES = (X0Frame(), EpsFrame(), PolarFrame(), TimeFrame())
COORDINATES = (Lam(), Time(), Rho(), Phi())


def close(a, b, tol=1e-12):
    return float((a - b).abs().max()) <= tol * float(b.abs().max())


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def lagrange(z, j, nodes):
    others = [node for i, node in enumerate(nodes) if i != j]
    return math.prod((z - node) / (nodes[j] - node) for node in others)


@pytest.mark.parametrize("coordinate", COORDINATES, ids=str)
@pytest.mark.parametrize("frame", FRAMES, ids=str)
@pytest.mark.parametrize("name", ["vp", "ve", "subvp", "flow"])
@pytest.mark.parametrize("lams", [(-1.0, -1.3, -2.2, 0.0), (2.0, 1.9, 1.85, 2.04), (-1, -2, -3, 4)])
def test_weights_integrate_the_polynomial(frame, coordinate, name, lams, mixture):
    *nodes, stop = lams
    sde = PROCESSES[name]
    field = Field(mixture.denoiser(sde, 0.7))
    found = adams_weights(frame, coordinate, Vary(), nodes, stop, field)
    z = [coordinate.at(lam, field) for lam in nodes]

    def integrand(lam, j):
        return frame.rate(lam, sde, 0.7) * lagrange(coordinate.at(lam, field), j, z)

    for j, weight in enumerate(found):
        exact = quad(integrand, nodes[0], stop, (j,), epsabs=0.0, epsrel=1e-12)[0]
        assert math.isclose(weight, exact, rel_tol=1e-10)


@pytest.mark.parametrize("coordinate", COORDINATES, ids=str)
@pytest.mark.parametrize("frame", FRAMES, ids=str)
@pytest.mark.parametrize("name", ["vp", "ve", "subvp", "flow"])
def test_weights_add_up_to_the_rise_at_steps_of_any_size(frame, coordinate, name, mixture):
    # Lagrange's polynomials add up to 1
    sde, c = PROCESSES[name], 0.7
    field = Field(mixture.denoiser(sde, c))
    span = [sde.lam(t) for t in (0.99 * sde.T, sde.t_min)]
    nodes = [span[0] + d for d in (0.0, -0.1, -0.3)]
    for share in (1e-3, 0.03, 0.1, 0.3, 1.0):
        stop = nodes[0] + share * (span[1] - span[0])
        for start in (nodes, [stop, nodes[0], nodes[1]]):
            end = nodes[0] if start[0] == stop else stop
            weights = adams_weights(frame, coordinate, Vary(), start, end, field)
            at = [frame.variable(sde.level_at(lam), c) for lam in (start[0], end)]
            size = max(abs(w) for w in weights)
            assert abs(sum(weights) - (at[1] - at[0])) <= 1e-12 * size + 1e-14 * abs(at[0])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_tab_coefficients_are_those_of_deis(order, mixture):
    # C_j = integral of alpha_s / alpha_tau g^2 / (2 sigma) prod (tau - t_k) / (t_j - t_k) dtau
    sde, times, end = VPSDE(), [0.6, 0.7, 0.85, 0.9][:order], 0.45
    field = Field(mixture.denoiser(sde))

    def integrand(tau, j):
        weight = 0.5 * sde.alpha(end) / sde.alpha(tau) * sde.g2(tau) / sde.sigma(tau)
        return weight * lagrange(tau, j, times)

    found = DEIS(order).weights([sde.lam(t) for t in times], sde.lam(end), field)
    for j, weight in enumerate(found):
        exact = quad(integrand, times[0], end, (j,), epsabs=0.0, epsrel=1e-12)[0]
        assert math.isclose(sde.alpha(end) * weight, exact, rel_tol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_rho_deis_is_the_linear_multistep_method(order, sde, mixture):
    # Adams-Bashforth on x / alpha in sigma / alpha, by integrals of polynomial coefficients
    levels = LogSNRGrid().levels(sde, 9)[1:]
    model, x = mixture.denoiser(sde), normal(6, 2)
    rhos = [at.sigma / at.alpha for at in levels]
    y, slopes = x / levels[0].alpha, []
    for i, (here, there) in enumerate(pairwise(rhos)):
        slopes = [model(y * levels[i].alpha, levels[i]).eps, *slopes][:order]
        nodes = rhos[i::-1][: len(slopes)]
        for j, slope in enumerate(slopes):
            others = np.delete(nodes, j)
            integral = np.polyint(np.atleast_1d(np.poly(others)))
            rise = np.polyval(integral, there) - np.polyval(integral, here)
            y = y + rise / np.prod(nodes[j] - others) * slope
    grid = FixedGrid(tuple(at.t for at in levels))
    how = {"grid": grid, "steps": len(levels) - 1, "denoise": False}
    found = sd.sample(mixture.denoiser(sde), x=x, solver=DEIS(order, Rho()), **how)
    assert close(found, y * levels[-1].alpha, 1e-10)


def test_rho_deis_has_the_coefficients_of_variable_step_ipndm(mixture):
    field = Field(mixture.denoiser(VPSDE()))
    rhos = [2.0, 2.7, 3.3, 1.6]  # newest first, and the end
    lams = [-math.log(rho) for rho in rhos]
    h, h1, h2 = (b - a for a, b in ((2.0, 1.6), (2.7, 2.0), (3.3, 2.7)))
    two = (1.0 + h / (2.0 * h1), -h / (2.0 * h1))
    bend = h * (2.0 * h + 3.0 * h1) / (6.0 * (h1 + h2))
    three = (two[0] + bend / h1, two[1] - bend / h1 - bend / h2, bend / h2)
    for shares in (two, three):
        k = len(shares)
        found = DEIS(k, Rho()).weights(lams[:k], lams[-1], field)
        assert np.allclose(found, [h * share for share in shares], rtol=1e-12)


def dpm_solver_pp(model, x, levels, order, exact):
    """Multistep DPM-Solver++ (arXiv:2211.01095), with phi_2 at two nodes exact or as there."""
    past = []
    for here, there in pairwise(levels):
        past = [(here.lam, model(x, here).x0), *past][:order]
        h, d = there.lam - here.lam, [x0 for _, x0 in past]
        lams = [lam for lam, _ in past]
        phi1 = math.exp(-h) - 1.0
        phi2 = phi1 / h + 1.0
        phi3 = phi2 / h - 0.5
        x = there.sigma / here.sigma * x - there.alpha * phi1 * d[0]
        if len(past) == 2:
            slope = (d[0] - d[1]) / ((lams[0] - lams[1]) / h)
            x = x + there.alpha * (phi2 if exact else -0.5 * phi1) * slope
        if len(past) == 3:
            r0, r1 = (lams[0] - lams[1]) / h, (lams[1] - lams[2]) / h
            first, second = (d[0] - d[1]) / r0, (d[1] - d[2]) / r1
            bend = (first - second) / (r0 + r1)
            x = x + there.alpha * (phi2 * (first + r0 * bend) - 2.0 * phi3 * bend)
    return x


@pytest.mark.parametrize(
    ("solver", "order", "exact"),
    [
        (DPMSolverPP(2), 2, False),
        (UniP(2), 2, False),
        (ExponentialAdams(2), 2, True),
        (UniP(2, blend=Vary()), 2, True),
        (DPMSolverPP(3), 3, False),
        (UniP(3), 3, False),
        (ExponentialAdams(3), 3, True),
        (UniP(3, blend=Vary()), 3, True),
    ],
    ids=label,
)
def test_adams_on_x0_in_lam_is_dpm_solver_pp(solver, order, exact, sde, mixture):
    model, x = mixture.denoiser(sde), normal(6, 2)
    levels = LogSNRGrid().levels(sde, 9)[1:]
    how = {"grid": FixedGrid(tuple(at.t for at in levels)), "steps": 8, "denoise": False}
    expected = dpm_solver_pp(model, x, levels, order, exact)
    assert close(sd.sample(model, x=x, solver=solver, **how), expected, 1e-11)


def unipc_coefficients(h, ratios, kind):
    """Return a_m B(h) of UniPC, of h = lam_s - lam_t and r_m, for noise prediction (h = -h: data).

    R a B(h) = phi with R_{nm} = (r_m h)^{n-1} and phi_n = h^n n! phi_{n+1}(h); 1/2 for one unknown.
    """
    B = {BH1: h, BH2: math.expm1(h), Vary: math.nan}[kind]
    if len(ratios) == 1 and kind is not Vary:
        return [0.5 * B]
    phis, value = [], math.expm1(h) / h
    for n in range(1, len(ratios) + 1):
        value = (value - 1.0 / math.factorial(n)) / h  # phi_{n+1}
        phis.append(h**n * math.factorial(n) * value)
    R = [[(r * h) ** n for r in ratios] for n in range(len(ratios))]
    return np.linalg.solve(R, phis)


def unipc(model, x, levels, order, frame, kind):
    """UniPC line by line: predict, evaluate, correct (arXiv:2302.04867, Algs. 1 and 2)."""
    noise = frame == EpsFrame()
    slope = (lambda x, at: model(x, at).eps) if noise else (lambda x, at: model(x, at).x0)
    past = [(levels[0], slope(x, levels[0]))]
    for here, there in pairwise(levels):
        h = there.lam - here.lam
        size, h = (there.sigma, h) if noise else (there.alpha, -h)
        linear = there.alpha / here.alpha if noise else there.sigma / here.sigma
        known = past[:order]
        base = linear * x - size * math.expm1(h) * known[0][1]
        step = abs(h)

        def rest(points, h=h, known=known, step=step, here=here):
            if not points:
                return 0.0
            ratios = [(at.lam - here.lam) / step for at, _ in points]
            weights = unipc_coefficients(h, ratios, kind)
            pairs = zip(weights, points, ratios, strict=True)
            return sum(a * (m - known[0][1]) / r for a, (_, m), r in pairs)

        predicted = base - size * rest(known[1:])
        new = (there, slope(predicted, there))
        x = base - size * rest([*known[1:], new])
        past = [new, *past]
    return x, predicted


@pytest.mark.parametrize("blend", [BH1(), BH2(), Vary()], ids=str)
@pytest.mark.parametrize("frame", [X0Frame(), EpsFrame()], ids=str)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_unipc_is_that_of_the_paper(order, frame, blend, sde, mixture):
    model, x = mixture.denoiser(sde), normal(6, 2)
    levels = LogSNRGrid().levels(sde, 9)[1:]
    corrected, predicted = unipc(model, x, levels, order, frame, type(blend))
    grid = FixedGrid(tuple(at.t for at in levels))
    solver = UniPC(order, frame, blend)
    found = sd.sample(model, x=x, solver=solver, grid=grid, steps=8, denoise=False)
    assert close(found, predicted, 1e-9)
    # and it ends from the corrected state: (x - sigma eps) / alpha, with eps as predicted
    at = levels[-1]
    expected = (corrected - at.sigma * model(predicted, at).eps) / at.alpha
    assert close(sd.sample(model, x=x, solver=solver, grid=grid, steps=9), expected, 1e-9)


@pytest.mark.parametrize(
    ("solver", "same"),
    [
        (UniC(UniP(k, frame, blend), k, frame, blend), UniPC(k, frame, blend))
        for k in (1, 2, 4)
        for frame, blend in ((X0Frame(), BH2()), (EpsFrame(), BH1()), (PolarFrame(), Vary()))
    ],
    ids=label,
)
def test_unic_on_unip_is_unipc(solver, same, sde, mixture):
    model, x = mixture.denoiser(sde, 0.7), normal(6, 2)
    for how in ({"steps": 7}, {"steps": 7, "denoise": False}, {"steps": 1}):
        ends = [sd.sample(model, x=x, solver=each, **how) for each in (solver, same)]
        assert close(*ends, 1e-10)


def pndm(model, x, levels, warm):
    """(F-)PNDM line by line (arXiv:2202.09778), or iPNDM for warm = False."""
    shares = (
        [1.0],
        [1.5, -0.5],
        [23 / 12, -16 / 12, 5 / 12],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    )

    def carry(x, eps, a, b):
        return b.alpha / a.alpha * x + (b.sigma - b.alpha / a.alpha * a.sigma) * eps

    past = []
    for here, there in pairwise(levels):
        eps = model(x, here).eps
        past = [eps, *past][:4]
        if warm and len(past) < 4:
            middle = model.sde.level(0.5 * (here.t + there.t))
            second = model(carry(x, eps, here, middle), middle).eps
            third = model(carry(x, second, here, middle), middle).eps
            fourth = model(carry(x, third, here, there), there).eps
            mean = (eps + 2.0 * second + 2.0 * third + fourth) / 6.0
        else:
            mean = sum(w * e for w, e in zip(shares[len(past) - 1], past, strict=True))
        x = carry(x, mean, here, there)
    return x


@pytest.mark.parametrize("solver", [PNDM(), IPNDM()], ids=label)
def test_pndm_is_that_of_the_paper(solver, sde, mixture):
    model, x = mixture.denoiser(sde), normal(6, 2)
    levels = LogSNRGrid().levels(sde, 9)[1:]
    grid = FixedGrid(tuple(at.t for at in levels))
    found = sd.sample(model, x=x, solver=solver, grid=grid, steps=8, denoise=False)
    assert close(found, pndm(model, x, levels, solver == PNDM()), 1e-10)


@pytest.mark.parametrize("nodes", [2, 3, 4])
def test_ipndm_has_its_full_order_on_equal_steps_in_rho_and_two_on_smooth_ones(nodes):
    even = replace(PANEL[7], grid=UniformGrid(), sde=sd.EDMSDE(T=4.0, t_min=0.5))
    curve = convergence(IPNDM(nodes), even, (128, 256), exact_start=True)
    assert abs(curve.order - nodes) < 0.25, str(curve)
    curve = convergence(IPNDM(nodes), PANEL[1], (128, 256), exact_start=True)
    assert abs(curve.order - 2.0) < 0.25, str(curve)


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        *((UniPC(k), k + 1) for k in (1, 2, 3)),
        *((UniPC(k, EpsFrame(), BH1()), k + 1) for k in (1, 2)),
        *((UniPC(k, PolarFrame()), k + 1) for k in (2, 3, 4)),
        (UniC(DDIM(), 1), 2),
        (UniC(DDIM(), 3), 2),
        (UniC(DPMSolverPP(2), 1), 2),
        (UniC(DPMSolverPP(2), 2), 3),
        (UniC(DEIS(2), 2, EpsFrame()), 3),
        (UniC(Heun(), 2), 3),
        (UniC(IPNDM(2), 1), 2),
    ],
    ids=label,
)
def test_corrector_lifts_the_order_by_one(solver, order):
    if isinstance(solver, UniC):
        assert solver.order == order
    for problem in ROUGH:
        curve = convergence(solver, problem, (128, 256), exact_start=True)
        assert abs(curve.order - order) < 0.3, f"{problem.sde}: {curve}"
        assert curve.errors[-1] < 1e-3


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_from_its_own_start_has_order_three_at_most(order):
    curve = convergence(UniPC(order, EpsFrame()), PANEL[7], (256, 512))
    assert abs(curve.order - min(order + 1, 3)) < 0.3, str(curve)


@pytest.mark.parametrize("coordinate", COORDINATES, ids=str)
@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_order_in_every_frame_and_coordinate(frame, coordinate):
    for order in (2, 4):
        solver = ExponentialAdams(order, frame, coordinate)
        curve = convergence(solver, ROUGH[0], (128, 256), exact_start=True)
        assert abs(curve.order - order) < 0.3, str(curve)


@pytest.mark.parametrize("coordinate", COORDINATES, ids=str)
@pytest.mark.parametrize("order", [1, 4])
def test_polar_frame_costs_white_data_no_steps(order, coordinate, sde):
    white = Gaussian(torch.zeros(3, dtype=torch.float64), 0.49 * torch.eye(3, dtype=torch.float64))
    model, x = white.denoiser(sde, 0.7), normal(5, 3)
    top = sde.level(0.99 * sde.T)  # alpha > 0
    grid = FixedGrid((top.t, 0.5 * sde.T, 0.2 * sde.T, sde.t_min))
    solver = ExponentialAdams(order, PolarFrame(), coordinate)
    end = sd.sample(model, x=x, solver=solver, grid=grid, steps=3, denoise=False)
    assert close(end, white.flow(x, top, sde.level(sde.t_min)), 1e-12)


@pytest.mark.parametrize(
    "solver", [ExponentialAdams(3), DEIS(3), UniPC(3), UniPC(3, EpsFrame()), UniC()], ids=label
)
def test_a_solve_passes_alpha_zero_by_the_step_of_ddim(solver, mixture):
    sde = RectifiedFlow()
    model, x = mixture.denoiser(sde), normal(6, 2)
    ends = [
        sd.sample(model, x=x, solver=each, grid=FixedGrid((1.0, 0.6)), steps=1, denoise=False)
        for each in (solver, DDIM())
    ]
    assert close(*ends)
    exact = sd.sample(model, x=x, solver=DormandPrince(rtol=1e-10, atol=1e-10), denoise=False)
    assert close(sd.sample(model, x=x, solver=solver, steps=100, denoise=False), exact, 0.01)
    code = sd.encode(model, exact, solver=solver, steps=100)
    assert code.isfinite().all()
    assert close(sd.decode(model, code, solver=solver, steps=100), exact, 0.02)


def test_unic_corrects_from_where_a_state_was_moved_to(mixture):
    model, x = mixture.denoiser(VPSDE()), normal(6, 2)
    field, solver, push = Field(model), UniC(), 0.1 * normal(6, 2, seed=1)
    start, here, there = (model.sde.level_at(lam) for lam in (-2.0, -1.5, -1.2))
    first = solver.step(field, x, start, here, solver.init(field, x, start), None)
    unmoved = UniPC(2).step(field, x, start, here, None, None)
    moved = [
        each.step(field, first.x + push, here, there, state, None).x
        for each, state in ((solver, first.state), (UniPC(2), unmoved.state))
    ]
    assert close(*moved)


def test_unic_adds_no_network_call(mixture):
    for inner in (DDIM(), Heun(), PNDM(), DPMSolverPP(3)):
        model = mixture.denoiser(VPSDE())
        for how in ({"denoise": True}, {"denoise": False}):
            calls = [
                sd.solve(model, x=normal(2, 2), solver=each, steps=6, **how).nfe
                for each in (inner, UniC(inner))
            ]
            assert calls[0].tolist() == calls[1].tolist()


@pytest.mark.parametrize(
    "solver",
    [
        *(DDIM(1.0), DormandPrince(), AdamsPC(), UniPC(), UniC(), sd.AnnealedLangevin()),
        *(sd.StochasticAdamsPC(0.0), sd.SASolver(2, 1, tau=0.0)),
    ],
    ids=label,
)
def test_unic_refuses_what_it_cannot_correct(solver):
    with pytest.raises(ValueError, match=r"solver=.*deterministic"):
        UniC(solver)


def test_unic_goes_on_sa_solver_without_its_corrector(mixture):
    model, x = mixture.denoiser(VPSDE()), normal(6, 2)
    ends = [
        sd.sample(model, x=x, solver=UniC(inner), steps=8)
        for inner in (sd.SASolver(2, 0, tau=0.0), ExponentialAdams(2))
    ]
    assert close(*ends)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ExponentialAdams(5), "order=5"),
        (lambda: DEIS(0), "order=0"),
        (lambda: UniP(0), "order=0"),
        (lambda: UniPC(0), "order=0"),
        (lambda: IPNDM(5), "nodes=5"),
        (lambda: UniC(nodes=0), "nodes=0"),
    ],
)
def test_bad_orders_are_refused(make, name):
    with pytest.raises(ValueError, match=name):
        make()


def test_unipc_of_any_order_goes_on(mixture):
    model, x = mixture.denoiser(VESDE(0.01, 10.0)), 10.0 * normal(6, 2)
    exact = sd.sample(model, x=x, solver=DormandPrince(rtol=1e-11, atol=1e-11), denoise=False)
    found = sd.sample(model, x=x, solver=UniPC(6, PolarFrame()), steps=200, denoise=False)
    assert close(found, exact, 1e-4)
