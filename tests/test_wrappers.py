"""Restart and churn, over any solver."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from conftest import generator, spread
from solver_examples import label, model_on

import scoresde as sd
from scoresde import (
    DDIM,
    EDMSDE,
    VESDE,
    VPSDE,
    AdamsPC,
    BrownianNoise,
    Churned,
    DormandPrince,
    DPMSolverPP,
    EulerMaruyama,
    FixedGrid,
    Gaussian,
    Heun,
    InjectedNoise,
    KarrasGrid,
    Langevin,
    Noised,
    PredictorCorrector,
    RecordedNoise,
    RectifiedFlow,
    Restart,
    Solver,
    Step,
    SubVPSDE,
    UniC,
    UniformGrid,
)
from scoresde.sde import forward_kernel
from scoresde.testing import law, marginal, weak_error

DATA = Gaussian(torch.tensor([0.7, -0.4], dtype=torch.float64), spread(0.6, 0.05))


@dataclass(frozen=True)
class Flow(Solver):
    """The exact probability flow of Gaussian data."""

    order = 1
    stochastic = False

    def step(self, field, x, here, there, state, noise):
        return Step(DATA.flow(x, here, there))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


WRAPPED = [
    Restart(Flow(), bottom=0.5, top=3.0, steps=2, repeats=3),
    Restart(Restart(Flow(), bottom=0.3, top=0.4), bottom=0.5, top=5.0, steps=1, repeats=1),
    Restart(Churned(Flow(), 0.5), bottom=0.5, top=3.0),
    Churned(Flow(), 0.3),
    Noised(Flow(), 1.0),
    Noised(Flow(), lambda level: 2.0 * level.sigma if level.alpha < 0.9 else 0.0),
    Restart(Churned(Flow(), 0.5), bottom=0.3, top=0.4, repeats=1),
    Churned(Flow(), lambda level: 2.0 * level.sigma if level.alpha < 0.9 else 0.0),
]


@pytest.mark.parametrize("solver", WRAPPED, ids=label)
@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE(0.05, 20.0), RectifiedFlow(T=0.99)])
def test_wrappers_leave_the_marginals_as_they_are(solver, sde):
    exact = marginal(DATA, sde.level(sde.t_min))
    for steps in (1, 6):
        found = law(solver, sde, DATA, steps=steps, denoise=False)
        assert weak_error(found, exact) < 1e-11


@pytest.mark.parametrize("sde", [VESDE(), RectifiedFlow()])
def test_churn_goes_no_farther_than_the_process(sde, mixture):
    model, levels = mixture.denoiser(sde), []
    model.register_forward_pre_hook(lambda _, args: levels.append(args[1].t))
    sd.sample(model, (2, 2), solver=Churned(DDIM(), 1e30), steps=4, seed=0)
    assert levels == [sde.T] * 4


def heun(model, sde, x, sigmas):
    for sigma, after in pairwise(sigmas):
        slope = (x - model(x, sde.level(sigma)).x0) / sigma
        euler = x + (after - sigma) * slope
        second = (euler - model(euler, sde.level(after)).x0) / after
        x = x + (after - sigma) * 0.5 * (slope + second)
    return x


def karras(top, bottom, steps):
    ends = top ** (1 / 7), bottom ** (1 / 7)
    return [(ends[0] + i / steps * (ends[1] - ends[0])) ** 7 for i in range(steps + 1)]


def test_restart_on_edm_is_algorithm_1(mixture):
    sde = EDMSDE()
    model, x = mixture.denoiser(sde), 80.0 * normal(6, 2)
    draws = [normal(6, 2, seed=k) for k in range(2)]
    main = karras(80.0, 0.002, 17)
    k = next(i for i, sigma in enumerate(main) if sigma <= 0.06)
    y = heun(model, sde, x, main[: k + 1])
    for z in draws:
        y = y + math.sqrt(0.3**2 - main[k] ** 2) * z
        y = heun(model, sde, y, karras(0.3, main[k], 3))
    y = heun(model, sde, y, main[k:])
    how = {"grid": KarrasGrid(), "steps": 18, "noise": InjectedNoise(draws)}
    found = sd.sample(model, x=x, solver=Restart(Heun(), 0.06, 0.3, 3, 2), **how)
    expected = model(y, sde.level(0.002)).x0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", [AdamsPC(3), DPMSolverPP(3)], ids=label)
def test_history_starts_at_the_top_and_goes_on_from_the_bottom(solver, mixture):
    sde = VPSDE()
    model, x, z = mixture.denoiser(sde), normal(6, 2), normal(6, 2, seed=1)
    wrapped = Restart(solver, bottom=0.5, top=2.0, steps=3, repeats=1)
    solution = sd.solve(
        model, x=x, solver=wrapped, steps=9, noise=InjectedNoise([z]), denoise=False
    )
    above, below = (
        [level for level in solution.levels if (level.sigma > 0.5 * level.alpha) == up]
        for up in (True, False)
    )
    top = sde.level_at(-math.log(2.0))
    main = FixedGrid(tuple(level.t for level in (*above, below[0])))
    y = sd.sample(model, x=x, solver=solver, grid=main, steps=len(above), denoise=False)
    scale, std = forward_kernel(below[0], top)
    again = KarrasGrid().times(replace(sde, T=top.t, t_min=below[0].t), 3)
    times = (*again, *(level.t for level in below[1:]))
    how = {"grid": FixedGrid(times), "steps": len(times) - 1, "denoise": False}
    expected = sd.sample(model, x=scale * y + std * z, solver=solver, **how)
    torch.testing.assert_close(solution.x, expected, rtol=1e-12, atol=1e-12)


def test_calls_of_a_restart():
    solver = Restart(Heun(), bottom=0.06, top=0.3, steps=3, repeats=2)
    assert solver.nfe(10, denoise=True) == 2 * 9 + 1 + 2 * 3 * 2
    assert solver.nfe(1, denoise=True) == 1
    twice = Restart(solver, bottom=1.0, top=2.0, steps=4, repeats=1)
    assert twice.nfe(10, denoise=True) == solver.nfe(10, denoise=True) + 4 * 2
    predictor = Restart(PredictorCorrector(DDIM(), sd.MALA(), 2), steps=2, repeats=1)
    for each in (twice, predictor, PredictorCorrector(twice, correct_first=True)):
        for steps in (1, 2, 7):
            model = model_on()
            sd.sample(model, (1, 2), solver=each, steps=steps, seed=0)
            assert model.net.calls == each.nfe(steps, denoise=True)


def test_churn_walks_no_span_of_a_brownian_path_twice():
    # wiring only: no draw of 4000 samples correlates with another, |z| <= 5.03
    sde, n = VPSDE(t_min=0.2), 4000
    record = RecordedNoise(BrownianNoise(0, sde.t_min, sde.T, resolution=2**-8))
    solver = Churned(EulerMaruyama(), 1.0)
    how = {"solver": solver, "grid": UniformGrid(), "steps": 6, "denoise": False}
    sd.sample(model_on(sde), (n, 1), noise=record, **how)
    correlation = torch.corrcoef(torch.cat(record.draws, 1).T)
    assert float((correlation - torch.eye(len(correlation))).abs().max()) < 5.03 / math.sqrt(n)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Restart(bottom=1.0, top=0.5), r"top=0.5 must be finite and above 1"),
        (lambda: Restart(steps=0), r"steps=0 must be an integer, 1 or more"),
        (lambda: Restart(DormandPrince()), r"solver=DormandPrince.*takes no steps on a grid"),
        (lambda: Restart(Langevin()), r"solver=Langevin"),
        (lambda: Churned(amount=-0.1), r"amount=-0.1"),
        (lambda: Churned(amount=math.inf), r"amount=inf"),
        (lambda: Churned(inflation=-1.0), r"inflation=-1.0"),
        (lambda: Churned(inflation=math.nan), r"inflation=nan"),
        (lambda: Churned(Langevin()), r"solver=Langevin"),
        (lambda: Churned(Restart()), r"solver=Restart.*put Restart outside"),
    ],
)
def test_what_cannot_be_wrapped_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *((Noised, "solver"), (Churned, "solver"), (Restart, "solver"), (UniC, "solver")),
        (PredictorCorrector, "predictor"),
        (lambda value: PredictorCorrector(corrector=value), "corrector"),
    ],
)
def test_what_is_no_solver_is_refused_by_its_name(make, name):
    with pytest.raises(TypeError, match=rf"^{name}=.* is no Solver; give an instance, Heun\("):
        make(Heun)
    with pytest.raises(TypeError, match=rf"^{name}='DDIM' is no Solver$"):
        make("DDIM")


def test_unic_sees_through_noise():
    with pytest.raises(ValueError, match=r"solver=Noised.*does not correct itself"):
        UniC(Noised(AdamsPC(), 0.0))
    assert UniC(Noised(DPMSolverPP(), 0.0)).order == 3


def test_what_cannot_be_solved_is_refused_at_the_start():
    for solver in (Restart(bottom=1e-5), Restart(top=1e3)):
        with pytest.raises(ValueError, match=r"solver=Restart.*VPSDE.*choose bottom and top"):
            sd.sample(model_on(), (2, 3), solver=solver, steps=4)
    with pytest.raises(ValueError, match=r"solver=AdamsPC.*keeps a history; take a one-step"):
        sd.sample(model_on(), (2, 3), solver=Churned(AdamsPC()), steps=4)
    with pytest.raises(ValueError, match=r"FixedGrid.* leads from t=1.0 to 0.0.*t_min"):
        sd.sample(model_on(), (2, 3), solver=Churned(), grid=FixedGrid((1.0, 0.0)))
    level = VPSDE().level(torch.tensor([[0.5], [0.6]]))
    for solver in (Restart(), Churned()):
        with pytest.raises(ValueError, match=r"solver=.*one level for the whole batch"):
            solver.init(sd.Field(model_on()), torch.ones(2, 1), level)
