"""Gradients of solves: three ways that agree, with the memory that each is to take."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from typing import get_args

import pytest
import torch
from conftest import PROCESSES, slow
from solver_examples import DETERMINISTIC, FIXED, Curve, label, model_on, normal
from test_likelihood import TrueMarginal, points, triple
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import scoresde as sd
from scoresde import (
    DDIM,
    RK4,
    VPSDE,
    AdamsPC,
    AdaptiveSDE,
    BogackiShampine,
    Denoiser,
    DormandPrince,
    DormandPrince853,
    DPMSolver,
    DPMSolverAdaptive,
    DPMSolverPP,
    Euler,
    EulerMaruyama,
    Gradient,
    Heun,
    InjectedNoise,
    Midpoint,
    PolarFrame,
    RecordedNoise,
    ReverseDiffusion,
    SASolver,
    SeededNoise,
    Tsitouras,
    UniPC,
)
from scoresde.interop.scipy import SciPySolver

WAYS = get_args(Gradient)


class Shifted(nn.Module):
    """A network whose coordinates depend on one another, with a parameter, a buffer and a shift."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(0.5 * normal(2, 2, seed=3, dtype=torch.float64))
        self.register_buffer("bias", normal(2, seed=4, dtype=torch.float64).requires_grad_())
        self.frozen = nn.Parameter(torch.tensor(1.0, dtype=torch.float64), requires_grad=False)

    def forward(self, x, t, shift, gain=None):
        out = torch.tanh(x @ self.weight + self.bias * t[:, None] + shift) * self.frozen
        return out if gain is None else gain * out


def gradients(gradient: Gradient, solver, steps=None, sde=None, **how) -> list[Tensor]:
    """Return the end of a solve, and the gradients of a function of it with respect to all."""
    model = Denoiser(Shifted(), sde or VPSDE(), "v")
    x, shift = (normal(3, 2, seed=k, dtype=torch.float64).requires_grad_() for k in (0, 1))
    gain = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    cond = {"shift": shift.sin(), "gain": gain}
    solution = sd.solve(
        model, x=x, solver=solver, steps=steps, seed=0, cond=cond, gradient=gradient, **how
    )
    end = solution.x if solution.trajectory is None else solution.trajectory
    value = (end.sin() * torch.arange(1.0, 1.0 + end.numel()).reshape(end.shape)).sum()
    wanted = (x, shift, gain, model.net.weight, model.net.bias)
    return [end.detach(), *torch.autograd.grad(value, wanted)]


def distance(found: list[Tensor], exact: list[Tensor]) -> float:
    """Return the largest relative error of the gradients."""
    pairs = zip(found[1:], exact[1:], strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


@pytest.mark.parametrize("solver", FIXED, ids=label)
def test_checkpoints_change_no_bit(solver):
    direct, checkpoint = (gradients(way, solver, 6) for way in ("direct", "checkpoint"))
    assert all(map(torch.equal, direct, checkpoint))


ORDERS = (
    (Euler(), 1),
    (DDIM(), 1),
    (Heun(), 2),
    (Midpoint(PolarFrame()), 2),
    (DPMSolverPP(2), 2),
    (UniPC(2), 2),
    (DPMSolver(3), 3),
    (SASolver(3, 2, tau=0.0), 3),
    (AdamsPC(), 3),
    (RK4(), 4),
)


@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize(("solver", "order"), ORDERS, ids=label)
def test_the_adjoint_has_the_order_of_the_solver(solver, order, denoise):
    exact = gradients("direct", RK4(), 512, denoise=denoise)
    how = {"denoise": denoise}
    errors = [distance(gradients("adjoint", solver, n, **how), exact) for n in (64, 128)]
    assert math.log2(errors[0] / errors[1]) > order - 0.3
    assert errors[1] < (0.1, 2e-3, 2e-4, 1e-6)[order - 1]


@pytest.mark.parametrize("solver", [s for s in DETERMINISTIC if s in FIXED], ids=label)
def test_every_deterministic_solver_has_an_adjoint(solver):
    # its discretisation of the kernel is a coarse one on the way up
    steps = 640 if isinstance(solver, ReverseDiffusion) else 80
    direct, adjoint = (gradients(way, solver, steps) for way in ("direct", "adjoint"))
    assert torch.equal(direct[0], adjoint[0])
    assert distance(adjoint, direct) < 0.1


@pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("encode", [False, True])
def test_the_adjoint_serves_every_process_both_ways(sde, encode):
    how = {"sde": sde, "encode": encode, "denoise": False}
    direct, adjoint = (gradients(way, RK4(), 64, **how) for way in ("direct", "adjoint"))
    assert distance(adjoint, direct) < 1e-5


ADAPTIVE = (
    BogackiShampine(),
    DPMSolverAdaptive(),
    DormandPrince(),
    DormandPrince853(),
    Tsitouras(),
    AdaptiveSDE(tau=0.0),
)


@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("solver", ADAPTIVE, ids=label)
def test_the_adjoint_of_an_adaptive_solve_follows_its_tolerance(solver, denoise):
    exact = gradients("direct", RK4(), 512, denoise=denoise)
    errors = []
    for tol in (1e-3, 1e-5):
        solver = replace(solver, rtol=tol, atol=tol)
        errors.append(distance(gradients("adjoint", solver, denoise=denoise), exact))
        assert errors[-1] < 50.0 * tol
    assert errors[1] < errors[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_have_gradients(way, steps):
    for solver in (AdamsPC(), Heun()):
        found = gradients(way, solver, steps)
        assert all(bool(g.isfinite().all()) for g in found)
    # one step to the data is the network alone, whose gradients need no solve
    found, direct = (gradients(w, AdamsPC(), 1) for w in (way, "direct"))
    assert distance(found, direct) < 1e-12


FINE = (
    ("checkpoint", AdamsPC(), 4),
    ("checkpoint", DDIM(1.0), 4),
    ("adjoint", RK4(), 64),
    ("adjoint", DormandPrince853(1e-8, 1e-8), None),
)


@pytest.mark.parametrize(("way", "solver", "steps"), FINE, ids=label)
def test_gradients_are_those_of_finite_differences(way, solver, steps):
    model = Denoiser(Shifted(), VPSDE(), "v")

    def end(x, shift):
        how = {"steps": steps, "seed": 0, "gradient": way}
        return sd.sample(model, x=x, solver=solver, cond={"shift": shift}, **how)

    inputs = [normal(2, 2, seed=k, dtype=torch.float64).requires_grad_() for k in (0, 1)]
    assert torch.autograd.gradcheck(end, inputs, eps=1e-6, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_of_a_log_likelihood_is_the_score(way):
    data, sde = triple(), VPSDE(t_min=0.02)
    model, x = data.denoiser(sde, 1.0), points(data)[:16].double().requires_grad_()
    prior = TrueMarginal(data, sde)
    found = sd.log_likelihood(model, x, prior=prior, solver=RK4(), steps=40, gradient=way)
    (score,) = torch.autograd.grad(found.nats.sum(), x)
    exact = model(x.detach(), sde.level(sde.t_min)).score
    assert (score - exact).norm() < 1e-4 * exact.norm()


@pytest.mark.parametrize("trace", [sd.ExactTrace(), sd.Hutchinson(2)], ids=["exact", "hutchinson"])
def test_gradients_of_a_likelihood_agree(trace):
    def found(way):
        model = Denoiser(Shifted(), VPSDE(), "v")
        x, shift = (normal(3, 2, seed=k, dtype=torch.float64).requires_grad_() for k in (0, 1))
        logp = sd.log_likelihood(
            model, x, trace=trace, solver=RK4(), steps=24, seed=0, cond={"shift": shift},
            gradient=way,
        )  # fmt: skip
        assert not logp.nfe.requires_grad
        return [logp.nats, *torch.autograd.grad(logp.nats.sum(), (x, shift, model.net.weight))]

    direct, checkpoint, adjoint = map(found, WAYS)
    assert all(map(torch.equal, direct, checkpoint))
    assert distance(adjoint, direct) < 1e-6


class LiveBytes(TorchDispatchMode):
    """Sums up the storages that operations made and that are still alive.

    Attributes:
        peak: the most bytes alive at once.
    """

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak = set(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            storage = leaf.untyped_storage() if isinstance(leaf, Tensor) else None
            if storage is not None and storage._cdata not in self.alive:
                self.alive.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _free(self, key, size):
        self.alive.remove(key)
        self.now -= size


def peak(way: Gradient, steps: int, likelihood: bool) -> int:
    """Return the peak of live bytes in a solve and its gradient, in states of the solve."""
    model, x = model_on(), normal(8, 2048).requires_grad_()
    how = {"steps": steps, "seed": 0, "gradient": way}
    with LiveBytes() as meter:
        if likelihood:
            end = sd.log_likelihood(model, x, trace=sd.Hutchinson(1), **how).nats
        else:
            end = sd.sample(model, x=x, **how)
        end.sum().backward()
    return meter.peak // x.untyped_storage().nbytes()


@pytest.mark.parametrize(
    "likelihood",
    [pytest.param(False, id="sample"), slow(True, id="likelihood")],
)
def test_memory_against_the_number_of_steps(likelihood):
    found = {way: [peak(way, n, likelihood) for n in (16, 64, 256)] for way in WAYS}
    small, middle, large = found["direct"]
    assert 3.5 < (large - middle) / (middle - small) < 4.5  # like N
    small, middle, large = found["checkpoint"]
    assert 1.5 < (large - middle) / (middle - small) < 2.5  # like sqrt N
    small, middle, large = found["adjoint"]
    assert max(middle, large) < 1.05 * small


@pytest.mark.parametrize("way", WAYS)
def test_the_solve_itself_stays_as_it_is(way):
    x, seen = normal(4, 3), []
    how = {"x": x, "steps": 9, "seed": 0, "callback": lambda k, level, x: seen.append(k)}
    plain = sd.solve(model_on(), **how)
    model = model_on()
    found = sd.solve(model, gradient=way, **how)
    assert torch.equal(found.x, plain.x)
    assert torch.equal(found.nfe, plain.nfe)
    found.x.sum().backward()
    assert seen == 2 * [*range(9)]
    assert model.net.scale.grad is not None


def test_checkpoints_keep_a_trajectory():
    direct, checkpoint = (
        gradients(way, AdamsPC(), 7, trajectory=True) for way in ("direct", "checkpoint")
    )
    assert direct[0].shape == (8, 3, 2)
    assert all(map(torch.equal, direct, checkpoint))


def test_images_classes_and_half_precision_networks():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.label = nn.Conv2d(2, 2, 3, padding=1), nn.Embedding(3, 2)

        def forward(self, x, t, label):
            return torch.tanh(self.conv(x) + self.label(label)[..., None, None])

    def found(way, dtype):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Denoiser(Net(), VPSDE(), "v").to(dtype)
        how = {"steps": 40, "gradient": way, "cond": {"label": torch.tensor([0, 2])}}
        end = sd.sample(model, x=normal(2, 2, 4, 4), **how)
        end.square().sum().backward()
        return [end.detach(), *(p.grad for p in model.parameters())]

    exact = found("direct", torch.float64)
    assert distance(found("adjoint", torch.float64), exact) < 1e-4
    half = found("adjoint", torch.bfloat16)
    assert [g.dtype for g in half] == [torch.float32, *3 * [torch.bfloat16]]
    assert distance(half, [g.float() for g in exact]) < 0.05


def test_the_adjoint_computes_as_the_solve_did():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.dtypes = nn.Linear(3, 3), set()

        def forward(self, x, t):
            out = self.linear(x)
            self.dtypes.add(out.dtype)
            return out

    model = Denoiser(Net(), VPSDE(), "v")
    with torch.autocast("cpu", torch.bfloat16):
        end = sd.sample(model, (2, 3), steps=4, seed=0, gradient="adjoint")
    end.sum().backward()
    assert model.net.dtypes == {torch.bfloat16}


def test_an_empty_batch_has_empty_gradients():
    for way in WAYS:
        x = torch.zeros(0, 3).requires_grad_()
        sd.sample(model_on(), x=x, steps=3, gradient=way).sum().backward()
        assert x.grad.shape == (0, 3)


def test_tensors_that_the_adjoint_cannot_see_are_named():
    net = Curve(torch.float64)
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    del net.scale
    net.scale = scale
    model = Denoiser(net, VPSDE(), "v")
    x = normal(2, 3, dtype=torch.float64)
    for how in ({"steps": 3}, {"solver": Tsitouras()}):
        before = net.calls
        with pytest.raises(ValueError, match="gradient='adjoint': the network depends on a tensor"):
            sd.sample(model, x=x, gradient="adjoint", **how)
        assert net.calls == before + 1  # nothing is solved
    direct, checkpoint = (
        torch.autograd.grad(sd.sample(model, x=x, steps=3, gradient=way).sum(), scale)
        for way in ("direct", "checkpoint")
    )
    assert torch.equal(*direct, *checkpoint)


def test_the_adjoint_has_no_second_derivative():
    x = normal(2, 3).requires_grad_()
    end = sd.sample(model_on(), x=x, steps=3, gradient="adjoint")
    (slope,) = torch.autograd.grad(end.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_weights_changed_before_the_way_back_are_noticed():
    model = model_on()
    end = sd.sample(model, (2, 3), steps=3, seed=0, gradient="adjoint")
    with torch.no_grad():
        model.net.scale.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        end.sum().backward()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"gradient": True}, r"gradient=True must be None or one of"),
        ({"gradient": "adjoint", "solver": DDIM(1.0)}, r"DDIM.* gradient='checkpoint'"),
        ({"gradient": "adjoint", "solver": AdaptiveSDE()}, r"AdaptiveSDE.* gradient='direct'"),
        ({"gradient": "checkpoint", "solver": AdaptiveSDE()}, r"AdaptiveSDE.* gradient='direct'"),
        ({"gradient": "checkpoint", "solver": Tsitouras()}, r"Tsitouras.* gradient='adjoint'"),
        ({"gradient": "adjoint", "trajectory": True}, r"trajectory.* gradient='checkpoint'"),
        (
            {"gradient": "checkpoint", "solver": EulerMaruyama(), "noise": InjectedNoise(())},
            r"InjectedNoise.* gradient='direct'",
        ),
        (
            {"gradient": "checkpoint", "solver": DDIM(1.0), "noise": RecordedNoise(SeededNoise())},
            r"RecordedNoise.* gradient='direct'",
        ),
        ({"gradient": "direct", "solver": SciPySolver()}, r"gradient: .*SciPySolver"),
        ({"gradient": "adjoint", "solver": SciPySolver()}, r"^gradient='adjoint': SciPySolver"),
    ],
)
def test_what_a_way_cannot_do_is_refused(arguments, named):
    model = model_on()
    with pytest.raises(ValueError, match=named):
        sd.solve(model, x=normal(2, 3), **arguments)
    assert model.net.calls == 0


def test_unknown_calls_speak_of_gradients_where_there_are_some_only():
    with pytest.raises(ValueError, match=r"^nfe: SciPySolver(?!.*gradient)"):
        sd.fit_grid(model_on(), SciPySolver(), shape=(2, 3))


def test_the_way_back_of_adaptive_adams_is_that_of_dormand_prince():
    model = model_on(dtype=torch.float64)
    x = normal(2, 3, dtype=torch.float64).requires_grad_()
    solution = sd.solve(model, x=x, solver=sd.AdaptiveAdams(), gradient="adjoint")
    before, there = model.net.calls, int(solution.nfe.max())
    solution.x.sum().backward()
    back = model.net.calls - before
    # but for the step to sigma = 0, and the first slope
    assert (back - 2) % DormandPrince().evals == 0
    assert back > 2 * there
