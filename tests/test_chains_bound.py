"""The bound of a chain: every term in closed form, and its limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import pytest
import torch
from chain_helpers import corners, gaussian, learned
from conftest import generator
from solver_examples import GivenNoise
from torch.distributions import MultivariateNormal, Normal, kl_divergence

import scoresde as sd
from scoresde import FixedGrid, Gaussian, GaussianDecoder, Prior, QuadraticGrid
from scoresde.chains import (
    ChainDecoder,
    CosineBetas,
    GeometricSigmas,
    LinearBetas,
    Respaced,
    VPLadder,
    vlb,
)
from scoresde.chains.bound import divergence
from scoresde.data import Affine

DATA = gaussian()


def ends(sde, i):
    """Return beta_i and the products of 1 - beta up to i - 1 and to i."""
    betas = torch.tensor(sde.betas(), dtype=torch.float64)
    kept = torch.cat([torch.ones(1).double(), torch.cumprod(1 - betas, 0)])
    return betas[i - 1], kept[i - 1], kept[i]


def divergence_by_betas(sde, i, x0, z, guess, log_variance):
    """Return KL(q || p) along each dimension, by eqs. 6 and 7 of Ho et al. 2020."""
    beta, before, kept = ends(sde, i)
    x = kept.sqrt() * x0 + (1 - kept).sqrt() * z

    def mean(of):
        return (before.sqrt() * beta * of + (1 - beta).sqrt() * (1 - before) * x) / (1 - kept)

    posterior = beta * (1 - before) / (1 - kept)
    q, p = Normal(mean(x0), posterior.sqrt()), Normal(mean(guess), (0.5 * log_variance).exp())
    return kl_divergence(q, p).sum(1)


@pytest.mark.parametrize("make", [LinearBetas, CosineBetas])
@pytest.mark.parametrize("i", [2, 3, 20, 39, 40])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, "each"])
def test_a_divergence_is_that_of_the_two_gaussians(make, i, share):
    sde = make(n=40)
    x0, z = (torch.randn(4, 3, generator=generator(k)).double() for k in (0, 1))
    v = torch.rand(4, 3, generator=generator(2)).double() if share == "each" else share
    here, there = sde.level(float(i)), sde.level(i - 1.0)
    prediction = DATA.denoiser(sde)(sde.perturb(x0, float(i), z), here)
    beta, before, kept = ends(sde, i)
    log_variance = v * beta.log() + (1 - v) * (beta * (1 - before) / (1 - kept)).log()
    exact = divergence_by_betas(sde, i, x0, z, prediction.x0, log_variance)
    torch.testing.assert_close(divergence(prediction, z, there, v), exact, rtol=1e-7, atol=1e-12)
    # and with a level of each sample's own
    each = sde.level(torch.full((4, 1), float(i)).double())
    prediction = DATA.denoiser(sde)(sde.perturb(x0, float(i), z), each)
    found = divergence(prediction, z, sde.before(each), v)
    torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-12)


def expected_terms(sde, x, share, prior, levels=None):
    """L_0, ..., L_n of the exact denoiser of DATA at x (D,), in nats, in closed form."""
    levels = levels or range(1, sde.n + 1)
    variances, offset = DATA.variances[0], (x - DATA.means[0]) @ DATA.axes[0]
    first = sde.level(1.0)
    c = float(variances.mean().sqrt())
    std = c * first.sigma / math.hypot(first.alpha * c, first.sigma)
    v = first.alpha**2 * variances + first.sigma**2
    miss = (offset * first.sigma**2 / v).square() + (variances * first.alpha * first.sigma / v) ** 2
    terms = [float((0.5 * miss / std**2 + math.log(std * math.sqrt(2 * math.pi))).sum())]
    for below, i in pairwise(levels):
        here, there = sde.level(float(i)), sde.level(float(below))
        v = here.alpha**2 * variances + here.sigma**2
        error = (here.alpha**2 * variances / v) ** 2 + (here.alpha * here.sigma * offset / v) ** 2
        ratio = (there.sigma / here.sigma) ** (2 * share)
        gain = math.expm1(2 * (there.lam - here.lam))
        terms.append(float(0.5 * (ratio - 1 - math.log(ratio) + ratio * gain * error).sum()))
    last = sde.level(float(sde.n))
    one = torch.eye(3).double()
    q = MultivariateNormal(last.alpha * x, last.sigma**2 * one)
    p = MultivariateNormal(prior.mean * torch.ones(3).double(), prior.std**2 * one)
    return torch.tensor([*terms, float(kl_divergence(q, p))], dtype=torch.float64)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    "sde", [LinearBetas(n=30), CosineBetas(n=30), GeometricSigmas(n=30)], ids=str
)
def test_every_term_is_its_expectation(sde, share):
    """The mean over the corners is that over all noise, as every term is quadratic in it."""
    x = torch.tensor([0.3, -1.2, 0.4]).double()
    rows, z = corners(x)
    found = vlb(DATA.denoiser(sde), rows, share=share, noise=GivenNoise(z))
    exact = expected_terms(sde, x, share, sde.prior())
    torch.testing.assert_close(found.terms.mean(0), exact, rtol=1e-8, atol=1e-10)
    assert float(found.nats.mean()) == pytest.approx(-float(exact.sum()), rel=1e-9)
    assert set(found.parts) == {"prior", "diffusion", "decoder"}
    assert found.bound
    assert not found.probability
    if share == 0.0:  # the default of fixed variances
        assert torch.equal(vlb(DATA.denoiser(sde), rows, noise=GivenNoise(z)).nats, found.nats)
    torch.testing.assert_close(found.bits_per_dim, found.terms.sum(1) / (3 * math.log(2)))


# Fewer levels


@pytest.mark.parametrize(
    ("steps", "grid", "levels"),
    [
        (4, None, [1, 11, 20, 30]),
        (2, None, [1, 30]),
        (5, Respaced(QuadraticGrid()), [1, 4, 10, 19, 30]),
        (3, FixedGrid((30.0, 12.5, 1.0)), [1, 12.5, 30]),
    ],
)
def test_terms_of_a_respaced_chain_are_their_expectations(steps, grid, levels):
    sde, x = LinearBetas(n=30), torch.tensor([0.3, -1.2, 0.4]).double()
    rows, z = corners(x)
    model, given = DATA.denoiser(sde), GivenNoise(z)
    found = vlb(model, rows, steps=steps, grid=grid, share=0.4, noise=given)
    exact = expected_terms(sde, x, 0.4, sde.prior(), levels)
    assert len(exact) == steps + 1
    torch.testing.assert_close(found.terms.mean(0), exact, rtol=1e-8, atol=1e-10)
    assert int(found.nfe[0]) == 2 * (steps - 1) + 2


@dataclass(frozen=True)
class Kept(VPLadder):
    """The chain by betas of its own, 1 - abar_k / abar_{k-1} (Nichol and Dhariwal 2021, Sec. 4)."""

    alphas: tuple[float, ...] = ()

    def betas(self):
        return [1.0 - (b / a) ** 2 for a, b in pairwise((1.0, *self.alphas))]


@pytest.mark.parametrize("n", [None, 6])
def test_the_bound_of_a_respaced_chain_is_that_of_the_chain_by_its_betas(n):
    sde = CosineBetas(n=40)
    levels = Respaced().levels(sde, 8)[::-1]
    own = Kept(n=9, alphas=tuple(float(level.alpha) for level in levels))
    x = torch.randn(5, 3, generator=generator(0)).double()
    found = vlb(DATA.denoiser(sde), x, n=n, steps=9, seed=0)
    exact = vlb(DATA.denoiser(own), x, n=n, seed=0)
    for name in found.parts:
        torch.testing.assert_close(found.parts[name], exact.parts[name], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.stderr, exact.stderr, rtol=1e-7, atol=0)
    assert torch.equal(found.nfe, exact.nfe)


@pytest.mark.parametrize("n", [None, 6])
@pytest.mark.parametrize("sde", [LinearBetas(n=30), GeometricSigmas(n=30)], ids=str)
def test_all_levels_kept_are_the_whole_chain(sde, n):
    x = torch.randn(5, 3, generator=generator(0)).double()
    model = DATA.denoiser(sde)
    found = vlb(model, x, n=n, steps=30, grid=Respaced(), seed=0)
    whole = vlb(model, x, n=n, seed=0)
    assert torch.equal(found.nats, whole.nats)
    assert torch.equal(found.stderr, whole.stderr)
    every = FixedGrid(tuple(float(i) for i in range(30, 0, -1)))
    assert torch.equal(vlb(model, x, n=n, steps=30, grid=every, seed=0).nats, whole.nats)


def test_a_chain_of_fewer_levels_has_a_lower_bound():
    sde, x = LinearBetas(), torch.tensor([0.3, -1.2, 0.4]).double()
    rows, z = corners(x)
    nats = [
        float(vlb(DATA.denoiser(sde), rows, steps=k, noise=GivenNoise(z)).nats.mean())
        for k in (10, 30, 100)
    ]
    assert nats[0] < nats[1] < nats[2] < float(DATA.log_prob(x[None]))


def test_the_network_s_own_share_is_taken():
    sde, x = LinearBetas(n=30), torch.tensor([0.3, -1.2, 0.4]).double()
    rows, z = corners(x)
    found = vlb(learned(DATA, sde, w=-0.2), rows, noise=GivenNoise(z))
    exact = expected_terms(sde, x, 0.4, sde.prior())
    torch.testing.assert_close(found.terms.mean(0)[1:], exact[1:], rtol=1e-6, atol=1e-8)
    fixed = vlb(learned(DATA, sde, w=-0.2), rows, share=1.0, noise=GivenNoise(z))
    exact = expected_terms(sde, x, 1.0, sde.prior())
    torch.testing.assert_close(fixed.terms.mean(0)[1:], exact[1:], rtol=1e-6, atol=1e-8)


def test_the_last_term_of_ddpm_is_nothing():
    """Below 1e-5 bits/dim for grey levels in [-1, 1] (Ho et al. 2020, Sec. 4)."""
    sde, x = LinearBetas(), torch.rand(2, 12, generator=generator(0)).double() * 2 - 1
    data = Gaussian(torch.zeros(12).double(), 0.25 * torch.eye(12).double())
    found = vlb(data.denoiser(sde), x, n=2, prior=Prior(), seed=0)
    bits = -found.parts["prior"] / (12 * math.log(2))
    level = sde.level(1000.0)
    q = Normal(level.alpha * x, level.sigma)
    exact = kl_divergence(q, Normal(torch.zeros(1).double(), 1.0)).sum(1)
    torch.testing.assert_close(-found.parts["prior"], exact, rtol=1e-8, atol=1e-12)
    assert float(bits.max()) < 3e-5


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_with_more_levels_the_bound_tends_to_the_density(share):
    # along the axes of the data, so that its law at T is a prior
    data = Gaussian(DATA.mean, torch.diag(DATA.variances[0]))
    x = torch.tensor([0.3, -1.2, 0.4]).double()
    rows, z = corners(x)
    gaps = []
    for n in (50, 100, 200, 400):
        sde = GeometricSigmas(n=n, sigma_max=20.0, sigma_min=0.005)
        prior = sde.prior(data.mean, data.covariance.diagonal())
        found = vlb(data.denoiser(sde), rows, share=share, prior=prior, noise=GivenNoise(z))
        gaps.append(float(data.log_prob(x[None])) - float(found.nats.mean()))
    assert all(0.0 < b < a for a, b in pairwise(gaps))
    assert gaps[2] / gaps[3] == pytest.approx(2.0, abs=0.1)  # like 1 / n
    assert gaps[3] < 0.3
    _, one, two, four = gaps
    assert (8 * four - 6 * two + one) / 3 == pytest.approx(0.0, abs=1e-3)  # at n = infinity


def test_drawn_levels_estimate_the_same_sum():
    """Over an even grid of where a level is drawn, with the same noise at all levels."""
    sde, m = LinearBetas(n=10, beta_max=0.5), 20_000
    x, z = torch.tensor([[0.3, -1.2, 0.4]]).double(), torch.tensor([[1.0, -0.5, 0.2]]).double()

    class Even(sd.SeededNoise):
        def normal(self, like, *address):
            if like.shape[1:] == (2,):
                u = (torch.arange(m) + 0.5).double() / m
                return torch.special.ndtri(u)[:, None].expand(m, 2)
            return z.expand(like.shape)

        def fold(self, key):
            return self

    model = DATA.denoiser(sde)
    every = vlb(model, x, noise=Even(0))
    some = vlb(model, x.expand(m, 3), n=2, noise=Even(0))
    assert some.terms is None
    for name in ("diffusion", "decoder", "prior"):
        exact = float(every.parts[name])
        assert float(some.parts[name].mean()) == pytest.approx(exact, rel=2e-4), name


def test_a_level_is_drawn_from_each_stratum_by_a_draw_of_its_own():
    """The levels by hand, at depths log(1 + c^2 SNR) / 2 of the data's own deviation."""
    sde, x = LinearBetas(n=60, beta_max=0.1), torch.tensor([[0.3, -1.2, 0.4, 0.5]]).double()
    data = Gaussian(torch.zeros(4).double(), 0.01 * torch.eye(4).double())
    model, z, u = (
        data.denoiser(sde),
        torch.tensor([[1.0, -0.5, 0.2, 0.7]]).double(),
        (0.1, 0.5, 0.9),
    )

    class Drawn(GivenNoise):
        def normal(self, like, *address):
            return torch.special.ndtri(like.new_tensor([u])) if like.shape == (1, 3) else self.draw

        def fold(self, key):
            return self

    every = vlb(model, x, noise=Drawn(z)).terms[0]
    depths = [0.5 * math.log1p(0.01 * math.exp(2 * lam)) for lam in sde.lams[::-1]]
    width, total, chosen = (depths[-1] - depths[0]) / 3, 0.0, []
    for j in range(3):
        s = depths[0] + (j + u[j]) * width
        k = next(k for k in range(1, 60) if depths[k - 1] <= s < depths[k])
        chosen.append(61 - k)
        total += width * float(every[60 - k]) / (depths[k] - depths[k - 1])
    found = vlb(model, x, n=3, noise=Drawn(z))
    assert -float(found.parts["diffusion"]) == pytest.approx(total, rel=1e-9)
    assert chosen[0] > chosen[1]


@pytest.mark.parametrize("n", [None, 25])
def test_the_standard_error_is_that_of_the_draws(n):
    sde = LinearBetas(n=40, beta_min=1e-3, beta_max=0.3)
    x = torch.randn(64, 3, generator=generator(0)).double()
    model = DATA.denoiser(sde)
    runs = [vlb(model, x, n=n, seed=k) for k in range(8)]
    actual = torch.stack([r.nats for r in runs]).var(0).mean().sqrt()
    claimed = torch.stack([r.stderr for r in runs]).square().mean().sqrt()
    assert abs(float((claimed / actual).log())) < 0.25


def test_calls_are_counted():
    sde, x = LinearBetas(n=20), torch.zeros(2, 3).double()
    field = DATA.denoiser(sde)
    assert int(vlb(field, x, seed=0).nfe[0]) >= 19 + 2
    assert int(vlb(field, x, n=4, seed=0).nfe[0]) == 4 + 2


def test_one_draw_knows_no_standard_error():
    found = vlb(DATA.denoiser(LinearBetas(n=20)), torch.zeros(2, 3).double(), n=1, seed=0)
    assert found.stderr.isnan().all()


# The last step


def test_grey_levels_have_a_probability():
    """By the decoder of the paper, whose bins sum to one at any state."""
    sde, transform = LinearBetas(n=30), Affine.endpoints(4)
    model = learned(DATA, sde, w=0.1)
    level = sde.level(1.0)
    state = torch.randn(1, 3, generator=generator(0)).double()
    grey = torch.cartesian_prod(*[torch.arange(4)] * 3)
    x = transform.forward(grey).double()
    for share in (0.0, 0.7, 1.0, None):
        decoder = ChainDecoder(transform, share)
        logs = decoder.log_prob(x, model(state.expand(64, 3), level), 1.0)
        assert float(logs.exp().sum()) == pytest.approx(1.0, rel=1e-10)
    found = vlb(model, x[:5], decoder=ChainDecoder(transform), seed=0)
    assert found.probability
    assert bool((found.terms >= 0.0).all())


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_the_last_variance_is_between_the_two_of_the_paper(share):
    sde = LinearBetas(n=30)
    beta, before, kept = ends(sde, 2)
    posterior, first = beta * (1 - before) / (1 - kept), sde.betas()[0]
    exact = share * math.log(first) + (1 - share) * float(posterior.log())
    prediction = DATA.denoiser(sde)(torch.zeros(1, 3).double(), sde.level(1.0))
    decoder = ChainDecoder(share=share)
    assert 2 * math.log(decoder.std(prediction)) == pytest.approx(exact, rel=1e-10)
    x = torch.ones(1, 3).double()
    normal = Normal(prediction.x0, math.exp(0.5 * exact))
    torch.testing.assert_close(decoder.log_prob(x, prediction, 1.0), normal.log_prob(x).sum(1))


def test_gradients_flow_when_asked():
    sde, x = LinearBetas(n=5, beta_max=0.5), torch.zeros(2, 3).double().requires_grad_()
    assert not vlb(DATA.denoiser(sde), x, seed=0).nats.requires_grad
    vlb(DATA.denoiser(sde), x, seed=0, gradient="direct").nats.sum().backward()
    assert bool((x.grad != 0).all())


def test_bad_input_is_refused_by_name():
    model, x = DATA.denoiser(LinearBetas(n=5)), torch.zeros(2, 3).double()
    for word, call in {
        "vlb": partial(vlb, DATA.denoiser(sd.VPSDE()), x),
        "share=2": partial(vlb, model, x, share=2),
        "n=0": partial(vlb, model, x, n=0),
        "steps=1 ": partial(vlb, model, x, steps=1),
        "has 5 levels": partial(vlb, model, x, steps=6),
        "steps=4: grid=.* has 3 levels": partial(
            vlb, model, x, steps=4, grid=FixedGrid((5.0, 3.0, 1.0))
        ),
        "leads from t=5.0 to 2.0": partial(vlb, model, x, steps=2, grid=FixedGrid((5.0, 2.0))),
        "gradient": partial(vlb, model, x, gradient="adjoint"),
        "x: dtype": partial(vlb, model, x.long()),
        "transform": partial(ChainDecoder, Affine()),
        "takes variances": partial(vlb, model, x, decoder=ChainDecoder()),
    }.items():
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(TypeError, match="grid='x' is no Grid"):
        vlb(model, x, grid="x")


def test_a_grid_of_its_own_levels_keeps_those():
    model, x = DATA.denoiser(LinearBetas(n=30)), torch.zeros(2, 3).double()
    grid = FixedGrid((30.0, 12.0, 1.0))
    whole = vlb(model, x, steps=3, grid=grid, seed=0)
    assert torch.equal(vlb(model, x, grid=grid, seed=0).nats, whole.nats)


@pytest.mark.parametrize("steps", [2, 10, 60])
def test_the_standard_error_of_few_levels_is_that_of_their_draws(steps):
    x = torch.tensor([0.3, -1.2, 0.4]).double().expand(4000, 3)
    found = vlb(DATA.denoiser(LinearBetas(n=300)), x, steps=steps, seed=0)
    drawn = found.parts["diffusion"] + found.parts["decoder"]
    told = float(found.stderr.square().mean().sqrt())
    assert told == pytest.approx(float(drawn.std()), rel=0.2)


def test_the_continuous_bound_is_its_limit_on_a_trained_scale():
    """With the levels of a continuous process, `vlb` with many levels is `elbo`."""
    sde = GeometricSigmas(n=2000, sigma_max=10.0, sigma_min=0.01)
    x = torch.tensor([[0.3, -1.2, 0.4]]).double().expand(16, 3)
    model = DATA.denoiser(sde)
    chain = vlb(model, x, n=100, decoder=GaussianDecoder(), seed=0)
    process = sd.elbo(model, x, n=100, seed=1)
    stderr = float((chain.stderr.square() + process.stderr.square()).sum().sqrt()) / 16
    assert float((chain.nats - process.nats).mean()) == pytest.approx(0.0, abs=4 * stderr)
