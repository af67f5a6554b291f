"""Solvers of the reverse SDE with any amount of noise: identities, recursions, laws and paths."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import PROCESSES, generator
from solver_examples import bell, label

import scoresde as sd
from scoresde import (
    DDIM,
    ERSDE,
    SEEDS,
    VESDE,
    VPSDE,
    AdaptiveSDE,
    BrownianNoise,
    CosineVPSDE,
    DPMSolverPP,
    FixedGrid,
    Gaussian,
    InjectedNoise,
    LogSNRGrid,
    RectifiedFlow,
    SASolver,
    SDEDPMSolverPP,
    SeededNoise,
    StochasticAdamsPC,
)
from scoresde.solvers.interpolation import exponential_weights
from scoresde.testing import PANEL, ExactReverse, convergence, law, marginal, weak_error

GRID = FixedGrid((1.0, 0.8, 0.55, 0.4, 0.2, 0.1))


def close(a, b, tol=1e-12):
    return float((a - b).abs().max()) <= tol * float(b.abs().max())


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def run(model, solver, denoise=False, draws=5, **how):
    """Return where five uneven steps take a fixed start, with the same draws for every solver."""
    noise = InjectedNoise([normal(6, 2, seed=k) for k in range(1, draws + 1)])
    how = {"grid": GRID, "steps": 5, "noise": noise} | how
    return sd.sample(model, x=normal(6, 2), solver=solver, denoise=denoise, **how)


def scalar(std, dtype=torch.float64):
    return Gaussian(torch.zeros(1, dtype=dtype), torch.full((1, 1), std * std, dtype=dtype))


def worst(solver, sde, steps, stds, grid=None, told=False):
    """Return the largest |log(variance / exact)| over data of these deviations."""
    errors = []
    for std in stds:
        data = scalar(std)
        model, exact = (
            data.denoiser(sde, std if told else 1.0),
            marginal(data, sde.level(sde.t_min)),
        )
        found = law(solver, sde, data, grid, steps=steps, denoise=False, model=model)
        errors.append(abs(math.log(float(found.covariance / exact.covariance))))
    return max(errors)


# Identities


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SDEDPMSolverPP(1), DDIM(1.0)),
        (SDEDPMSolverPP(1, tau=0.0), DDIM(0.0)),
        (SDEDPMSolverPP(2, tau=0.0), DPMSolverPP(2)),
        (SDEDPMSolverPP(3, tau=0.0), DPMSolverPP(3)),
        (SASolver(1, 0, tau=0.4), SDEDPMSolverPP(1, tau=0.4)),
        (SASolver(3, 2, tau=lambda level: 0.7), SASolver(3, 2, tau=0.7)),
        (SEEDS(1, tau=0.6), SDEDPMSolverPP(1, tau=0.6)),
        (ERSDE(1, phi=lambda rho: rho**1.36), SDEDPMSolverPP(1, tau=0.6)),
        (ERSDE(1, phi=lambda rho: rho**2), DDIM(1.0)),
    ],
    ids=label,
)
def test_methods_with_two_names_are_the_same(one, other, mixture):
    model = mixture.denoiser(VPSDE(), 0.8)
    assert close(run(model, one), run(model, other))


@pytest.mark.parametrize("rate", [1.0, 1.25, 2.0, 26.0, 401.0, 1e4])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_weights_of_a_step_are_right_for_any_amount_of_noise(count, rate):
    # integrals of Lagrange's polynomials in decimals enough, by parts
    nodes = [0.7, 0.1, -0.6, -1.0, -1.9][:count]
    for start, stop in ((0.7, 0.7 + 1e-3), (0.7, 2.5), (0.1, 0.7)):
        with localcontext(prec=120):
            h, k = Decimal(stop) - Decimal(start), Decimal(rate)
            powers = [1 - (-k * h).exp()]
            for n in range(1, count):
                powers.append(h**n - n / k * powers[-1])
            exact = []
            for node in nodes:
                others = [Decimal(other) for other in nodes if other != node]
                poly = [Decimal(1)]
                for other in others:
                    shift = other - Decimal(start)
                    raised = zip([0, *poly], [*poly, 0], strict=True)
                    poly = [(a - shift * b) / (Decimal(node) - other) for a, b in raised]
                exact.append(float(sum(c * p for c, p in zip(poly, powers, strict=True))))
        found = exponential_weights(nodes, start, stop, rate)
        scale = max(map(abs, exact))
        assert max(abs(a - b) for a, b in zip(found, exact, strict=True)) < 2e-13 * scale


def integral(nodes, start, stop, rate):
    """Return the weights of x0 at nodes by a polynomial fit and a fine quadrature."""
    points, weights = np.polynomial.legendre.leggauss(60)
    lam = 0.5 * (stop + start) + 0.5 * (stop - start) * points
    density = 0.5 * (stop - start) * weights * rate * np.exp(-rate * (stop - lam))
    powers = np.vander(np.array(nodes) - start, increasing=True)
    moments = np.vander(lam - start, len(nodes), increasing=True).T @ density
    return np.linalg.solve(powers.T, moments)


def exact_step(x, here, there, tau, z, integral_of_x0):
    h = there.lam - here.lam
    keep, share = math.exp(-tau * tau * h), -math.expm1(-2.0 * tau * tau * h)
    drift = there.sigma / here.sigma * keep * x + there.alpha * integral_of_x0
    return drift + there.sigma * math.sqrt(share) * z


@pytest.mark.parametrize(("predictor", "corrector"), [(1, 1), (2, 2), (3, 1), (2, 3)])
@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
def test_sa_solver_line_by_line(predictor, corrector, tau, mixture):
    sde, rate = VPSDE(), 1.0 + tau * tau
    model, levels = mixture.denoiser(sde, 0.8), GRID.levels(sde, 5)
    base = x = normal(6, 2)
    seen = []
    for k, (here, there) in enumerate(pairwise(levels)):
        seen.insert(0, (here.lam, model(x, here).x0))
        if k:
            used = seen[: corrector + 1]
            w = integral([lam for lam, _ in used], levels[k - 1].lam, here.lam, rate)
            moved = sum(a * x0 for a, (_, x0) in zip(w, used, strict=True))
            x = exact_step(base, levels[k - 1], here, tau, normal(6, 2, seed=k), moved)
        base, used = x, seen[:predictor]
        w = integral([lam for lam, _ in used], here.lam, there.lam, rate)
        moved = sum(a * x0 for a, (_, x0) in zip(w, used, strict=True))
        x = exact_step(base, here, there, tau, normal(6, 2, seed=k + 1), moved)
    assert close(run(model, SASolver(predictor, corrector, tau)), x, 1e-10)


@pytest.mark.parametrize("tau", [0.5, 1.0, bell])
def test_stochastic_adams_pc_line_by_line(tau, mixture):
    sde = VPSDE()
    model, levels = mixture.denoiser(sde, 0.8), GRID.levels(sde, 5)
    base = x = normal(6, 2)
    x0, slope, rate = x, x, 1.0
    for k, here in enumerate(levels):
        new = model(x, here).x0
        if k:
            before = levels[k - 1]
            h, line = here.lam - before.lam, x0 + (here.lam - before.lam) * slope
            share = (h + math.expm1(-rate * h) / rate) / h  # of the new x0 in the integral
            x = x + here.alpha * share * (new - line)
            new = new + 0.75 * share * (new - line)
        if k == 5:
            break
        there = levels[k + 1]
        h, amount = there.lam - here.lam, tau(here) if callable(tau) else tau
        rate = 1.0 + amount**2
        slope = (new - x0) / (here.lam - before.lam) / (1.0 + 0.8 * rate * h) if k else 0.0 * new
        x0, base = new, x
        moved = -math.expm1(-rate * h) * x0 + (h + math.expm1(-rate * h) / rate) * slope
        x = exact_step(base, here, there, amount, normal(6, 2, seed=k + 1), moved)
        if k == 4:
            assert close(run(model, StochasticAdamsPC(tau)), x, 1e-10)
    # with a last step to sigma = 0 the end is the corrected x0
    found = run(model, StochasticAdamsPC(tau), denoise=True, steps=6)
    assert close(found, new, 1e-10)


def test_seeds_stages_share_one_path(mixture):
    # two stages line by line: the noise of a step is what the second half makes of the first's
    sde, tau = VPSDE(), 0.8
    model, levels = mixture.denoiser(sde, 0.8), GRID.levels(sde, 5)
    x, rate = normal(6, 2), 1.0 + tau * tau
    for k, (here, there) in enumerate(pairwise(levels)):
        middle = sde.level_at(0.5 * (here.lam + there.lam))
        z1, z2 = (normal(6, 2, seed=2 * k + j) for j in (1, 2))
        h = there.lam - here.lam
        half = exact_step(x, here, middle, tau, z1, -math.expm1(-rate * h / 2) * model(x, here).x0)
        x0 = model(half, middle).x0
        part = exact_step(0.0 * x, here, middle, tau, z1, 0.0)
        shock = exact_step(part, middle, there, tau, z2, 0.0)
        x = exact_step(x, here, there, tau, 0.0, -math.expm1(-rate * h) * x0) + shock
    assert close(run(model, SEEDS(2, tau), draws=10), x, 1e-10)


def test_er_sde_integrates_its_polynomial(mixture):
    # x0 weights against a fine sum over the measure d(phi_s / phi), two steps before the third
    sde, phi = VPSDE(), ERSDE().phi
    levels = GRID.levels(sde, 5)
    rho = [level.sigma / level.alpha for level in levels]
    nodes, stop = rho[2::-1], rho[3]
    found = ERSDE(3)._weights(nodes, stop, phi(stop) / phi(nodes[0]))
    grid = np.exp(np.linspace(math.log(nodes[0]), math.log(stop), 200_001))
    measure = np.diff(phi(stop) / np.array([phi(r) for r in grid.tolist()]))
    middles = np.sqrt(grid[1:] * grid[:-1])
    moments = np.vander(middles - nodes[0], 3, increasing=True).T @ measure
    expected = np.linalg.solve(np.vander(np.array(nodes) - nodes[0], increasing=True).T, moments)
    assert np.allclose(found, expected, rtol=1e-7, atol=1e-9)


# Laws

CLEAN_ORDERS = [
    (SDEDPMSolverPP(1), 1),
    (SDEDPMSolverPP(2), 2),
    (SDEDPMSolverPP(3), 2),
    (SASolver(1, 0), 1),
    (SASolver(1, 1), 2),
    (SASolver(2, 2), 2),
    (SASolver(3, 3), 2),
    (SASolver(2, 2, tau=0.0), 3),
    (SEEDS(1), 1),
    (SEEDS(2), 2),
    (SEEDS(3, tau=0.5), 2),
    (SEEDS(3, tau=0.0), 3),
    (ERSDE(1), 1),
    (ERSDE(2), 2),
    (StochasticAdamsPC(), 2),
    (StochasticAdamsPC(bell), 2),
]


@pytest.mark.parametrize(("solver", "order"), CLEAN_ORDERS, ids=label)
def test_weak_order(solver, order):
    for problem in (PANEL[1], PANEL[7]):  # VP, VE
        curve = convergence(solver, problem, (128, 256), exact_start=not solver.stochastic)
        assert -0.25 <= curve.order - order <= 0.8, str(curve)
        assert curve.errors[-1] < 0.05
        assert solver.order == order


# calls, and the weak error wanted of full noise at them
WANTED = ((10, 4.9e-2), (20, 1.2e-2), (50, 1.9e-3), (100, 4e-4))


@pytest.mark.parametrize(("steps", "wanted"), WANTED)
def test_weak_error_of_the_default_at_full_noise(steps, wanted):
    solver = StochasticAdamsPC()
    assert worst(solver, VPSDE(), steps, (0.1, 0.25, 0.5, 1.0, 2.0)) < wanted
    for sde in (VPSDE(), VESDE(), CosineVPSDE()):
        assert worst(solver, sde, steps, (0.1, 0.35, 0.7, 1.5)) < 1.1 * wanted
        assert worst(solver, sde, steps, (0.02, 0.05), told=True) < wanted


def test_weak_error_of_the_default_in_several_dimensions(gaussian):
    sde = VPSDE()
    model, exact = gaussian.denoiser(sde, 1.0), marginal(gaussian, sde.level(sde.t_min))
    for steps, wanted in WANTED:
        found = law(StochasticAdamsPC(), sde, gaussian, steps=steps, denoise=False, model=model)
        assert weak_error(found, exact) < wanted


@pytest.mark.parametrize("solver", [SDEDPMSolverPP(2), SDEDPMSolverPP(3), SASolver()], ids=label)
def test_the_default_beats_the_others_at_few_calls(solver):
    for grid in (None, LogSNRGrid()):
        error = worst(solver, VPSDE(), 10, (0.1, 0.5, 2.0), grid)
        assert worst(StochasticAdamsPC(), VPSDE(), 10, (0.1, 0.5, 2.0), grid) < 0.6 * error


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_exact_reverse_has_no_error(process, steps, gaussian):
    sde = PROCESSES[process]
    found = law(ExactReverse(gaussian), sde, gaussian, steps=steps, denoise=False)
    assert weak_error(found, marginal(gaussian, sde.level(sde.t_min))) < 1e-11


def test_exact_reverse_serves_levels_of_each_samples_own(gaussian):
    sde, x, z = VPSDE(), normal(3, 4), normal(3, 4, seed=1)
    t, u = (torch.tensor(v, dtype=torch.float64)[:, None] for v in ([0.9, 0.5, 0.3], [0.2, 0.4, 0]))
    both = gaussian.reverse(x, sde.level(t), sde.level(u), z)
    for i in range(3):
        here, there = sde.level(float(t[i])), sde.level(float(u[i]))
        one = slice(i, i + 1)
        assert close(both[one], gaussian.reverse(x[one], here, there, z[one]))


# Paths

POINT = Gaussian(torch.tensor([0.6, -0.2]).double(), torch.zeros(2, 2).double())


@pytest.mark.parametrize(
    "solver",
    [
        StochasticAdamsPC(),
        StochasticAdamsPC(0.3),
        SASolver(2, 2),
        SDEDPMSolverPP(3, tau=0.9),
        SEEDS(3),
        ERSDE(2),
        AdaptiveSDE(0.1, 0.1, tau=0.7),
    ],
    ids=label,
)
def test_on_one_point_finer_steps_follow_the_same_path_exactly(solver):
    # x0 is constant, so nothing but the noise is left to get wrong
    sde = VPSDE(t_min=0.05)
    model, x = POINT.denoiser(sde, 1.0), normal(5, 2)
    span = sorted(float(solver.clock(sde.level(t))) for t in (sde.t_min, sde.T))
    margin = 1e-12 * span[1] - 1e-12 * span[0]
    noise = BrownianNoise(3, span[0] - margin, span[1] + margin)
    one = SDEDPMSolverPP(1, solver.tau) if hasattr(solver, "tau") else ERSDE(1)
    ends = [sd.sample(model, x=x, solver=one, steps=1, noise=noise, denoise=False)]
    for steps in (None,) if isinstance(solver, AdaptiveSDE) else (2, 7):
        ends.append(sd.sample(model, x=x, solver=solver, steps=steps, noise=noise, denoise=False))
        # a path at two roundings of one clock differs by the root of their difference
        assert close(ends[-1], ends[0], 1e-7)


def test_adaptive_steps_converge_on_the_path(gaussian):
    sde = VPSDE(t_min=0.1)
    model, x = gaussian.denoiser(sde, 1.0), normal(8, 4)
    stop = float(SDEDPMSolverPP().clock(sde.level(sde.t_min)))
    noise = BrownianNoise(1, 1.000001 * stop, 0.0, resolution=2**-30)
    how = {"x": x, "noise": noise, "denoise": False}
    exact = sd.sample(model, solver=SDEDPMSolverPP(), steps=100, grid=LogSNRGrid(), **how)
    solutions = [sd.solve(model, solver=AdaptiveSDE(tol, tol), **how) for tol in (0.3, 0.01)]
    coarse, fine = (float((s.x - exact).square().mean().sqrt()) for s in solutions)
    assert coarse > 3.0 * fine, (coarse, fine)
    assert fine < 0.15
    assert float(solutions[0].nfe.double().mean()) < float(solutions[1].nfe.double().mean())


@pytest.mark.parametrize("tau", [bell, lambda level: (level.lam.abs() < 2.0).double()])
def test_adaptive_samples_do_not_depend_on_batch_mates(tau, mixture):
    model, x = mixture.denoiser(VPSDE(), 0.8), normal(4, 2)
    how = {"solver": AdaptiveSDE(0.1, 0.1, tau=tau)}
    whole = sd.solve(model, x=x, seed=3, **how)
    alone = sd.solve(model, x=x[2:3], noise=SeededNoise(3, start=2), **how)
    assert torch.equal(alone.x[0], whole.x[2])
    assert torch.equal(alone.nfe[0], whole.nfe[2])
    assert not torch.equal(sd.sample(model, x=x, seed=4, **how), whole.x)


def test_adaptive_law_is_that_of_the_data():
    # fixed seed, |z| <= 5 for mean and variance; the tolerance leaves less than a deviation of z
    sde, n, data = VPSDE(t_min=0.02), 2000, scalar(0.5)
    model, exact = data.denoiser(sde, 1.0), marginal(data, sde.level(0.02))
    start = float(marginal(data, sde.level(1.0)).covariance) ** 0.5 * normal(n, 1)
    x = sd.sample(model, x=start, solver=AdaptiveSDE(0.02, 0.02), seed=0, denoise=False)
    variance = float(exact.covariance)
    assert abs(float(x.mean())) < 5.0 * math.sqrt(variance / n)
    assert abs(float(x.var()) / variance - 1.0) < 5.0 * math.sqrt(2.0 / n)


@pytest.mark.parametrize("tau", [0.3, 1.0, 1.5, 3.0, 12.0, 1e3])
def test_no_amount_of_noise_outgrows_the_clock(tau):
    # every level has a time of its own, all of them of the size that the Brownian series serves
    for sde in (VPSDE(), VESDE(), CosineVPSDE()):
        times = [SDEDPMSolverPP(tau=tau).clock(at) for at in LogSNRGrid().levels(sde, 400)]
        assert len(set(times)) == 401
        assert max(map(abs, times)) < 2.0**52 * min(map(abs, times))


def test_adaptive_law_at_much_noise():
    # wiring only: white data stay white, |z| <= 5 for the variance
    sde, n, white = VPSDE(t_min=0.02), 1000, scalar(1.0)
    how = {"solver": AdaptiveSDE(0.1, 0.1, tau=3.0), "seed": 1, "denoise": False}
    x = sd.sample(white.denoiser(sde, 1.0), x=normal(n, 1), **how)
    assert abs(float(x.var()) - 1.0) < 5.0 * math.sqrt(2.0 / n)


def test_adaptive_steps_need_a_path(mixture):
    model = mixture.denoiser(VPSDE())
    draws = InjectedNoise([normal(2, 2)] * 99)
    with pytest.raises(ValueError, match=r"noise=.*adaptive steps need; give SeededNoise"):
        sd.sample(model, x=normal(2, 2), solver=AdaptiveSDE(), noise=draws)


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StochasticAdamsPC(-0.1), r"tau=-0.1"),
        (lambda: SDEDPMSolverPP(4), r"nodes=4"),
        (lambda: SASolver(5, 1), r"predictor=5"),
        (lambda: SASolver(1, 5), r"corrector=5"),
        (lambda: SEEDS(0), r"stages=0"),
        (lambda: ERSDE(4), r"nodes=4"),
        (lambda: ERSDE(2, phi=lambda rho: rho**0.5), r"phi=.*negative variance"),
        (lambda: ERSDE(2, phi=lambda rho: rho**401), r"phi=.*floats do not hold"),
        (lambda: AdaptiveSDE(rtol=0.0), r"rtol=0.0"),
        (lambda: AdaptiveSDE(tau=math.nan), r"tau=nan"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_phi_that_falls_on_the_way_is_named(mixture):
    dip = ERSDE(2, phi=lambda rho: rho * (1.0 + (rho > 0.2) - (0.5 < rho < 0.9)))
    with pytest.raises(ValueError, match=r"phi=.*falls as rho rises .*negative variance"):
        sd.sample(mixture.denoiser(VPSDE()), (2, 2), solver=dip, steps=30, seed=0)


@pytest.mark.parametrize("solver", [SEEDS(2), AdaptiveSDE()], ids=label)
def test_an_infinite_lam_is_refused_with_a_remedy(solver):
    model = scalar(0.5).denoiser(RectifiedFlow())
    with pytest.raises(ValueError, match=r"solver=.*RectifiedFlow.*smaller T, or StochasticAdams"):
        sd.sample(model, (2, 1), solver=solver, seed=0)


def test_noise_where_it_is_wanted_and_nowhere_else(mixture):
    # draws at the levels with tau = 0 change nothing
    model, x = mixture.denoiser(VPSDE(), 0.8), normal(6, 2)
    solver = StochasticAdamsPC(lambda level: float(level.t > 0.5))
    ends = []
    for seed in (8, 9):
        draws = [normal(6, 2, seed=k if k < 3 else seed) for k in range(5)]
        how = {"x": x, "grid": GRID, "steps": 5, "denoise": False}
        ends.append(sd.sample(model, solver=solver, noise=InjectedNoise(draws), **how))
    assert torch.equal(*ends)
