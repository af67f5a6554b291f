"""The record of a likelihood: its errors, its conversions, and standard errors on demand."""

from __future__ import annotations

import math

import pytest
import torch
from solver_examples import model_on, normal
from torch import nn
from trace_helpers import Mixing

import scoresde as sd
from scoresde import VESDE, VPSDE, Denoiser, Gaussian, Hutchinson, Prior, SeededNoise
from scoresde.likelihood.jacobian import find_mode


def mixing(d):
    return Denoiser(Mixing(d), VPSDE(), "v"), normal(12, d, dtype=torch.float64)


def test_probes_are_added_until_every_sample_has_the_standard_error_asked_for():
    model, x = mixing(6)
    how = {"trace": Hutchinson(4), "steps": 12, "seed": 0}
    once = sd.log_likelihood(model, x, **how)
    target = float(once.bits_per_dim_stderr.median()) / 3.0
    found = sd.log_likelihood(model, x, stderr=target, **how)
    assert (found.bits_per_dim_stderr <= target).all()
    assert len(found.nfe.unique()) > 2
    assert (found.nfe % 12 == 0).all()
    # who stops at the first small estimate stops by chance
    assert (found.nfe >= 4 * 12).all()
    assert torch.equal(found.products, 4 * found.nfe)
    exact = sd.log_likelihood(model, x, stderr=target, steps=12)
    assert (exact.nfe == 12).all()


def test_standard_errors_that_were_asked_for_cover_the_truth():
    model = mixing(6)[0]
    x = normal(200, 6, seed=4, dtype=torch.float64)
    exact = sd.log_likelihood(model, x, steps=6)
    target = 0.5 * float(
        sd.log_likelihood(model, x, trace=Hutchinson(4), steps=6, seed=0).bits_per_dim_stderr.mean()
    )
    found = sd.log_likelihood(model, x, trace=Hutchinson(4), steps=6, stderr=target, seed=0)
    z = (found.nats - exact.nats) / found.stderr
    assert 0.8 < float(z.square().mean().sqrt()) < 1.35


def test_a_standard_error_asked_for_is_met_alone_as_in_a_batch():
    model, x = mixing(6)
    how = {"trace": Hutchinson(4), "steps": 5, "stderr": 0.1}
    whole = sd.log_likelihood(model, x, seed=0, **how)
    alone = sd.log_likelihood(model, x[3:4], noise=SeededNoise(0, start=3), **how)
    assert torch.equal(alone.nfe[0], whole.nfe[3])
    assert torch.allclose(alone.nats[0], whole.nats[3], rtol=1e-12)


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan])
def test_a_standard_error_that_cannot_be_is_refused(target):
    with pytest.raises(ValueError, match="stderr="):
        sd.log_likelihood(model_on(), normal(2, 3), stderr=target)


def test_a_standard_error_needs_two_probes():
    with pytest.raises(ValueError, match="two probes"):
        sd.log_likelihood(model_on(), normal(2, 3), trace=Hutchinson(1), stderr=0.1)


@pytest.mark.parametrize("sde", [VPSDE(), VESDE(sigma_max=5.0)], ids=["vp", "ve"])
@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_mismatch_bounds_the_divergence_of_the_true_law_from_the_prior(sde, shift):
    c, mean = 0.7, torch.full((3,), 0.5).double()
    data = Gaussian(mean, c * c * torch.eye(3).double())
    low, high = sde.level(sde.t_min), sde.level(sde.T)
    x = mean * low.alpha + math.hypot(c * low.alpha, low.sigma) * normal(4000, 3).double()
    prior = Prior(mean=shift, std=sde.prior().std)
    found = sd.log_likelihood(data.denoiser(sde), x, prior=prior, steps=1)
    true = torch.distributions.Normal(high.alpha * mean, math.hypot(high.alpha * c, high.sigma))
    stood_in = torch.distributions.Normal(shift, float(prior.std))
    exact = float(torch.distributions.kl_divergence(true, stood_in).sum())
    # looser by what a point's law at T is narrower than the data's
    spare = 3.0 * math.log(true.scale[0].item() / sde.transition(sde.t_min, sde.T).std)
    assert float(found.mismatch.mean()) == pytest.approx(exact + spare, rel=0.05)
    assert float(found.mismatch.mean()) > exact


def test_no_mismatch_is_claimed_of_a_law_that_is_no_gaussian():
    class Other(Prior):
        """Some other law."""

    found = sd.log_likelihood(model_on(), normal(2, 3), prior=Other(), steps=2)
    assert found.mismatch is None


def test_a_record_prints_and_converts():
    found = sd.log_likelihood(model_on(), normal(3, 2, 4), trace=Hutchinson(2), steps=5, seed=0)
    text = str(found)
    bits = found.bits_per_dim
    assert f"{float(bits.mean()):.4f} +- {float(bits.std()) / math.sqrt(3.0):.4f}" in text
    assert "mean of 3 samples of 8 dimensions" in text
    assert "Hutchinson(n=2" in text
    columns = found.numpy()
    assert columns["nats"].tolist() == found.nats.tolist()
    assert columns["prior"].tolist() == found.parts["prior"].tolist()
    assert {len(values) for values in columns.values()} == {3}
    header, rule, *lines = found.table().splitlines()
    assert header.split("|")[1].strip() == "nats"
    assert rule.count("---") == len(columns)
    assert len(lines) == 3
    assert float(lines[1].split("|")[1]) == pytest.approx(float(found.nats[1]), rel=1e-5)
    assert str(sd.log_likelihood(model_on(), torch.zeros(0, 3))) == "log-likelihood of no samples"


def test_products_are_by_forward_mode_where_the_network_has_it():
    class Twice(torch.autograd.Function):
        """A function with a derivative that goes backward only."""

        @staticmethod
        def forward(ctx, x):
            return 2.0 * x

        @staticmethod
        def backward(ctx, grad):
            return 2.0 * grad

    class Backward(nn.Module):
        """A network made of it."""

        def forward(self, x, t):
            return Twice.apply(x).tanh()

    class Plain(nn.Module):
        """The same network without it."""

        def forward(self, x, t):
            return (2.0 * x).tanh()

    x = normal(3, 2)
    assert find_mode(sd.Field(model_on()), x) == "forward"
    backward, plain = (Denoiser(net, VPSDE(), "v") for net in (Backward(), Plain()))
    assert find_mode(sd.Field(backward), x) == "reverse"
    found = sd.log_likelihood(backward, x, steps=5)
    assert "reverse mode" in found.method
    assert torch.allclose(found.nats, sd.log_likelihood(plain, x, steps=5).nats, rtol=1e-5)
