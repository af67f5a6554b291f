"""Sliced score matching: the same objective as denoising score matching, up to a constant."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from conftest import generator
from test_losses import C, Off, exact, hermite, interior
from torch import Tensor, nn

from scoresde import SDE, VPSDE, Denoiser, feed_t
from scoresde.training import SlicedScoreMatching, dsm_loss, edm, likelihood, sigma2, ssm_loss

SIGNS = torch.tensor(list(product((-1.0, 1.0), repeat=2)), dtype=torch.float64)


class Bent(nn.Module):
    """A cubic of both coordinates, whose expectations a quadrature has exactly."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.7, -0.2, 0.1], dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        a, b, c = self.w
        return a * x + b * x.flip(1) + c * x**3 + 0.05 * x.square() * x.flip(1)


def expectation(n: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Return data and noise (n^4, 2) in the plane, and weights."""
    x, e, w = hermite(n)
    i, j = torch.cartesian_prod(torch.arange(len(x)), torch.arange(len(x))).unbind(1)
    return torch.cat([x[i], x[j]], 1), torch.cat([e[i], e[j]], 1), w[i] * w[j]


@pytest.mark.parametrize("weighting", [sigma2, likelihood, edm])
def test_it_is_denoising_score_matching_less_the_weight(weighting):
    sde = VPSDE()
    model = Denoiser(Bent(), sde, "eps", time_input=feed_t)
    x0, eps, weights = expectation()
    for t in interior(sde, 3):
        times = t.repeat(len(x0))
        sliced = sum(
            weights @ ssm_loss(model, x0, times, eps, v.expand_as(x0), weighting) for v in SIGNS
        ) / len(SIGNS)
        denoising = weights @ dsm_loss(model, x0, times, eps, weighting)
        weight = weighting(sde.level(t), model)
        torch.testing.assert_close(sliced, denoising - weight, rtol=1e-9, atol=1e-12)
        # and so have the gradients
        ours, theirs = (torch.autograd.grad(v, model.net.w)[0] for v in (sliced, denoising))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_its_gradient_vanishes_at_the_exact_score():
    class Linear(nn.Module):
        def __init__(self, slope: Tensor):
            super().__init__()
            self.slope = nn.Parameter(slope)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return -self.slope * x

    sde, (x0, eps, weights) = VPSDE(), hermite()  # of one coordinate, where all signs are one
    for t in interior(sde):
        best = 1 / (sde.alpha(t) ** 2 * C**2 + sde.sigma(t) ** 2)
        for factor, sign in ((0.9, -1), (1.0, 0), (1.1, 1)):
            model = Denoiser(Linear(factor * best), sde, "score", time_input=feed_t)
            loss = weights @ ssm_loss(model, x0, t.repeat(len(x0)), eps, torch.ones_like(x0))
            (slope,) = torch.autograd.grad(loss, model.net.slope)
            scale = 2 * sde.sigma(t) ** 2
            assert float(slope / scale) == pytest.approx(sign * 0.1, abs=1e-9)


def test_loss_of_the_exact_score(sde: SDE):
    # -E |score|^2 sigma^2 / D = -sigma^2 / V
    x0, eps, weights = hermite()
    for t in interior(sde, 3):
        loss = ssm_loss(exact(sde), x0, t.repeat(len(x0)), eps, torch.ones_like(x0))
        signal, noise = sde.alpha(t) ** 2 * C**2, sde.sigma(t) ** 2
        torch.testing.assert_close(weights @ loss, -noise / (signal + noise), rtol=1e-7, atol=0)


def test_random_by_the_generator_alone_and_without_a_graph_where_none_is_asked():
    model, x0 = Denoiser(Off(), VPSDE(), "v"), torch.ones(8, 2)
    before = torch.random.get_rng_state()
    with torch.no_grad():
        losses = [SlicedScoreMatching()(model, x0, generator(seed)) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert not losses[0].requires_grad
    assert torch.equal(before, torch.random.get_rng_state())


def test_integers_are_refused():
    with pytest.raises(ValueError, match=r"x0: dtype torch.int64"):
        SlicedScoreMatching()(exact(VPSDE()), torch.ones(4, 1).long(), generator(0))
