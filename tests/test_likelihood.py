"""Likelihoods against exact densities, and the estimates of the trace against their formulas."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from conftest import generator, rotation, slow, spread
from solver_examples import Curve, label, model_on, normal
from torch import nn
from torch.utils.checkpoint import checkpoint

import scoresde as sd
from scoresde import (
    DDIM,
    VESDE,
    VPSDE,
    AdamsPC,
    Denoiser,
    DormandPrince,
    DPMSolverPP,
    Euler,
    ExactTrace,
    GaussianMixture,
    Heun,
    Hutchinson,
    Prior,
    SeededNoise,
    UniformGrid,
    UnitNormal,
)
from scoresde.data import Affine

SOLVERS = [AdamsPC(4), AdamsPC(2), DPMSolverPP(3), Heun(), DormandPrince(1e-6, 1e-6)]


class TrueMarginal(Prior):
    """The law of the data at T itself, in place of the Gaussian that stands for it."""

    def __init__(self, data, sde):
        super().__init__()
        object.__setattr__(self, "exact", lambda x: data.log_prob(x, sde.level(sde.T)))

    def log_prob(self, x):
        return self.exact(x)


def pair():
    """Two components in one dimension."""
    return GaussianMixture(
        torch.tensor([0.4, 0.6], dtype=torch.float64),
        torch.tensor([[-1.0], [0.8]], dtype=torch.float64),
        torch.tensor([[[0.05]], [[0.2]]], dtype=torch.float64),
    )


def triple():
    """Three rotated components in two dimensions."""
    return GaussianMixture(
        torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
        torch.tensor([[-1.0, 0.5], [1.2, -0.3], [0.2, 1.5]], dtype=torch.float64),
        torch.stack([spread(0.3, 0.05, seed=1), spread(0.1, 0.05, seed=2), spread(0.2, 0.1)]),
    )


def points(data, n=24, seed=0):
    rng = generator(seed)
    z = torch.randn(n, data.means.shape[1], generator=rng, dtype=torch.float64)
    return data.sample(z, torch.rand(n, generator=rng, dtype=torch.float64))


def exact(data, sde, x):
    return data.log_prob(x, sde.level(sde.t_min))


@pytest.mark.parametrize(
    ("make", "tol", "bound"), [(pair, 1e-8, 1e-6), (triple, 1e-5, 1e-3), slow(triple, 1e-8, 1e-6)]
)
def test_density_of_a_mixture_is_exact_up_to_the_tolerance(make, tol, bound, sde):
    data = make()
    x = points(data)
    found = sd.log_likelihood(
        data.denoiser(sde), x, solver=DormandPrince(tol, tol), prior=TrueMarginal(data, sde)
    )
    assert float((found.nats - exact(data, sde, x)).abs().max()) < bound
    assert torch.equal(found.nats, sum(found.parts.values()))
    assert not found.stderr.any()


@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_every_deterministic_solver_integrates_the_density(solver, sde):
    data = triple()
    x = points(data)
    steps = {} if isinstance(solver, DormandPrince) else {"steps": 60}
    found = sd.log_likelihood(
        data.denoiser(sde), x, solver=solver, prior=TrueMarginal(data, sde), **steps
    )
    error = (found.nats - exact(data, sde, x)).abs()
    assert float(error.mean()) < (0.05 if solver == Heun() else 5e-3)


def test_the_default_is_good_to_a_ten_thousandth_of_a_nat():
    data, sde = triple(), VPSDE()
    x = points(data, 200)
    how = {"prior": TrueMarginal(data, sde)}
    found = sd.log_likelihood(data.denoiser(sde), x, **how)
    assert float((found.nats - exact(data, sde, x)).abs().mean()) < 1e-4
    assert float(found.nfe.double().mean()) < 40.0
    assert "AdaptiveAdams" in found.method
    steps = sd.log_likelihood(data.denoiser(sde), x, steps=50, **how)
    assert float((steps.nats - exact(data, sde, x)).abs().mean()) < 1e-3
    assert steps.nfe.unique().tolist() == [50]
    assert steps.error is None


def test_the_standard_prior_leaves_a_mismatch_that_no_tolerance_mends():
    data, sde = pair(), VPSDE()
    x = points(data, 32)
    model, true = data.denoiser(sde), exact(data, sde, x)
    solver = DormandPrince(1e-7, 1e-7)
    plain = sd.log_likelihood(model, x, solver=solver)
    error = plain.nats - true
    assert 1e-4 < float(error.abs().max()) < 2e-2
    latent = TrueMarginal(data, sde).log_prob(plain.latent)
    assert torch.allclose(error, plain.parts["prior"] - latent, atol=1e-6)
    matched = sde.prior(float(data.mean), float(data.covariance))
    better = sd.log_likelihood(model, x, solver=solver, prior=matched)
    assert float((better.nats - true).abs().max()) < 0.05 * float(error.abs().max())


def test_density_integrates_to_one():
    data, sde = pair(), VPSDE()
    x = torch.linspace(-6.0, 6.0, 1201, dtype=torch.float64)[:, None]
    nats = sd.log_likelihood(data.denoiser(sde), x, steps=100).nats
    assert abs(float(torch.trapezoid(nats.exp(), x[:, 0])) - 1.0) < 1e-4


@pytest.mark.parametrize("k", [4.0, 0.3])
def test_change_of_variables_when_everything_is_scaled(k):
    data = triple()
    scaled = GaussianMixture(data.weights, k * data.means, k * k * data.covariances)
    x = points(data)
    how = {"grid": UniformGrid(), "steps": 60}
    plain = sd.log_likelihood(data.denoiser(VESDE(0.01, 10.0)), x, **how)
    large = sd.log_likelihood(scaled.denoiser(VESDE(0.01 * k, 10.0 * k)), k * x, **how)
    assert torch.allclose(large.nats, plain.nats - 2 * math.log(k), rtol=0, atol=1e-9)
    assert torch.allclose(large.latent, k * plain.latent, rtol=1e-9)


@pytest.mark.parametrize("turn", [rotation(2, 5), torch.eye(2, dtype=torch.float64).flip(0)])
def test_density_turns_with_the_data(turn, sde):
    data = triple()
    turned = GaussianMixture(data.weights, data.means @ turn.mT, turn @ data.covariances @ turn.mT)
    x = points(data)
    plain = sd.log_likelihood(data.denoiser(sde), x, steps=40)
    other = sd.log_likelihood(turned.denoiser(sde, plain_std(data)), x @ turn.mT, steps=40)
    assert torch.allclose(other.nats, plain.nats, rtol=0, atol=1e-8)


def plain_std(data):
    return float(data.covariance.diagonal().mean().sqrt())


class Uniform(Prior):
    """The uniform law between two numbers."""

    def __init__(self, low, high):
        super().__init__()
        object.__setattr__(self, "ends", (low, high))

    def log_prob(self, x):
        low, high = self.ends
        inside = ((x >= low) & (x <= high)).flatten(1).all(1)
        dims = math.prod(x.shape[1:])
        return x.new_full((len(x),), -dims * math.log(high - low)).masked_fill(~inside, -math.inf)


class Still(nn.Module):
    """Predicts v = 0: where alpha^2 + sigma^2 = 1 the flow of the whole space stands still."""

    def forward(self, x, t):
        return torch.zeros_like(x)


@pytest.mark.parametrize("trace", [ExactTrace(), Hutchinson(2)], ids=["exact", "hutchinson"])
@pytest.mark.parametrize(
    ("transform", "low", "high"),
    [
        (Affine.bins(256, low=0.0), 0.0, 1.0),
        (Affine.bins(256), -1.0, 1.0),
        (Affine.endpoints(256), -1.0 - 0.5 / 127.5, 1.0 + 0.5 / 127.5),
    ],
    ids=["unit", "bins", "endpoints"],
)
def test_bits_per_dim_of_the_uniform_density_are_eight(transform, low, high, trace):
    pixels = torch.tensor([0, 1, 127, 128, 254, 255]).repeat(2, 2).reshape(2, 3, 2, 2)
    x = transform.forward(pixels, generator(0)).double()
    model = Denoiser(Still(), VPSDE(), "v")
    how = {"trace": trace, "steps": 5, "transform": transform, "prior": Uniform(low, high)}
    found = sd.log_likelihood(model, x, **how)
    assert torch.allclose(found.bits_per_dim, torch.tensor(8.0).double(), rtol=0, atol=1e-9)


def test_the_standard_error_in_bits_is_that_in_nats():
    trace = Hutchinson(4, probes=UnitNormal())
    found = sd.log_likelihood(model_on(), normal(3, 3, 2, 2), trace=trace, steps=5, seed=0)
    assert (found.stderr > 0).all()
    assert torch.allclose(found.bits_per_dim_stderr, found.stderr / (12 * math.log(2.0)))


def test_bits_per_dim_count_the_transform_of_the_data():
    transform = Affine.bins(256)
    x = normal(4, 3)
    found = sd.log_likelihood(model_on(), x, steps=5, transform=transform, seed=0)
    plain = sd.log_likelihood(model_on(), x, steps=5, seed=0)
    shift = found.bits_per_dim - plain.bits_per_dim
    assert transform.log_det == pytest.approx(-math.log(128.0))
    assert torch.allclose(shift, torch.tensor(7.0))
    assert torch.equal(found.nats, plain.nats)


@pytest.mark.parametrize("solver", SOLVERS, ids=label)
@pytest.mark.parametrize("trace", [ExactTrace(), Hutchinson(3)], ids=["exact", "hutchinson"])
def test_one_network_call_gives_the_drift_and_the_divergence(solver, trace):
    model = model_on()
    steps = {} if isinstance(solver, DormandPrince) else {"nfe": 9}
    found = sd.log_likelihood(model, normal(1, 3), solver=solver, trace=trace, **steps)
    idle = 1 + (3 * 6 if isinstance(solver, DormandPrince) else 0)  # one to find out the mode
    assert found.nfe.item() <= model.net.calls <= found.nfe.item() + idle
    if steps:
        assert 10 - solver.evals < model.net.calls <= 10


def test_latent_is_the_code_of_encode():
    model, x = model_on(), normal(4, 2, 3)
    found = sd.log_likelihood(model, x, solver=AdamsPC(3), steps=20)
    assert found.latent.shape == x.shape
    assert torch.allclose(found.latent, sd.encode(model, x, solver=AdamsPC(3), steps=20), atol=1e-6)


class Wrapped(Curve):
    """The network of the tests, by way of what torch.func knows nothing of."""

    def __init__(self, wrap):
        super().__init__(torch.float64)
        self.wrap = wrap

    def forward(self, x, t, shift=None):
        return self.wrap(super().forward, x)


WRAPS = {
    "checkpointed": lambda f, x: checkpoint(f, x, None, use_reentrant=False),
    "in place": lambda f, x: f(x, None).mul_(2.0).mul_(0.5),
    "not differentiable": lambda f, x: f(x.detach(), None).detach(),
}


@pytest.mark.parametrize("trace", [ExactTrace(), Hutchinson(20)], ids=["exact", "hutchinson"])
@pytest.mark.parametrize("gradient", [None, *get_args(sd.Gradient)])
@pytest.mark.parametrize("kind", WRAPS)
def test_a_network_may_checkpoint_its_activations_or_write_over_them(kind, gradient, trace):
    x, how = normal(3, 2, dtype=torch.float64), {"trace": trace, "steps": 5, "seed": 0}
    model = Denoiser(Wrapped(WRAPS[kind]), VPSDE(), "v")
    found = sd.log_likelihood(model, x, gradient=gradient, **how)
    if kind == "not differentiable":  # v without a slope: y moves as a whole, and its volume stays
        moved = model.sde.level(model.sde.T).radius() / model.sde.level(model.sde.t_min).radius()
        assert torch.allclose(found.parts["log_det"], torch.tensor(2 * math.log(moved)).double())
        return
    plain = sd.log_likelihood(model_on(dtype=torch.float64), x, **how)
    assert torch.allclose(found.nats, plain.nats, rtol=1e-12)


def test_a_likelihood_in_inference_mode_is_the_same():
    model, x, shift = model_on(), normal(3, 2), normal(3, 2, seed=1)
    plain = sd.log_likelihood(model, x, steps=4, cond={"shift": shift})
    with torch.inference_mode():
        found = sd.log_likelihood(model, x + 0.0, steps=4, cond={"shift": shift + 0.0})
    assert torch.equal(found.nats, plain.nats)


@pytest.mark.parametrize("trace", [ExactTrace(), Hutchinson(2)], ids=["exact", "hutchinson"])
def test_gradients_of_a_likelihood_are_right(trace):
    model = model_on(dtype=torch.float64)

    def nats(x, shift):
        how = {"trace": trace, "seed": 0, "steps": 4, "gradient": "direct"}
        return sd.log_likelihood(model, x, cond={"shift": shift.sin()}, **how).nats

    inputs = [normal(2, 2, seed=k, dtype=torch.float64).requires_grad_() for k in (0, 1)]
    assert torch.autograd.gradcheck(nats, inputs, eps=1e-6, atol=1e-5, rtol=1e-5)
    (grad,) = torch.autograd.grad(nats(*inputs).sum(), model.net.scale)
    assert float(grad) != 0.0


def test_no_graph_is_built_unless_asked_for():
    x = normal(2, 3).requires_grad_()
    assert not sd.log_likelihood(model_on(), x, steps=3).nats.requires_grad
    assert sd.log_likelihood(model_on(), x, steps=3, gradient="direct").nats.requires_grad


def test_conditions_reach_the_network():
    model, x, shift = model_on(), normal(4, 3), normal(4, 3, seed=1)
    for solver in (AdamsPC(), DormandPrince()):
        plain = sd.log_likelihood(model, x, solver=solver)
        whole = sd.log_likelihood(model, x, solver=solver, cond={"shift": shift})
        alone = sd.log_likelihood(model, x[2:3], solver=solver, cond={"shift": shift[2:3]})
        assert not torch.allclose(plain.nats, whole.nats)
        assert torch.allclose(whole.nats[2:3], alone.nats)


def test_images_and_half_precision_networks():
    x = normal(2, 3, 4, 4)
    found = sd.log_likelihood(model_on(), x, steps=10)
    half = sd.log_likelihood(model_on(dtype=torch.bfloat16), x, steps=10)
    assert half.nats.dtype == torch.float32
    assert half.latent.shape == x.shape
    assert torch.allclose(half.bits_per_dim, found.bits_per_dim, atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"seed": 0, "noise": SeededNoise(0)}, r"seed=0 and noise="),
        ({"solver": DDIM(1.0)}, r"solver=DDIM.*deterministic"),
        ({"steps": 3, "nfe": 3}, r"steps=3 and nfe=3"),
        ({"steps": 0}, r"steps=0"),
        ({"solver": DormandPrince(), "steps": 3}, r"steps=3: DormandPrince"),
        ({"cond": {"probes": torch.zeros(2)}}, r"cond: .*probes"),
    ],
)
def test_arguments_that_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        sd.log_likelihood(model_on(), normal(2, 3), **arguments)


def test_order_of_the_density_is_that_of_the_solver():
    data, sde = triple(), VPSDE(t_min=0.02)
    x, model, prior = points(data), data.denoiser(sde, 1.0), TrueMarginal(data, sde)
    for solver, order in ((Euler(), 1), (DDIM(), 1), (DPMSolverPP(2), 2), (AdamsPC(2), 3)):
        errors = [
            float(
                (
                    sd.log_likelihood(model, x, solver=solver, prior=prior, steps=n).nats
                    - exact(data, sde, x)
                ).square().mean()
            )
            for n in (32, 64)
        ]  # fmt: skip
        assert 0.5 * math.log2(errors[0] / errors[1]) > order - 0.3, solver


def test_curve_is_called_in_its_own_dtype():
    net = Curve(torch.bfloat16)
    sd.log_likelihood(Denoiser(net, VPSDE(), "v"), normal(2, 3), steps=3)
    assert net.calls == 4  # one to find out the mode
