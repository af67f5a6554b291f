"""Bits per dimension of integers: dequantisers, importance samples and the decoder at t_min."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from conftest import generator, spread
from solver_examples import model_on, normal
from test_likelihood import Still, TrueMarginal, Uniform, pair, points, triple
from torch import nn

import scoresde as sd
from scoresde import (
    VPSDE,
    Decoded,
    Denoiser,
    Discrete,
    DiscretisedGaussian,
    ExactTrace,
    Field,
    FlowDequantiser,
    Gaussian,
    GaussianDecoder,
    Hutchinson,
    InjectedNoise,
    LogLikelihood,
    Prior,
    SeededNoise,
    UniformDequantiser,
)
from scoresde.data import Affine, Logit
from scoresde.likelihood import dequantiser_loss
from scoresde.likelihood.draws import importance_bound

SDE = VPSDE(t_min=1e-6)


class LogitOfUniform(Prior):
    """The law of log(p / (1 - p)) for p uniform on [a, 1 - a]."""

    def __init__(self, a):
        super().__init__()
        object.__setattr__(self, "a", a)

    def log_prob(self, x):
        p = torch.sigmoid(x)
        inside = ((p >= self.a) & (p <= 1 - self.a)).flatten(1).all(1)
        each = (p * (1 - p) / (1 - 2 * self.a)).log()
        return each.flatten(1).sum(1).masked_fill(~inside, -math.inf)


UNIFORM = {
    "unit": (Affine.bins(256, low=0.0), Uniform(0.0, 1.0)),
    "bins": (Affine.bins(256), Uniform(-1.0, 1.0)),
    "endpoints": (Affine.endpoints(256), Uniform(-1.0 - 0.5 / 127.5, 1.0 + 0.5 / 127.5)),
    "logit": (Logit(256), LogitOfUniform(0.05)),
    "logit near the ends": (Logit(256, 1e-3), LogitOfUniform(1e-3)),
}


@pytest.mark.parametrize("trace", [ExactTrace(), Hutchinson(2)], ids=["exact", "hutchinson"])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("kind", UNIFORM)
def test_integers_of_a_uniform_density_cost_eight_bits(kind, k, trace):
    transform, prior = UNIFORM[kind]
    pixels = torch.tensor([0, 1, 127, 128, 254, 255]).repeat(2, 2).reshape(2, 3, 2, 2)
    model = Denoiser(Still(), VPSDE(), "v").double()
    density = partial(sd.log_likelihood, model, trace=trace, steps=5, prior=prior)
    law = FlowDequantiser((3, 2, 2), 256)  # uniform before it is trained
    for dequantiser in (UniformDequantiser(), law):
        found = Discrete(partial(float64, density), transform, dequantiser, k)(
            pixels, noise=SeededNoise(0)
        )
        assert torch.allclose(found.bits_per_dim, torch.tensor(8.0).double(), rtol=0, atol=1e-9)
        assert torch.allclose(found.nats, sum(found.parts.values()), rtol=1e-12)
        assert found.bound
        if k == 1:
            assert found.stderr.isnan().all()
        else:
            assert float(found.stderr.max()) < 1e-9


def float64(density, x, noise):
    assert x.dtype == torch.float64
    return density(x, noise=noise)


def test_a_likelihood_through_the_logit_counts_the_log_det_of_each_sample():
    transform = Logit(256)
    pixels = torch.tensor([[0, 3], [127, 128], [200, 255]])
    y = transform.forward(pixels, None).double()
    model = Denoiser(Still(), VPSDE(), "v")
    found = sd.log_likelihood(
        model, y, transform=transform, prior=LogitOfUniform(0.05), steps=5
    ).to("cpu")
    assert torch.allclose(found.bits_per_dim, torch.tensor(8.0).double(), rtol=0, atol=1e-9)


def exactly(data, sde=SDE):
    """A density without a solve: that of the data at t_min."""

    def density(y, noise):
        nats = data.log_prob(y, sde.level(sde.t_min))
        zero = torch.zeros_like(nats)
        return LogLikelihood(nats, {"data": nats}, zero, zero.long() + 1, math.prod(y.shape[1:]))

    return density


def bell(variance=0.09):
    return Gaussian(
        torch.tensor([0.2], dtype=torch.float64), torch.tensor([[variance]], dtype=torch.float64)
    )


def mass(data, transform):
    """The log-probability of every level of one dimension, by the distribution function."""
    level = SDE.level(SDE.t_min)
    std = math.hypot(level.alpha * float(data.covariance) ** 0.5, level.sigma)
    law = torch.distributions.Normal(level.alpha * data.mean, std)
    edges = transform.embed(torch.arange(transform.levels + 1).double() - 0.5)
    cdf = law.cdf(edges)
    return cdf.diff().log()


CASES = [(Affine.bins(4), 0.09), (Logit(4), 0.7)]


@pytest.mark.parametrize(("transform", "variance"), CASES, ids=["affine", "logit"])
def test_importance_samples_tighten_the_bound_to_the_mass_of_the_bin(transform, variance):
    data, rows = bell(variance), torch.arange(4)[:, None].repeat(500, 1)
    exact, gaps = mass(data, transform), []
    for k in (1, 4, 64):
        found = Discrete(exactly(data), transform, k=k)(rows, noise=SeededNoise(0))
        nats = found.nats.reshape(-1, 4)
        spread_of_mean = nats.std(0) / len(nats) ** 0.5
        assert (nats.mean(0) < exact + 4 * spread_of_mean).all()
        gaps.append(float((exact - nats.mean(0)).sum()))
        if k == 64:  # the standard error is that of the draws
            ratio = found.stderr.reshape(-1, 4).mean(0) / nats.std(0)
            assert (ratio - 1).abs().max() < 0.15
    assert gaps[0] > 3.0 * gaps[1] > 9.0 * gaps[2]


@pytest.mark.parametrize("k", [2, 8, 32])
def test_the_standard_error_of_draws_is_right_where_one_weight_dominates(k):
    data = Gaussian(torch.zeros(16).double(), 0.01 * torch.eye(16).double())
    levels = torch.randint(2, 6, (1, 16), generator=generator(0)).repeat(2000, 1)
    found = Discrete(exactly(data), Affine.bins(8), k=k)(levels, noise=SeededNoise(0))
    nats, stderr = found.nats, found.stderr
    assert float(nats.std()) > 3.5
    assert float(stderr.square().mean().sqrt() / nats.std()) == pytest.approx(1.0, abs=0.2)
    covered = ((nats - nats.mean()).abs() < 2.0 * stderr).double().mean()
    assert 0.65 < float(covered) < 0.8


def test_the_standard_error_is_unknown_where_the_other_draws_weigh_nothing():
    def density(y, noise):
        nats = torch.where(y[:, 0] < 0.0, 0.0, -math.inf).double()
        return LogLikelihood(nats, {}, torch.zeros_like(nats), torch.ones(len(y)).long(), 1)

    with_both = torch.tensor([[-9.0], [9.0]])
    draws = [density(y, None) for y in (with_both, -with_both, with_both)]
    assert importance_bound(draws, "").stderr.isnan().tolist() == [False, True]


def test_the_mean_of_one_draw_is_the_bound_of_jensen():
    data, transform = bell(), Affine.bins(4)
    u, w = (torch.as_tensor(v) for v in _gauss_legendre(40))
    points_of = transform.embed(torch.arange(4)[:, None] + u[None] - 0.5)
    logs = data.log_prob(points_of.reshape(-1, 1), SDE.level(SDE.t_min)).reshape(4, -1)
    jensen = (logs * w).sum(1) + transform.log_det
    rows = torch.arange(4)[:, None].repeat(4000, 1)
    found = Discrete(exactly(data), transform)(rows, noise=SeededNoise(0)).nats.reshape(-1, 4)
    z = (found.mean(0) - jensen) / found.std(0) * len(found) ** 0.5
    assert float(z.abs().max()) < 5.0


def _gauss_legendre(n):
    x, w = np.polynomial.legendre.leggauss(n)
    return 0.5 * (x + 1.0), 0.5 * w


@pytest.mark.parametrize(("transform", "variance"), CASES, ids=["affine", "logit"])
def test_a_trained_dequantiser_tightens_the_bound_too(transform, variance):
    data, rows = bell(variance), torch.arange(4)[:, None].repeat(500, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        law = FlowDequantiser((1,), 4, layers=1)
    sd.fit_dequantiser(law, data.denoiser(SDE), rows, transform, steps=150, lr=0.01)
    exact = mass(data, transform)
    plain, found = (
        Discrete(exactly(data), transform, q)(rows, noise=SeededNoise(0)).nats.reshape(-1, 4)
        for q in (UniformDequantiser(), law)
    )
    assert float((exact - found.mean(0)).max()) < 0.05
    assert float((exact - found.mean(0)).sum()) < 0.1 * float((exact - plain.mean(0)).sum())
    assert (found.mean(0) < exact + 4 * found.std(0) / 500**0.5).all()


@pytest.mark.parametrize("shape", [(3,), (2, 5), (3, 4, 4), (1, 2, 3, 2)])
def test_the_density_of_a_dequantiser_is_that_of_its_draws(shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        law = FlowDequantiser(shape, 8, width=4).double()
        for p in law.parameters():
            nn.init.normal_(p, std=0.2)
    x = torch.randint(8, (1, *shape), generator=generator(0))
    z = normal(1, *shape, dtype=torch.float64)
    draw = lambda z: law.requires_grad_(False).draw(x, InjectedNoise([z]))  # noqa: E731
    u, log_q = draw(z)
    jacobian = torch.autograd.functional.jacobian(lambda z: draw(z)[0], z)
    slope = torch.linalg.slogdet(jacobian.reshape(z.numel(), z.numel()))[1]
    base = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum()
    assert float(log_q) == pytest.approx(float(base - slope), rel=1e-9)
    assert bool(((u > 0) & (u < 1)).all())


def test_the_loss_of_a_dequantiser_has_the_gradient_of_the_bound():
    data, transform = Gaussian(torch.zeros(2).double(), spread(0.2, 0.05)), Logit(4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        law = FlowDequantiser((2,), 4, width=4).double()
        for p in law.parameters():
            nn.init.normal_(p, std=0.3)
    x, noise = torch.tensor([[0, 3], [1, 2]]), SeededNoise(0)
    loss = dequantiser_loss(law, Field(data.denoiser(SDE)), transform, x, noise).sum()
    u, log_q = law.draw(x, noise)
    y = transform.embed(x + u - 0.5)
    bound = data.log_prob(y, SDE.level(SDE.t_min)) + 2 * transform.log_det_at(y) - log_q
    wanted = torch.autograd.grad(-bound.sum(), list(law.parameters()))
    for found, true in zip(torch.autograd.grad(loss, list(law.parameters())), wanted, strict=True):
        assert torch.allclose(found, true, rtol=1e-6, atol=1e-9)


def test_draws_of_a_sample_do_not_depend_on_its_batch():
    images = torch.randint(8, (5, 1, 2, 2), generator=generator(0))
    density = partial(sd.log_likelihood, model_on(), steps=5, trace=Hutchinson(2))
    bits = Discrete(density, Affine.bins(8), k=2)
    whole = bits(images, noise=SeededNoise(3))
    alone = bits(images[2:3], noise=SeededNoise(3, start=2))
    assert torch.allclose(whole.nats[2:3], alone.nats, rtol=1e-6)
    assert torch.equal(whole.nfe, torch.full((5,), 2 * 5))


def test_probes_are_one_for_all_draws_so_that_none_is_favoured():
    probes = []

    def density(y, noise):
        probes.append(noise.fold(0).normal(y))
        return exactly(bell())(y, noise)

    Discrete(density, Affine.bins(4), k=3)(torch.tensor([[1], [2]]), noise=SeededNoise(0))
    assert all(torch.equal(p, probes[0]) for p in probes)


@pytest.mark.parametrize("k", [1, 2])
def test_the_decoder_is_exact_for_white_gaussian_data(k, sde):
    c = 0.7
    data = Gaussian(torch.zeros(3).double(), c * c * torch.eye(3).double())
    x = normal(4, 3, dtype=torch.float64)
    found = Decoded(exactly(data, sde), data.denoiser(sde), k=k)(x, noise=SeededNoise(0))
    assert torch.allclose(found.nats, data.log_prob(x), rtol=1e-8)
    assert torch.equal(found.nfe, torch.full((4,), 2 * k))


@pytest.mark.parametrize("make", [pair, triple])
def test_the_flow_with_a_decoder_is_the_density_of_the_data(make):
    data, sde = make(), VPSDE(t_min=1e-4)
    x, model = points(data), data.denoiser(sde)
    flow = partial(sd.log_likelihood, model, steps=60, prior=TrueMarginal(data, sde))
    found = Decoded(flow, model, k=2)(x, noise=SeededNoise(0))
    assert float((found.nats - data.log_prob(x)).abs().max()) < 0.02
    assert torch.allclose(found.nats, sum(found.parts.values()))
    assert "GaussianDecoder" in found.method
    assert found.bound


@pytest.mark.parametrize("transform", [Affine.bins(8), Affine.endpoints(8), Logit(8)])
@pytest.mark.parametrize("state", [-30.0, -0.9, 0.1, 40.0])
def test_a_discretised_decoder_is_a_law_of_the_levels(transform, state):
    sde = VPSDE(t_min=0.01)
    model = Gaussian(torch.zeros(1).double(), torch.eye(1).double()).denoiser(sde)
    x = transform.forward(torch.arange(8)[:, None]).double()
    prediction = model(torch.full_like(x, state), sde.level(sde.t_min))
    logs = DiscretisedGaussian(transform).log_prob(x, prediction, 1.0)
    assert logs.isfinite().all()
    assert float(logs.logsumexp(0)) == pytest.approx(0.0, abs=1e-9)


def fit(n=3, levels=4, **how):
    x = torch.ones(n, 1).long()
    sd.fit_dequantiser(FlowDequantiser((1,), levels), model_on(), x, Affine.bins(4), **how)


def noisy(**how):
    return partial(sd.elbo, model_on(), n=3, **how)


def of_levels(density, k=1):
    """Return the record of two grey levels by a density."""
    levels = torch.tensor([[1], [2]])
    return Discrete(density, Affine.bins(4), k=k)(levels, noise=SeededNoise(0))


def test_a_noisy_bound_may_be_dequantised_once():
    found = of_levels(noisy())
    assert found.bound
    assert found.probability
    assert set(found.parts) == {"prior", "diffusion", "decoder", "transform", "dequantiser"}


def test_integers_and_continuous_data_compose_in_one_line():
    images = torch.randint(8, (3, 1, 2, 2), generator=generator(0))
    model, transform = model_on(), Affine.bins(8)
    flow = partial(sd.log_likelihood, model, steps=4)
    found = Discrete(Decoded(flow, model, k=3), transform, k=2)(images, noise=SeededNoise(0))
    names = {"prior", "log_det", "decoder", "transform", "dequantiser", "draws"}
    assert set(found.parts) == names
    assert torch.allclose(found.nats, sum(found.parts.values()))
    assert found.log_det_data == 0.0
    assert "UniformDequantiser" in str(found)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Discrete(exactly(bell()), Affine.bins(4), k=0), "k=0"),
        (lambda: Discrete(exactly(bell()), Affine()), "transform=Affine.*continuous"),
        (lambda: Decoded(exactly(bell()), model_on(), k=1.5), r"k=1\.5"),
        (lambda: DiscretisedGaussian(Affine()), "transform=Affine.*GaussianDecoder"),
        (lambda: FlowDequantiser((0, 2), 4), r"shape=\(0, 2\)"),
        (lambda: FlowDequantiser((2,), 4, layers=0), "layers=0"),
        (lambda: FlowDequantiser((2,), 1), "levels=1"),
        (
            lambda: Discrete(exactly(bell()), Affine.bins(4), FlowDequantiser((1,), 8)),
            "levels=8: the transform has 4",
        ),
        (lambda: fit(levels=8), "levels=8: the transform has 4"),
        (lambda: fit(batch_size=0), "batch_size=0"),
        (lambda: fit(steps=0), "steps=0"),
        (lambda: fit(n=0), r"x: shape \(0, 1\) has no samples"),
        (
            lambda: Discrete(exactly(bell()), Affine.bins(4))(
                torch.rand(2, 1), noise=SeededNoise(0)
            ),
            "x holds torch.float32 .*levels=4",
        ),
        (
            lambda: Discrete(
                partial(sd.log_likelihood, model_on(), steps=2, transform=Affine.bins(4)),
                Affine.bins(4),
            )(torch.tensor([[1, 2]]), noise=SeededNoise(0)),
            "density: .*transform of its own",
        ),
        (
            lambda: Decoded(exactly(bell()), model_on())(torch.tensor([[1]]), noise=SeededNoise(0)),
            "x: dtype torch.int64",
        ),
        (lambda: of_levels(noisy(), k=2), "k=2: ELBO.*noisy bound.*k=1.*log_likelihood"),
        (
            lambda: of_levels(noisy(decoder=DiscretisedGaussian(Affine.bins(4)))),
            "density: ELBO.*counts transform, dequantiser already",
        ),
        (
            lambda: of_levels(
                Decoded(exactly(bell()), model_on(), DiscretisedGaussian(Affine.bins(4)))
            ),
            "density: 1 x DiscretisedGaussian.*counts transform, dequantiser already",
        ),
        (
            lambda: Decoded(noisy(), model_on())(torch.rand(2, 1), noise=SeededNoise(0)),
            "density: ELBO.*counts decoder already",
        ),
    ],
)
def test_what_is_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_the_gaussian_decoder_prints():
    assert str(GaussianDecoder()) == "GaussianDecoder()"
