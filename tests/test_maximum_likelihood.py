"""Maximum likelihood as an objective: its value, its draws, and what it does to a trained model."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import generator
from solver_examples import normal
from test_gradients import Shifted
from test_losses import C, exact
from torch import Tensor, nn
from training_helpers import QUIET, Gain

import scoresde as sd
from scoresde import RK4, VPSDE, Denoiser, DormandPrince, ExactTrace
from scoresde.likelihood import Estimate, Jacobian, Trace
from scoresde.likelihood.traces import mean_of
from scoresde.training import DSM, CosineDecay, MaximumLikelihood, train


def test_the_loss_is_the_cross_entropy():
    sde = VPSDE()
    model, x = exact(sde), normal(64, 3, dtype=torch.float64)
    level = sde.level(sde.t_min)
    variance = (level.alpha * C) ** 2 + level.sigma**2
    wanted = 0.5 * (x.square() / variance + math.log(2.0 * math.pi * variance)).mean()
    for solver, steps in ((RK4(), 30), (DormandPrince(), None)):
        objective = MaximumLikelihood(ExactTrace(), solver, steps, "adjoint")
        assert float(objective(model, x, generator(0))) == pytest.approx(float(wanted), abs=1e-3)


def test_draws_are_the_generators_alone():
    model, x = Denoiser(Gain(0.3), VPSDE(), "v"), normal(8, 2)
    state = torch.get_rng_state()
    losses = [MaximumLikelihood(steps=4)(model, x @ x.mT, generator(seed)) for seed in (0, 0, 1)]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(torch.get_rng_state(), state)


class EverySign(Trace):
    """The mean over all Rademacher probes in two dimensions: the expectation of Hutchinson's."""

    def estimate(self, jacobian: Jacobian, noise) -> Estimate:
        like = jacobian.like
        signs = torch.cartesian_prod(*2 * [torch.tensor([-1.0, 1.0], dtype=like.dtype)])
        return mean_of(jacobian.quadratic(signs.expand(len(like), 4, 2)))


def test_a_probe_leaves_the_gradient_unbiased():
    def gradient(trace):
        net, cond = Shifted(), {"shift": torch.zeros(2, dtype=torch.float64)}
        objective = MaximumLikelihood(trace, steps=6)
        loss = objective(Denoiser(net, VPSDE(), "v"), normal(5, 2).double(), generator(0), cond)
        return torch.autograd.grad(loss, (net.weight, net.bias))

    for found, wanted in zip(gradient(EverySign()), gradient(ExactTrace()), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_active_dropout_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = nn.Dropout(0.1)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.dropout(x)

    with pytest.raises(ValueError, match="dropout is active"):
        MaximumLikelihood()(Denoiser(Net(), VPSDE()).train(), normal(2, 2), generator(0))


@pytest.mark.slow
def test_fine_tuning_lowers_the_bits_of_held_out_digits():
    from scoresde import data, nets

    digits, transform = data.digits(), data.Affine.bins(17)
    test = transform.forward(digits.test, generator(0)).flatten(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nets.MLP(64, hidden=128)
    model = Denoiser(net, VPSDE(), "edm", data_std=float(test.std()))

    def batch(step):
        pixels, _ = next(data.batches(digits.train, 64, seed=0, start_step=step))
        return transform.forward(pixels, generator(step)).flatten(1), None

    def fit(objective, steps, lr, **how):
        schedule = CosineDecay(steps, warmup=5)
        optimizer = torch.optim.Adam(model.parameters(), lr, fused=True)
        state = train(
            model, objective, batch, steps=steps, optimizer=optimizer, schedule=schedule, **how,
            **QUIET,
        )  # fmt: skip
        model.load_state_dict(state.ema.module.state_dict())
        how = {"trace": sd.Hutchinson(4), "transform": transform, "steps": 40, "seed": 0}
        return sd.log_likelihood(model.eval(), test, **how).bits_per_dim

    before = fit(DSM(), 600, 2e-3, ema_decay=0.99)
    after = fit(MaximumLikelihood(steps=16), 60, 3e-4, ema_decay=0.9)
    gain = before - after  # of the same images with the same probes
    print(f"{before.mean():.3f} -> {after.mean():.3f} bits/dim")
    assert gain.mean() > 5.0 * gain.std() / len(gain) ** 0.5
    assert gain.mean() > 0.02
