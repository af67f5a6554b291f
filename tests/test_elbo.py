"""The evidence lower bound against exact densities and exact expectations."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from conftest import PROCESSES
from solver_examples import model_on, normal
from test_likelihood import TrueMarginal, pair, points, triple

import scoresde as sd
from scoresde import (
    VPSDE,
    Decoded,
    DiscretisedGaussian,
    Gaussian,
    GaussianMixture,
    Prior,
    SeededNoise,
)
from scoresde.data import Affine


def white(c, d=3):
    return Gaussian(torch.zeros(d).double(), c * c * torch.eye(d).double())


def on_shell(c, n=4, d=3):
    """Points whose mean square is c^2, for which every level's integrand is the same."""
    x = normal(n, d, dtype=torch.float64)
    return x * c * d**0.5 / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("n", [2, 7])
@pytest.mark.parametrize("c", [0.5, 2.0])
def test_the_bound_is_the_density_of_white_gaussian_data_draw_by_draw(c, n, sde):
    data, x = white(c), on_shell(c)
    found = sd.elbo(data.denoiser(sde), x, n=n, prior=sde.prior(0.0, c * c), seed=0)
    assert torch.allclose(found.nats, data.log_prob(x), rtol=1e-9)
    assert float(found.stderr.max()) < 1e-9
    assert found.bound


def expected_bound(data, sde, x, prior):
    """The bound's exact expectation for Gaussian data and the exact score, by quadrature in lam.

    Along an axis of variance c^2, eps - eps^ = (alpha^2 c^2 eps - alpha sigma (x - m)) / V.
    """
    variances = data.variances[0]
    offset = (x - data.means[0]) @ data.axes[0]
    nodes, weights = np.polynomial.legendre.leggauss(400)
    low, high = float(sde.lam(sde.T)), float(sde.lam(sde.t_min))
    total = torch.zeros(len(x), dtype=torch.float64)
    for node, weight in zip(nodes, weights, strict=True):
        level = sde.level_at(0.5 * (high + low) + 0.5 * (high - low) * node)
        a, s = level.alpha, level.sigma
        v = a * a * variances + s * s
        error = (a * a * variances / v).square() + (a * s * offset / v).square()
        total -= 0.5 * (high - low) * weight * error.sum(1)
    end, start = sde.level(sde.T), sde.level(sde.t_min)
    total += _cross(end.alpha * x, end.sigma, prior) + _entropy(end.sigma, x)
    a, s, c = start.alpha, start.sigma, float(variances.mean().sqrt())
    v, std = a * a * variances + s * s, c * s / math.hypot(a * c, s)
    miss = (offset * s * s / v).square() + (variances * a * s / v).square()
    each = miss / std**2 + 2 * math.log(std) + math.log(2 * math.pi)
    return total - 0.5 * each.sum(1)


def _cross(mean, sigma, prior):
    extra = (sigma / torch.as_tensor(prior.std, dtype=mean.dtype)).square().expand_as(mean)
    return prior.log_prob(mean) - 0.5 * extra.sum(1)


def _entropy(sigma, x):
    return x.shape[1] * (math.log(sigma) + 0.5 * math.log(2 * math.pi) + 0.5)


FINITE = [name for name in PROCESSES if name != "flow"]


@pytest.mark.parametrize("name", FINITE)
def test_in_the_mean_the_bound_of_the_exact_score_is_the_density(name, gaussian):
    sde = PROCESSES[name]
    # the law at T is a Gaussian along the axes of the data: turn them, so that it is a prior
    data = Gaussian(gaussian.mean, torch.diag(gaussian.variances[0]))
    x = normal(6, 4, seed=1, dtype=torch.float64)
    prior = sde.prior(data.mean, data.covariance.diagonal())
    exact, expected = data.log_prob(x), expected_bound(data, sde, x, prior)
    # up to the decoder's variance, which is the same along all axes
    off = (sde.sigma(sde.t_min) / sde.alpha(sde.t_min)) ** 2 / float(data.variances.min())
    assert float((exact - expected).abs().max()) < off
    model = data.denoiser(sde)
    found = sd.elbo(model, x, n=150, prior=prior, seed=0)
    assert float(((found.nats - expected) / found.stderr).abs().max()) < 5.0
    # and the flow agrees, with the same decoder
    flow = partial(sd.log_likelihood, model, steps=50, prior=prior)
    solved = Decoded(flow, model)(x, noise=SeededNoise(0)).nats
    assert torch.allclose(solved, expected, rtol=1e-4, atol=off)


@pytest.mark.parametrize("make", [pair, triple])
def test_the_bound_is_below_the_density_of_a_mixture(make, sde):
    data = make()
    x = points(data, 32)
    found = sd.elbo(data.denoiser(sde), x, n=200, prior=TrueMarginal(data, sde), seed=0)
    gap = found.nats - data.log_prob(x)
    stderr = float(found.stderr.square().sum().sqrt()) / len(x)
    assert float(gap.mean()) < 4 * stderr
    assert float(gap.mean()) > -4 * stderr - 0.01  # and as tight as the score is exact
    assert torch.allclose(found.nats, sum(found.parts.values()))
    assert set(found.parts) == {"prior", "diffusion", "decoder"}


def test_a_wrong_score_loosens_the_bound():
    data, sde = triple(), VPSDE()
    x = points(data, 32)
    wrong = Gaussian(data.mean, data.covariance).denoiser(sde)
    prior = TrueMarginal(data, sde)
    found, right = (
        sd.elbo(m, x, n=100, prior=prior, seed=0).nats.mean() for m in (wrong, data.denoiser(sde))
    )
    assert float(found) < float(right) - 0.2


def test_the_standard_error_is_that_of_the_draws():
    data = triple()
    x, model = points(data, 4), data.denoiser(VPSDE())
    runs = [sd.elbo(model, x, n=25, seed=k) for k in range(60)]
    actual = torch.stack([r.nats for r in runs]).std(0)
    claimed = torch.stack([r.stderr for r in runs]).square().mean(0).sqrt()
    assert float((claimed / actual).log().abs().max()) < 0.4


def test_one_draw_knows_no_standard_error():
    found = sd.elbo(model_on(), normal(2, 3), n=1, seed=0)
    assert found.stderr.isnan().all()
    assert found.nats.isfinite().all()


def test_the_prior_part_of_another_law_is_drawn():
    class Same(Prior):
        """The Gaussian prior, as one that is not known for it."""

    x, sde = normal(3, 4, dtype=torch.float64), VPSDE()
    plain = sd.elbo(white(1.0, 4).denoiser(sde), x, n=300, seed=0)
    drawn = sd.elbo(white(1.0, 4).denoiser(sde), x, n=300, seed=0, prior=Same())
    gap = (plain.parts["prior"] - drawn.parts["prior"]).abs()
    error = (drawn.stderr.square() - plain.stderr.square()).sqrt()
    assert (gap < 5 * error).all()
    assert (error > 0).all()


def test_grey_levels_that_are_points_cost_the_log_of_their_weights():
    weights = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64)
    transform = Affine.bins(4)
    k = torch.arange(4)[:, None]
    centres = transform.forward(k).double()
    data = GaussianMixture(weights, centres, torch.zeros(4, 1, 1).double())
    model = data.denoiser(VPSDE(t_min=1e-4))
    prior = TrueMarginal(data, model.sde)
    found = sd.elbo(
        model, centres, n=500, decoder=DiscretisedGaussian(transform), prior=prior, seed=0
    )
    z = (found.nats - weights.log()) / found.stderr
    assert float(z.abs().max()) < 4.0
    assert float(found.stderr.max()) < 0.3
    assert float(found.parts["decoder"].abs().max()) < 1e-9  # the noise at t_min hides no level


def test_draws_of_a_sample_do_not_depend_on_its_batch():
    model, x = model_on(), normal(4, 2, 3)
    whole = sd.elbo(model, x, n=6, seed=3)
    alone = sd.elbo(model, x[2:3], n=6, noise=SeededNoise(3, start=2))
    assert torch.allclose(whole.nats[2:3], alone.nats, rtol=1e-6)
    assert torch.allclose(whole.stderr[2:3], alone.stderr, rtol=1e-5)


def test_calls_are_counted_and_conditions_reach_the_network():
    model, x, shift = model_on(), normal(3, 2), normal(3, 2, seed=1)
    model.net.calls = 0
    found = sd.elbo(model, x, n=5, seed=0)
    assert found.nfe.tolist() == [model.net.calls] * 3 == [7] * 3
    assert not torch.allclose(
        found.nats, sd.elbo(model, x, n=5, seed=0, cond={"shift": shift}).nats
    )
    assert "upper bound" in str(found)


def test_gradients_of_the_bound_are_right():
    model = model_on(dtype=torch.float64)
    x = normal(2, 2, dtype=torch.float64).requires_grad_()
    assert not sd.elbo(model, x, n=3, seed=0).nats.requires_grad

    def nats(x):
        return sd.elbo(model, x, n=3, seed=0, gradient="direct").nats

    assert torch.autograd.gradcheck(nats, [x], eps=1e-6, atol=1e-5, rtol=1e-5)
    ends = Affine.bins(4).forward(torch.tensor([[0, 3]])).double()
    decoder = DiscretisedGaussian(Affine.bins(4))
    whole = sd.elbo(model, ends, n=3, decoder=decoder, seed=0, gradient="direct").nats
    assert all(g.isfinite().all() for g in torch.autograd.grad(whole.sum(), model.net.scale))
    (grad,) = torch.autograd.grad(nats(x).sum(), model.net.scale)
    assert float(grad) != 0.0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"n": 0}, "n=0"),
        ({"n": 2.5}, r"n=2\.5"),
        ({"gradient": "adjoint"}, "gradient='adjoint'.*'direct'"),
        ({"gradient": "nonsense"}, "gradient='nonsense'"),
        ({"seed": 0, "noise": SeededNoise(0)}, "seed=0 and noise="),
    ],
)
def test_arguments_that_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        sd.elbo(model_on(), normal(2, 3), **arguments)


def test_integers_are_refused_by_name():
    with pytest.raises(ValueError, match=r"x: dtype torch\.int64"):
        sd.elbo(model_on(), torch.ones(2, 3).long())
