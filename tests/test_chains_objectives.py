"""The objectives of chains: each is the sum it says, and trains what it says."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from chain_helpers import corners, gaussian, learned
from conftest import generator
from solver_examples import GivenNoise
from torch import Tensor, nn
from training_helpers import QUIET, assert_same

import scoresde as sd
from scoresde import Gaussian
from scoresde.chains import (
    VLB,
    ChainDecoder,
    CosineBetas,
    GeometricSigmas,
    Hybrid,
    LearnedVariance,
    LevelTimes,
    LinearBetas,
    variational,
    vlb,
)
from scoresde.chains.bound import divergence
from scoresde.chains.objectives import _terms
from scoresde.data import Affine
from scoresde.training import DSM, dsm_loss, train

DATA = gaussian()
X = torch.tensor([0.3, -1.2, 0.4]).double()


def test_levels_are_drawn_alike():
    sde = LinearBetas(n=8)
    u = (torch.arange(64) + 0.5).double() / 64
    t, ratio = LevelTimes().quantile(sde, u)
    assert t.dtype == torch.float64
    assert torch.bincount(t.long()).tolist() == [0, *[8] * 8]
    assert ratio.tolist() == [1.0] * 64
    t, _ = LevelTimes().quantile(sde, torch.tensor([0.0, 0.124, 0.126, 1.0]).double())
    assert t.tolist() == [1.0, 1.0, 2.0, 8.0]


def test_the_simple_loss_is_at_the_levels_of_the_chain():
    seen = []

    class Model(LearnedVariance):
        def forward(self, x: Tensor, level: sd.Level, **cond):
            seen.append(level.t)
            return super().forward(x, level, **cond)

    sde = LinearBetas(n=8)
    model = Model(learned(DATA, sde, 0.0).net, sde)
    loss = DSM(times=LevelTimes())(model, X.expand(16, 3), generator(0))
    assert sorted(seen[0].flatten().tolist()) == sorted(2 * [float(i) for i in range(1, 9)])
    assert loss.ndim == 0


@pytest.mark.parametrize(
    "sde", [LinearBetas(n=12), CosineBetas(n=12), GeometricSigmas(n=12)], ids=str
)
def test_the_weighted_loss_is_the_bound(sde):
    model = DATA.denoiser(sde)
    rows, z = corners(X)
    weighed = [
        dsm_loss(model, rows, torch.full((6,), float(i)).double(), z, variational).mean()
        for i in range(1, 13)
    ]
    found = 3 * 12 * float(torch.stack(weighed).mean())  # D n J
    bound = vlb(model, rows, noise=GivenNoise(z))
    level = sde.level(1.0)
    std = model.data_std * level.sigma / level.radius(model.data_std)
    constant = 3 * math.log(std * math.sqrt(2 * math.pi))
    exact = -float((bound.parts["diffusion"] + bound.parts["decoder"]).mean()) - constant
    assert found == pytest.approx(exact, rel=1e-9)
    for t in (1.0, 5.0):  # a float, or one for each sample
        each = variational(sde.level(torch.full((2, 1), t).double()), model)
        assert each.tolist() == [[pytest.approx(variational(sde.level(t), model))]] * 2


@pytest.mark.parametrize("w", [0.3, 3.0])  # between the two variances, and beyond
@pytest.mark.parametrize("transform", [None, Affine.endpoints(256)])
def test_a_term_is_that_of_the_bound(transform, w):
    sde = LinearBetas(n=6, beta_max=0.5)
    model = learned(DATA, sde, w)
    x = X[None] if transform is None else transform.forward(torch.tensor([[3, 100, 250]])).double()
    z = torch.randn(1, 3, generator=generator(0)).double()
    bound = vlb(model, x, decoder=ChainDecoder(transform), noise=GivenNoise(z))
    level = sde.level(torch.arange(1.0, 7.0)[:, None].double())
    rows, eps = x.expand(6, 3), z.expand(6, 3)
    prediction = model(level.alpha * rows + level.sigma * eps, level)
    found = _terms(sde, prediction, rows, eps, ChainDecoder(transform)) * 3 * math.log(2)
    torch.testing.assert_close(found, bound.terms[0, :-1], rtol=1e-6, atol=1e-9)


def test_the_bound_is_an_importance_sample_of_its_terms():
    sde = LinearBetas(n=6, beta_max=0.5)
    model, x = learned(DATA, sde, 0.3), X.expand(40, 3)
    for k in range(12):
        before, g = model.moments.count.clone(), generator(k)
        u = torch.rand(40, generator=g, dtype=torch.float64)
        levels, weights = model.moments.draw(u)
        eps = torch.empty_like(x).normal_(generator=g)
        level = sde.level(levels.double()[:, None])
        prediction = model(level.alpha * x + level.sigma * eps, level)
        terms = _terms(sde, prediction, x, eps, ChainDecoder())
        noted = copy.deepcopy(model.moments)
        noted.update(levels, terms)
        loss = VLB()(model, x, generator(k))
        assert float(loss) == pytest.approx(6 * float((weights * terms).mean()), rel=1e-9)
        torch.testing.assert_close(model.moments.losses, noted.losses)  # before they are weighed
        drawn = model.moments.count - before
        assert drawn.tolist() == torch.bincount(levels - 1, minlength=6).tolist()
    # by now levels are drawn by their losses
    assert float(model.moments.probabilities().max()) > 1.5 / 6
    noted = copy.deepcopy(model.moments.state_dict())
    VLB()(model.eval(), x, generator(0))
    assert all(torch.equal(model.moments.state_dict()[k], v) for k, v in noted.items())


def test_the_best_variance_is_that_of_the_reverse_process():
    """At the exact eps, the expected divergence has its least value at the true variance."""
    c, sde = 0.7, LinearBetas(n=20, beta_max=0.4)
    data = Gaussian(torch.zeros(3).double(), c * c * torch.eye(3).double())
    here, there = sde.level(9.0), sde.level(8.0)
    # the error of eps is a Gaussian whose mean square the rows have, averaged over data too
    _, z = corners(X)
    x0 = c * z.roll(1, 0)
    rows, eps = x0.repeat_interleave(6, 0), z.repeat(6, 1)
    prediction = data.denoiser(sde)(sde.perturb(rows, 9.0, eps), here)
    drawn = data.reverse(torch.zeros(1, 3).double(), here, there, torch.ones(1, 3).double())
    new = -math.expm1(2 * (here.lam - there.lam))
    log_small, log_large = (math.log(level.sigma**2 * new) for level in (there, here))
    share = (2 * math.log(float(drawn[0, 0])) - log_small) / (log_large - log_small)
    assert 0.0 < share < 1.0
    v = torch.tensor(share, dtype=torch.float64, requires_grad=True)
    divergence(prediction, eps, there, v).mean().backward()
    assert float(v.grad) == pytest.approx(0.0, abs=1e-9)


class Net(nn.Module):
    """Two channels of output for each of input, apart."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.variance = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([self.mean(x), self.variance(x) + 1e-3 * t[:, None]], 1)


def small() -> LearnedVariance:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LearnedVariance(Net(), LinearBetas(n=5, beta_max=0.5))


def test_the_hybrid_trains_the_mean_simply_and_the_variance_by_the_bound():
    model, x = small(), torch.randn(10, 2, generator=generator(1))
    Hybrid(weight=0.0)(model, x, generator(0)).backward()
    simple = model.net.mean.weight.grad.clone()
    assert not model.net.variance.weight.grad.any()
    model.zero_grad()
    loss = Hybrid()(model, x, generator(0))
    loss.backward()
    torch.testing.assert_close(model.net.mean.weight.grad, simple)
    first = model.net.variance.weight.grad.clone()
    assert bool(first.all())
    model.zero_grad()
    Hybrid(weight=2e-3)(model, x, generator(0)).backward()
    torch.testing.assert_close(model.net.variance.weight.grad, 2 * first)


def test_the_hybrid_is_the_simple_loss_and_a_thousandth_of_the_bound():
    model, x = learned(DATA, LinearBetas(n=5, beta_max=0.5), 0.3), X.expand(5, 3)
    g = generator(0)
    levels, _ = LevelTimes().draw(model.sde, 5, g)
    eps = torch.empty_like(x).normal_(generator=g)
    level = model.sde.level(levels[:, None])
    prediction = model(level.alpha * x + level.sigma * eps, level)
    simple = (prediction.eps - eps).square().mean()
    bound = _terms(
        model.sde, prediction, x, eps, ChainDecoder()
    ).sum()  # each of the five levels once
    expected = float(simple + 1e-3 * bound)
    assert float(Hybrid()(model, x, generator(0))) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("make", [VLB, Hybrid])
def test_labels_are_dropped_and_nothing_else_is_changed(make):
    seen = []

    class Labelled(Net):
        def forward(self, x: Tensor, t: Tensor, **cond) -> Tensor:
            seen.append((x, t, cond))
            return super().forward(x, t)

    model = small()
    model.net = Labelled()
    x0, cond = torch.zeros(2000, 2), {"label": torch.arange(2000) % 10, "scale": 2.0}
    for share in (0.0, 0.25, 1.0):
        make(label_dropout=share)(model, x0, generator(0), cond)
        label = seen[-1][2]["label"]
        dropped = label == -1
        assert float(dropped.double().mean()) == pytest.approx(share, abs=0.05)
        assert torch.equal(label[~dropped], cond["label"][~dropped])
        assert seen[-1][2]["scale"] == 2.0
        # levels are drawn alike until all have 10 losses, so that they too are the same
        model.moments.count.zero_()
    (x, t, _), *others = seen
    assert all(torch.equal(x, other) and torch.equal(t, time) for other, time, _ in others)
    assert (cond["label"] >= 0).all()


def batch(step: int):
    return torch.randn(8, 2, generator=generator(step)), None


@pytest.mark.parametrize("objective", [VLB(), Hybrid()])
def test_a_resumed_run_draws_the_levels_it_would_have_drawn(objective, tmp_path):
    def run(folder, steps):
        model = small()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        return train(
            model, objective, batch, steps=steps, optimizer=optimizer, workdir=folder,
            checkpoint_every=10, **QUIET,
        )  # fmt: skip

    whole = run(tmp_path / "whole", 24)
    run(tmp_path / "parts", 11)
    parts = run(tmp_path / "parts", 24)
    assert_same(whole, parts)
    if isinstance(objective, VLB):
        assert int(whole.model.moments.count.sum()) == 8 * 24
        p = whole.model.moments.probabilities()
        assert float(p.max() - p.min()) > 0.01


def test_a_lost_loss_is_not_noted():
    model, x = small(), torch.zeros(4, 2)
    x[1] = torch.nan
    VLB()(model, x, generator(0))
    assert int(model.moments.count.sum()) == 3
    assert bool(model.moments.losses.isfinite().all())


def test_a_last_step_that_is_not_taken_leaves_no_gradient():
    """From a noisy level it would be a poor guess: here one whose slope is out of range."""
    transform = Affine.endpoints(256)
    x = transform.forward(torch.tensor([[3, 250]])).double().expand(200, 2)
    for objective in (VLB(transform), Hybrid(transform)):
        model = LearnedVariance(small().net.double(), CosineBetas(n=50))
        with torch.no_grad():
            model.net.mean.bias.fill_(1e6)
        objective(model, x, generator(0)).backward()
        assert bool(model.net.variance.weight.grad.isfinite().all())


def test_what_cannot_be_trained_is_refused_by_name():
    model, x = DATA.denoiser(LinearBetas(n=5)), X.expand(4, 3)
    for objective in (VLB(), Hybrid()):
        with pytest.raises(
            TypeError, match=rf"ExactDenoiser has no variances for {type(objective).__name__}"
        ):
            objective(model, x, generator(0))
        with pytest.raises(ValueError, match=r"x0: dtype torch\.int64"):
            objective(small(), torch.zeros(4, 2, dtype=torch.int64), generator(0))
    with pytest.raises(ValueError, match=r"LevelTimes.*levels of a chain"):
        DSM(times=LevelTimes())(DATA.denoiser(sd.VPSDE()), x, generator(0))
    with pytest.raises(ValueError, match=r"variational.*levels of a chain"):
        DSM(weighting=variational)(DATA.denoiser(sd.VPSDE()), x, generator(0))
    for make in (VLB, Hybrid):
        with pytest.raises(ValueError, match="no 'label' to drop"):
            make(label_dropout=0.1)(small(), torch.zeros(4, 2), generator(0))
        with pytest.raises(ValueError, match=r"label_dropout=1\.5"):
            make(label_dropout=1.5)
    with pytest.raises(ValueError, match="weight=-1"):
        Hybrid(weight=-1.0)
    with pytest.raises(ValueError, match="transform"):
        VLB(Affine())
