"""Objects of other libraries behave as this library's own."""

import math
from itertools import pairwise

import pytest
import torch
import torchsde
from conftest import generator, spread
from scipy.integrate import DOP853, LSODA, RK45, OdeSolver
from solver_examples import model_on

import scoresde as sd
from scoresde.interop.scipy import SciPySolver
from scoresde.interop.torchsde import Method, TorchsdeNoise, TorchsdeSolver
from scoresde.testing import PANEL, convergence


def interval(**options):
    return torchsde.BrownianInterval(
        0.0, 1.0, size=(3, 2), dtype=torch.float64, entropy=7, **options
    )


def test_increments_of_a_refined_path_add_up():
    like = torch.empty(3, 2, dtype=torch.float64)
    noise = TorchsdeNoise(interval(halfway_tree=True, tol=1e-6))
    times = torch.linspace(0.0, 1.0, 17).tolist()
    fine = sum(noise.increment(like, a, b) * (b - a) ** 0.5 for a, b in pairwise(times))
    torch.testing.assert_close(fine, noise.increment(like, 0.0, 1.0), rtol=0, atol=1e-12)
    back = noise.increment(like, 1.0, 0.5)
    torch.testing.assert_close(back, -noise.increment(like, 0.5, 1.0), rtol=0, atol=0)


def test_euler_maruyama_follows_the_interval():
    """On data at the origin the reverse SDE is linear, and its sum over the path is known."""
    sde = sd.EDMSDE(T=1.0, t_min=0.25)
    origin = sd.Gaussian(torch.zeros(2).double(), torch.zeros(2, 2).double())
    path = interval(halfway_tree=True, tol=1e-6)
    grid = sd.UniformGrid()
    x = torch.ones(3, 2, dtype=torch.float64)
    found = sd.sample(
        origin.denoiser(sde, data_std=1.0), x=x, solver=sd.EulerMaruyama(), grid=grid, steps=3,
        noise=TorchsdeNoise(path), denoise=False,
    )  # fmt: skip
    for here, there in pairwise(grid.times(sde, 3)):
        # dx = -2 t score dt + sqrt(2 t) dw, with the score -x / t^2
        x = x + 2.0 / here * x * (there - here) + (2.0 * here) ** 0.5 * path(there, here)
    torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-12)


def test_areas_of_a_refined_path_add_up():
    like = torch.empty(3, 2, dtype=torch.float64)
    noise = TorchsdeNoise(interval(levy_area_approximation="space-time"))

    def parts(start, stop):
        h = stop - start
        walked = h**0.5 * noise.increment(like, start, stop)
        return walked, h * (0.5 * walked + (h / 12.0) ** 0.5 * noise.area(like, start, stop))

    (first, under), (second, over) = parts(0.0, 0.25), parts(0.25, 1.0)
    walked, integral = parts(0.0, 1.0)
    torch.testing.assert_close(walked, first + second, rtol=0, atol=1e-12)
    torch.testing.assert_close(integral, under + over + 0.75 * first, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", Method)
def test_weak_order_of_the_solvers_of_torchsde(method):
    solver = TorchsdeSolver(method)
    for problem in (PANEL[1], PANEL[4]):  # VP, sub-VP
        curve = convergence(solver, problem, (32, 64))
        assert abs(curve.order - solver.order) < 0.2, str(curve)
        assert curve.errors[-1] < 0.02


def test_torchsde_counts_as_it_declares_and_leaves_the_global_generator_alone():
    for method in Method:
        model, solver, before = model_on(), TorchsdeSolver(method, tau=0.5), torch.get_rng_state()
        x = sd.sample(model, (3, 2, 4), solver=solver, steps=6, seed=0)
        assert model.net.calls == solver.nfe(6, denoise=True)
        assert torch.equal(before, torch.get_rng_state())
        one = sd.sample(model, (1, 2, 4), solver=solver, steps=6, seed=0)
        assert torch.equal(one, x[:1])


@pytest.mark.parametrize("method", [Method.EULER, Method.MILSTEIN])
def test_euler_of_torchsde_is_euler_maruyama(method):
    model, x = model_on(dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)
    ends = [
        sd.sample(model, x=x, solver=solver, steps=10, seed=0)
        for solver in (TorchsdeSolver(method, 0.5), sd.EulerMaruyama(0.5))
    ]
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("method", "order"), [(Method.HEUN, 1.0), (Method.SRK, 1.5)])
def test_strong_order_on_a_shared_path(method, order):
    sde, size = sd.VPSDE(T=0.5, t_min=0.1), (256, 2)
    data = sd.GaussianMixture(
        torch.tensor([0.4, 0.6]).double(),
        torch.tensor([[-1.0, 0.2], [0.8, 0.0]]).double(),
        torch.stack([spread(0.5, 0.2), spread(0.3, 0.4)]),
    )
    path = torchsde.BrownianInterval(
        sde.t_min, sde.T, size=size, dtype=torch.float64, entropy=7, tol=1e-9,
        halfway_tree=True, levy_area_approximation="space-time",
    )  # fmt: skip
    x = torch.randn(size, generator=generator(0), dtype=torch.float64)
    how = {"solver": TorchsdeSolver(method), "grid": sd.UniformGrid(), "denoise": False}
    ends = [
        sd.sample(data.denoiser(sde), x=x, steps=n, noise=TorchsdeNoise(path), **how)
        for n in (64, 128, 256, 512)
    ]
    moves = [float((a - b).square().mean().sqrt()) for a, b in pairwise(ends)]
    assert abs(math.log2(moves[0] / moves[-1]) / 2.0 - order) < 0.15, moves


def test_the_solver_of_torchsde_refuses_what_it_cannot_solve():
    with pytest.raises(ValueError, match=r"solver=Torchsde.*RectifiedFlow.*smaller T"):
        sd.sample(model_on(sd.RectifiedFlow()), (2, 3), solver=TorchsdeSolver(), steps=2)
    level = sd.VPSDE().level(torch.tensor([[0.5], [0.6]]))
    with pytest.raises(ValueError, match=r"solver=Torchsde.*one level for the whole batch"):
        TorchsdeSolver().init(sd.Field(model_on()), torch.ones(2, 1), level)
    with pytest.raises(ValueError, match=r"tau=0.0"):
        TorchsdeSolver(tau=0.0)


def test_what_an_interval_cannot_do_is_refused():
    noise = TorchsdeNoise(interval())
    like = torch.empty(3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="one clock"):
        noise.increment(like, torch.zeros(3, 1), 1.0)
    with pytest.raises(ValueError, match="BrownianNoise"):
        noise.rows(torch.tensor([0]))


def pair():
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]]).double()
    covariance = (turn * torch.tensor([1.0, 0.1]).double()) @ turn.mT
    return sd.Gaussian(torch.tensor([0.5, -0.3]).double(), covariance)


def start(seed=0):
    return torch.randn(3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 4])
def test_scipy_follows_the_exact_flow_both_ways(sde, steps):
    data, solver = pair(), SciPySolver()
    model, ends = data.denoiser(sde, 0.7), (sde.level(sde.T), sde.level(sde.t_min))
    x = float(ends[0].radius()) * start()
    exact = data.flow(x, *ends)
    found = sd.sample(model, x=x, solver=solver, steps=steps, denoise=False)
    torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-8)
    code = sd.encode(model, found, solver=solver, steps=steps)
    torch.testing.assert_close(code, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", [RK45, DOP853, LSODA])
def test_scipy_agrees_with_our_own_at_tight_tolerances(mixture, method):
    model, x = mixture.denoiser(sd.VPSDE()), start()
    how = {"x": x, "denoise": False}
    theirs = sd.solve(model, solver=SciPySolver(method, 1e-9, 1e-9), steps=1, **how)
    for kind in (sd.DormandPrince, sd.DormandPrince853):
        ours = sd.sample(model, solver=kind(1e-9, 1e-9), **how)
        torch.testing.assert_close(ours, theirs.x, rtol=1e-6, atol=1e-6)
    assert int(theirs.nfe[0]) > 50


def test_the_calls_of_scipy_under_unic_are_counted():
    model, solver = model_on(dtype=torch.float64), sd.UniC(SciPySolver(rtol=1e-5, atol=1e-5))
    solution = sd.solve(model, x=start()[:1], solver=solver, steps=4)
    assert int(solution.nfe[0]) == model.net.calls > 20


def test_scipy_solves_each_sample_by_itself_with_its_condition():
    class Shifted(torch.nn.Module):
        def forward(self, x, t, shift):
            assert len(x) == len(shift) == 1
            return 0.5 * x + shift

    model, x = sd.Denoiser(Shifted(), sd.VPSDE(), "v"), start()
    how = {"solver": SciPySolver(rtol=1e-6, atol=1e-6), "steps": 1, "denoise": False}
    shift = torch.tensor([[0.0], [1.0], [2.0]]).double()
    whole = sd.sample(model, x=x, cond={"shift": shift}, **how)
    alone = sd.sample(model, x=x[1:2], cond={"shift": shift[1:2]}, **how)
    assert torch.equal(whole[1:2], alone)
    single = sd.sample(model, x=x.float(), cond={"shift": shift}, **how)
    assert single.dtype == torch.float32


def test_what_scipy_cannot_do_is_refused():
    model, solver = pair().denoiser(sd.VPSDE()), SciPySolver()
    with pytest.raises(ValueError, match=r"nfe: SciPySolver.*give steps"):
        sd.sample(model, x=start(), solver=solver, nfe=20)
    with pytest.raises(ValueError, match=r"gradient: .*SciPySolver"):
        sd.sample(model, x=start(), solver=solver, steps=2, gradient="direct")


@pytest.mark.parametrize(
    "method", ["RK45", "DOP835", OdeSolver, int, RK45(lambda t, y: y, 0, [1], 1)]
)
def test_scipy_takes_its_classes_of_methods_alone(method):
    with pytest.raises(ValueError, match=r"method=.* give a class such as scipy.integrate.RK45"):
        SciPySolver(method)


class Marked(torch.nn.Module):
    """A field that does in some samples what they are marked with."""

    def forward(self, x, t, mark):
        jump = torch.where(t[:, None] < 0.5, 1e22, 0.0) + 0.0 * x
        wavy = (3e4 * t[:, None]).cos()
        calm = x / (1.0 + x * x)
        out = torch.where(mark == 1.0, torch.where(t[:, None] < 0.3, torch.nan, calm), calm)
        out = torch.where(mark == 2.0, jump, out)
        return torch.where(mark == 3.0, wavy, out)


@pytest.mark.parametrize(
    ("mark", "error", "named"),
    [
        (1.0, sd.NonFiniteState, r"network call \d+ of a sample gave NaN"),
        (2.0, sd.StepSizeUnderflow, r"step size"),
        (3.0, sd.MaxEvaluations, r"max_nfe"),
    ],
)
def test_scipy_names_the_samples_that_went_wrong_and_keeps_the_others(mark, error, named):
    model, x = sd.Denoiser(Marked(), sd.VPSDE(), "v"), torch.cat([start(), start(1)])
    marks = mark * torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 0.0], dtype=x.dtype)[:, None]
    how = {"x": x, "solver": SciPySolver(RK45, 1e-6, 1e-6, 2000), "steps": 1, "denoise": False}
    with pytest.raises(error, match=rf"{named}.* at t = .*\(rows 1, 3\)") as caught:
        sd.sample(model, cond={"mark": marks}, **how)
    expected = sd.sample(model, cond={"mark": 0.0 * marks}, **how)
    others = [0, 2, 4, 5]
    assert caught.value.indices == (1, 3)
    assert torch.equal(caught.value.x[others], expected[others])
    assert sd.VPSDE().t_min < caught.value.t < {1.0: 0.3, 2.0: 0.51, 3.0: 1.0}[mark]
    assert 0 < caught.value.nfe <= 2000


def test_the_budget_of_scipy_is_each_samples_over_all_steps():
    model, x, budget = pair().denoiser(sd.VPSDE()), start(), 10_000
    how = {"x": x, "steps": 3, "denoise": False}
    solution = sd.solve(model, solver=SciPySolver(max_nfe=budget), **how)
    enough = int(solution.nfe[0])
    assert torch.equal(sd.sample(model, solver=SciPySolver(max_nfe=enough), **how), solution.x)
    with pytest.raises(sd.MaxEvaluations) as caught:
        sd.sample(model, solver=SciPySolver(max_nfe=enough // 2), **how)
    assert caught.value.nfe == enough // 2
