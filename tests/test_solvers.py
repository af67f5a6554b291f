"""Solvers against each other, and against the papers' own formulas."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from conftest import PROCESSES, generator
from solver_examples import SOLVERS, GivenNoise, couples, label, shares_levels, zeros

import scoresde as sd
from scoresde import (
    CLEAN,
    DDIM,
    DEIS,
    EDMSDE,
    IPNDM,
    VESDE,
    VPSDE,
    AdamsPC,
    Ancestral,
    AnnealedLangevin,
    Churned,
    DPMSolverPP,
    EpsFrame,
    Euler,
    EulerMaruyama,
    Field,
    FixedGrid,
    GaussianSDE,
    Heun,
    InjectedNoise,
    KarrasGrid,
    Langevin,
    Level,
    PredictorCorrector,
    ReverseDiffusion,
    Rho,
    UniC,
    UniformGrid,
    UniPC,
)


def close(a, b, tol=1e-12):
    return float((a - b).abs().max()) <= tol * float(b.abs().max())


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_ddim_on_vp_is_euler_in_sigma_on_the_rescaled_variable(mixture):
    sde = VPSDE()
    model, x = mixture.denoiser(sde), normal(6, 2)
    levels = UniformGrid().levels(sde, 50)
    y = x / levels[0].alpha
    for here, there in pairwise(levels):
        eps = -here.sigma * model(y * here.alpha, here).score
        y = y + (there.sigma / there.alpha - here.sigma / here.alpha) * eps
    end = sd.sample(model, x=x, solver=DDIM(), grid=UniformGrid(), steps=50, denoise=False)
    assert close(end, y * levels[-1].alpha)


def test_first_order_dpm_solver_is_ddim(sde, mixture):
    model, x = mixture.denoiser(sde), normal(6, 2)
    ends = [
        sd.sample(model, x=x, solver=solver, steps=20, denoise=False)
        for solver in (DPMSolverPP(1), DDIM())
    ]
    assert close(*ends)


def test_ddim_of_eta_one_is_ancestral_sampling(sde, mixture):
    model, x = mixture.denoiser(sde), normal(6, 2)
    ends = [sd.sample(model, x=x, solver=s, steps=20, seed=3) for s in (DDIM(1.0), Ancestral())]
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", ["vp", "subvp", "ve", "cosine", "edm", "flow"])
def test_euler_maruyama_without_noise_is_euler(name, mixture):
    model, x = mixture.denoiser(PROCESSES[name]), normal(6, 2)
    ends = [sd.sample(model, x=x, solver=s, steps=30) for s in (EulerMaruyama(0.0), Euler())]
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("noisy", "plain"),
    [
        (DDIM, DDIM(0.0)),
        (EulerMaruyama, EulerMaruyama(0.0)),
        (ReverseDiffusion, ReverseDiffusion(0.0)),
        (lambda amount: Churned(Heun(), amount), Heun()),
    ],
    ids=["DDIM", "EulerMaruyama", "ReverseDiffusion", "Churned"],
)
def test_zero_noise_limit(noisy, plain, mixture):
    model, x = mixture.denoiser(VPSDE()), normal(6, 2)
    grid = sd.DensityGrid()  # the default one is wider where there is noise
    run = lambda solver: sd.sample(model, x=x, solver=solver, grid=grid, steps=10, seed=0)  # noqa: E731
    exact, far, near = run(plain), run(noisy(1e-4)), run(noisy(1e-6))
    assert close(near, exact, 0.01)
    assert float((near - exact).abs().max()) < 0.2 * float((far - exact).abs().max())


MAPS = {
    "square": (lambda u: u * u, math.sqrt),
    "root": (lambda u: u**0.5, lambda t: t * t),
    "sinh": (
        lambda u: (2.0 * u).sinh() / math.sinh(2.0),
        lambda t: math.asinh(t * math.sinh(2)) / 2,
    ),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(
    "solver",
    [
        *(DDIM(0.0), DDIM(0.5), DDIM(1.0), Ancestral(), Ancestral(forward_variance=True)),
        *(ReverseDiffusion(), *map(DPMSolverPP, (1, 2, 3)), *map(AdamsPC, (1, 2, 3, 4))),
        *(DEIS(3, Rho()), IPNDM(), UniPC(3), UniPC(2, EpsFrame()), UniC()),
        PredictorCorrector(DDIM(1.0), AnnealedLangevin()),
    ],
    ids=label,
)
def test_solvers_in_alpha_and_sigma_know_no_time(solver, name, mixture):
    onto, back = MAPS[name]
    plain = GaussianSDE(lambda t: torch.cos(1.4 * t), lambda t: 1.5 * torch.sin(1.4 * t))
    bent = GaussianSDE(
        lambda u: torch.cos(1.4 * onto(u)), lambda u: 1.5 * torch.sin(1.4 * onto(u)), t_min=1e-6
    )
    times = UniformGrid().times(plain, 12)
    grids = FixedGrid(times), FixedGrid(tuple(min(back(t), 1.0) for t in times))
    ends = []
    for sde, grid in zip((plain, bent), grids, strict=True):
        noise = InjectedNoise(normal(6, 2, seed=k) for k in range(24))
        how = {"solver": solver, "steps": 12, "noise": noise, "denoise": False}
        ends.append(sd.sample(mixture.denoiser(sde), x=normal(6, 2), grid=grid, **how))
    assert close(*ends, 1e-12)


def edm_sampler(denoise, x, sigmas, churn, span, inflation, draws):
    """Algorithm 2 of Karras et al. 2022, line by line; sigmas end at 0."""
    for sigma, after in pairwise(sigmas):
        gamma = churn if span[0] <= sigma <= span[1] else 0.0
        hat = sigma + gamma * sigma
        if gamma > 0.0:
            x = x + math.sqrt(hat**2 - sigma**2) * inflation * next(draws)
        slope = (x - denoise(x, hat)) / hat
        euler = x + (after - hat) * slope
        if after > 0.0:
            second = (euler - denoise(euler, after)) / after
            euler = x + (after - hat) * 0.5 * (slope + second)
        x = euler
    return x


@pytest.mark.parametrize("churn", [0.0, 0.3])
def test_churned_heun_on_edm_is_algorithm_2(churn, mixture):
    sde, steps, rho = EDMSDE(), 18, 7.0
    solver = Churned(Heun(), lambda level: churn if 0.05 <= level.sigma <= 50.0 else 0.0, 1.007)
    model, x = mixture.denoiser(sde), 80.0 * normal(6, 2)
    ends = [80.0 ** (1 / rho), 0.002 ** (1 / rho)]
    sigmas = [
        *((ends[0] + i / (steps - 1) * (ends[1] - ends[0])) ** rho for i in range(steps)),
        0.0,
    ]
    expected = edm_sampler(
        lambda x, sigma: model(x, sde.level(sigma)).x0,
        x, sigmas, churn, (0.05, 50.0), 1.007, (normal(6, 2, seed=k) for k in range(40)),
    )  # fmt: skip
    noise = InjectedNoise(normal(6, 2, seed=k) for k in range(40))
    found = sd.sample(model, x=x, solver=solver, grid=KarrasGrid(rho), steps=steps, noise=noise)
    assert close(found, expected, 1e-10)


def ddpm_terms(levels):
    """Return beta_i and alpha-bar_i, alpha-bar_{i-1} of each reverse step, as DDPM has them."""
    for here, there in pairwise(levels):
        bar, before = here.alpha**2, there.alpha**2
        yield here, 1.0 - bar / before, bar, before


@pytest.mark.parametrize("forward_variance", [False, True])
def test_ancestral_sampling_on_vp_is_that_of_ddpm(forward_variance, mixture):
    sde = VPSDE()
    model, x = mixture.denoiser(sde), normal(6, 2)
    levels, y = UniformGrid().levels(sde, 15), x
    for k, (here, beta, bar, before) in enumerate(ddpm_terms(levels)):
        eps = -here.sigma * model(y, here).score
        mean = (y - beta / math.sqrt(1 - bar) * eps) / math.sqrt(1 - beta)
        variance = beta if forward_variance else (1 - before) / (1 - bar) * beta
        y = mean + math.sqrt(variance) * normal(6, 2, seed=k)
    noise = InjectedNoise(normal(6, 2, seed=k) for k in range(15))
    solver = Ancestral(forward_variance=forward_variance)
    how = {"solver": solver, "grid": UniformGrid(), "noise": noise, "denoise": False}
    assert close(sd.sample(model, x=x, steps=15, **how), y, 1e-10)


def test_ddim_on_vp_is_equation_12(mixture):
    sde, eta = VPSDE(), 0.6
    model, x = mixture.denoiser(sde), normal(6, 2)
    levels, y = UniformGrid().levels(sde, 15), x
    for k, (here, _, bar, before) in enumerate(ddpm_terms(levels)):
        eps = -here.sigma * model(y, here).score
        x0 = (y - math.sqrt(1 - bar) * eps) / math.sqrt(bar)
        std = eta * math.sqrt((1 - before) / (1 - bar)) * math.sqrt(1 - bar / before)
        y = math.sqrt(before) * x0 + math.sqrt(1 - before - std**2) * eps
        y = y + std * normal(6, 2, seed=k)
    noise = InjectedNoise(normal(6, 2, seed=k) for k in range(15))
    how = {"solver": DDIM(eta), "grid": UniformGrid(), "noise": noise, "denoise": False}
    assert close(sd.sample(model, x=x, steps=15, **how), y, 1e-10)


def test_reverse_diffusion_on_vp_is_songs(mixture):
    sde = VPSDE()
    model, x = mixture.denoiser(sde), normal(6, 2)
    levels, y = UniformGrid().levels(sde, 15), x
    for k, (here, beta, _, _) in enumerate(ddpm_terms(levels)):
        score = model(y, here).score
        y = (2 - math.sqrt(1 - beta)) * y + beta * score + math.sqrt(beta) * normal(6, 2, seed=k)
    noise = InjectedNoise(normal(6, 2, seed=k) for k in range(15))
    how = {"solver": ReverseDiffusion(), "grid": UniformGrid(), "noise": noise, "denoise": False}
    assert close(sd.sample(model, x=x, steps=15, **how), y, 1e-10)


@pytest.mark.parametrize("solver", [ReverseDiffusion(), Ancestral()], ids=label)
def test_reverse_diffusion_and_ancestral_sampling_on_ve_are_songs(solver, mixture):
    sde = VESDE(0.01, 10.0)
    model, x = mixture.denoiser(sde), 10.0 * normal(6, 2)
    y = x
    for k, (here, there) in enumerate(pairwise(UniformGrid().levels(sde, 15))):
        rise = here.sigma**2 - there.sigma**2
        shrink = 1.0 if solver == ReverseDiffusion() else there.sigma / here.sigma
        y = y + rise * model(y, here).score + shrink * math.sqrt(rise) * normal(6, 2, seed=k)
    noise = InjectedNoise(normal(6, 2, seed=k) for k in range(15))
    how = {"solver": solver, "grid": UniformGrid(), "noise": noise, "denoise": False}
    assert close(sd.sample(model, x=x, steps=15, **how), y, 1e-10)


def test_langevin_is_songs_corrector_with_each_samples_own_norms(mixture):
    sde, snr = VPSDE(), 0.2
    model, level = mixture.denoiser(sde), sde.level(0.4)
    x, z = normal(6, 2), normal(6, 2, seed=1)
    score = model(x, level).score
    for mean in (False, True):
        up, down = z.norm(dim=1, keepdim=True), score.norm(dim=1, keepdim=True)
        up, down = (up.mean(), down.mean()) if mean else (up, down)
        e = 2.0 * (snr * up / down) ** 2
        expected = x + e * score + (2.0 * e) ** 0.5 * z
        solver = Langevin(snr, batch_mean_norms=mean)
        found = solver.step(Field(model), x, level, level, None, GivenNoise(z)).x
        assert close(found, expected)


def test_annealed_langevin_is_ncsns(mixture):
    sde, snr = VESDE(0.01, 10.0), 0.2
    model, level = mixture.denoiser(sde), sde.level(0.4)
    x, z = normal(6, 2), normal(6, 2, seed=1)
    e = 2.0 * (snr * level.sigma) ** 2
    expected = x + e * model(x, level).score + math.sqrt(2.0 * e) * z
    found = AnnealedLangevin(snr).step(Field(model), x, level, level, None, GivenNoise(z)).x
    assert close(found, expected)


@pytest.mark.parametrize(
    "solver",
    [s for s in SOLVERS if not shares_levels(s) and not couples(s)],
    ids=label,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_sample_may_have_its_own_levels(solver, dtype, mixture):
    sde = VPSDE()
    field, x = Field(mixture.denoiser(sde, 0.7)), normal(3, 2).to(dtype)
    grids = [tuple(scale * t for t in (0.9, 0.7, 0.6, 0.45)) for scale in (1.0, 0.9, 0.6)]
    z = torch.ones_like(x)

    def walk(x, noise, levels):
        state = solver.init(field, x, levels[0])
        for here, there in pairwise(levels):
            x, state, _ = solver.step(field, x, here, there, state, noise)
        return x, solver.finish(field, x, levels[-1], state, noise).x

    times = torch.tensor(grids, dtype=torch.float64).T[..., None]
    together = walk(x, GivenNoise(z), [sde.level(t) for t in times])
    for i, grid in enumerate(grids):
        alone = walk(x[i : i + 1], GivenNoise(z[i : i + 1]), [sde.level(t) for t in grid])
        for a, b in zip(together, alone, strict=True):
            assert a.dtype == dtype
            assert close(a[i : i + 1], b, 1e-11 if dtype == torch.float64 else 1e-4)


def test_step_to_clean_data_is_the_expected_data(sde, mixture):
    model, x = mixture.denoiser(sde), normal(6, 2)
    here = sde.level(0.5 * sde.T)
    for solver in SOLVERS:
        end = solver.finish(Field(model), x, here, None, zeros(x)).x
        assert shares_levels(solver) or close(end, model(x, here).x0, 1e-11), solver
    assert Level(0.0, 1.0, 0.0) == CLEAN
