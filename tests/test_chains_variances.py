"""Learned variances: where they come from, how they reach the sampler, and who never sees them."""

from __future__ import annotations

import math

import pytest
import torch
from chain_helpers import gaussian, learned
from conftest import generator
from torch import nn

import scoresde as sd
from scoresde.chains import (
    Clipped,
    CosineBetas,
    LearnedAncestral,
    LearnedVariance,
    LinearBetas,
    Respaced,
)
from scoresde.chains.moments import LossMoments
from scoresde.testing import law, weak_error

DATA = gaussian()


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("make", [LinearBetas, CosineBetas])
@pytest.mark.parametrize(("w", "forward"), [(-1.0, False), (1.0, True)])
def test_at_the_ends_of_their_range_they_are_the_fixed_ones(make, steps, w, forward):
    sde = make(n=20)
    found, fixed = (
        law(solver, sde, DATA, Respaced(), steps=steps, model=learned(DATA, sde, w))
        for solver in (LearnedAncestral(), sd.Ancestral(forward_variance=forward))
    )
    assert weak_error(found, fixed) < 1e-12


def test_between_the_ends_variances_are_geometric_in_the_share():
    """Of a respaced step too: eq. 15 with the betas of the step's own two levels, as in eq. 19."""
    sde, w = LinearBetas(n=100), 0.3
    here, there = sde.level(60.0), sde.level(20.0)
    noise = sd.InjectedNoise([torch.ones(2, 3).double()])
    field = sd.Field(learned(DATA, sde, w))
    x = torch.randn(2, 3, generator=generator(0)).double()
    found = LearnedAncestral().step(field, x, here, there, None, noise).x
    kept = (here.alpha / there.alpha) ** 2
    beta = 1.0 - kept
    posterior = beta * there.sigma**2 / here.sigma**2
    v = (w + 1) / 2
    std = math.exp(0.5 * (v * math.log(beta) + (1 - v) * math.log(posterior)))
    p = field(x, here)
    mean = there.alpha * beta / here.sigma**2 * p.x0
    mean = mean + math.sqrt(kept) * there.sigma**2 / here.sigma**2 * x
    torch.testing.assert_close(found, mean + std, rtol=1e-12, atol=1e-12)


def test_other_solvers_see_the_prediction_alone():
    sde = LinearBetas(n=50)
    z = torch.randn(4, 3, generator=generator(0)).double()
    for solver in (sd.AdamsPC(), sd.DDIM(), sd.Ancestral()):
        one, other = (
            sd.sample(learned(DATA, sde, w), x=z, solver=solver, steps=8, seed=0)
            for w in (-1.0, 7.0)
        )
        assert torch.equal(one, other)
        exact = sd.sample(DATA.denoiser(sde), x=z, solver=solver, steps=8, seed=0)
        assert torch.allclose(one, exact, atol=1e-8)


def test_learned_variances_follow_the_paths_of_fixed_ones():
    """The increments of a seed are those of `Ancestral`, to which w = -1 is equal."""
    sde, z = LinearBetas(n=50), torch.randn(4, 3, generator=generator(0)).double()
    given = {"x": z, "grid": Respaced(), "steps": 8, "seed": 0}
    found = sd.sample(learned(DATA, sde, -1.0), solver=LearnedAncestral(), **given)
    fixed = sd.sample(DATA.denoiser(sde), solver=sd.Ancestral(), **given)
    torch.testing.assert_close(found, fixed, rtol=0, atol=1e-6)


class Doubled(nn.Module):
    def __init__(self, factor=2):
        super().__init__()
        self.conv = nn.Conv2d(3, 3 * factor, 1)

    def forward(self, x, t):
        return self.conv(x)


def test_images_have_twice_the_channels():
    model = LearnedVariance(Doubled(), LinearBetas(n=10))
    x = torch.randn(2, 3, 4, 4, generator=generator(0))
    level = model.sde.level(5.0)
    found = model(x, level)
    out = model.net.conv(x)
    torch.testing.assert_close(found.eps, out[:, :3])
    torch.testing.assert_close(found.share, (out[:, 3:] + 1) / 2)
    drawn = sd.sample(
        model, (2, 3, 4, 4), solver=LearnedAncestral(), grid=Respaced(), steps=10, seed=0
    )
    assert drawn.shape == x.shape


def test_shares_are_not_bounded_and_keep_the_precision_of_the_state():
    model = LearnedVariance(Doubled().bfloat16(), LinearBetas(n=10), data_std=0.3)
    with torch.no_grad():
        model.net.conv.weight.zero_()
        model.net.conv.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 3.0, -7.0, 0.5]))
    found = model(torch.zeros(1, 3, 1, 1), model.sde.level(5.0))
    assert found.share.dtype == torch.float32
    assert found.share.flatten().tolist() == [2.0, -3.0, 0.75]
    assert model.data_std == Clipped(model).data_std == 0.3


@pytest.mark.parametrize("factor", [1, 3])
def test_a_network_of_other_channels_is_refused(factor):
    model = LearnedVariance(Doubled(factor), LinearBetas(n=10))
    with pytest.raises(ValueError, match=r"net: output .*twice the channels, \(2, 6, 4, 4\)"):
        model(torch.zeros(2, 3, 4, 4), model.sde.level(5.0))


def test_what_has_no_variances_is_refused():
    with pytest.raises(ValueError, match="levels of a chain"):
        LearnedVariance(Doubled(), sd.VPSDE())
    model = DATA.denoiser(LinearBetas(n=10))
    with pytest.raises(ValueError, match=r"LearnedAncestral\(\): takes variances"):
        sd.sample(model, (2, 3), solver=LearnedAncestral(), steps=5, seed=0)


def test_expected_data_are_kept_in_their_range():
    sde, x = LinearBetas(n=10), torch.randn(16, 3, generator=generator(0)).double()
    level = sde.level(7.0)
    for model in (DATA.denoiser(sde), learned(DATA, sde, 0.2)):
        found, cut = model(x, level), Clipped(model, -0.3, 0.2)(x, level)
        torch.testing.assert_close(cut.x0, found.x0.clamp(-0.3, 0.2))
        torch.testing.assert_close(level.alpha * cut.x0 + level.sigma * cut.eps, x)
        assert type(cut) is type(found)
        wide = Clipped(model, -100.0, 100.0)(x, level)
        torch.testing.assert_close(wide.eps, found.eps)
    assert torch.equal(Clipped(model)(x, level).share, model(x, level).share)
    images = Clipped(model)(3.0 * x, level).x0
    torch.testing.assert_close(images, model(3.0 * x, level).x0.clamp(-1.0, 1.0))
    drawn = sd.sample(Clipped(model, -0.3, 0.2), (8, 3), solver=LearnedAncestral(), steps=5, seed=0)
    assert float(drawn.min()) >= -0.3
    assert float(drawn.max()) <= 0.2
    with pytest.raises(ValueError, match="high=-1"):
        Clipped(model, 0.0, -1.0)


class Rippled(nn.Module):
    """The exact noise of white Gaussian data of deviation 0.5, off by up to 0.02."""

    def forward(self, x, t):
        level = CosineBetas(n=4000).level(t[:, None].double())
        share = level.sigma / (0.25 * level.alpha**2 + level.sigma**2)
        return share * x + 0.02 * torch.sin(40.0 * x + 9.0 * level.lam)


@pytest.mark.parametrize("steps", [10, 15, 20, 25, 30, 40, 50])
def test_the_default_solver_carries_no_error_of_eps_on_from_where_alpha_is_next_to_nothing(steps):
    # alpha is 1e-5 at first: x0 is off by 1600 there, unless it is cut off
    sde = CosineBetas(n=4000)
    model = Clipped(sd.Denoiser(Rippled().double(), sde, data_std=0.5), -1.5, 1.5)
    x = torch.randn(256, 4, generator=generator(0), dtype=torch.float64)
    exact = 0.5 * x
    for denoise in (False, True):
        found = sd.sample(model, x=x, steps=steps, denoise=denoise)
        assert float((found - exact).square().mean().sqrt()) < 0.05 * 0.5


# Levels by their losses


def ring(moments, level):
    """Return the losses that a level keeps, in the order they came."""
    count, size = int(moments.count[level - 1]), moments.SIZE
    row = moments.losses[level - 1].tolist()
    if count < size:
        return row[:count]
    return row[count % size :] + row[: count % size]


def test_each_level_keeps_its_last_ten_losses():
    moments, kept = LossMoments(5), {i: [] for i in range(1, 6)}
    g = generator(0)
    for _ in range(12):
        levels = torch.randint(1, 6, (17,), generator=g)
        losses = torch.rand(17, generator=g, dtype=torch.float64)
        losses[3] = torch.nan  # a loss that is lost
        moments.update(levels, losses)
        for k, (i, loss) in enumerate(zip(levels.tolist(), losses.tolist(), strict=True)):
            if k != 3:
                kept[i].append(loss)
    for i, losses in kept.items():
        assert ring(moments, i) == losses[-10:]
        assert int(moments.count[i - 1]) == len(losses)


def test_more_than_ten_at_once_leave_the_last_ten():
    moments = LossMoments(3)
    moments.update(torch.full((25,), 2), torch.arange(25.0))
    assert ring(moments, 2) == [float(v) for v in range(15, 25)]
    assert moments.count.tolist() == [0, 25, 0]
    assert bool((moments.losses[[0, 2]] == 0).all())


def test_levels_are_uniform_until_all_are_known():
    moments = LossMoments(4)
    moments.update(torch.tensor([1, 2, 3]).repeat(10), torch.ones(30))
    assert moments.probabilities().tolist() == [0.25] * 4
    levels, weights = moments.draw(torch.tensor([0.0, 0.3, 0.6, 0.999]).double())
    assert levels.tolist() == [1, 2, 3, 4]
    assert weights.tolist() == [1.0] * 4
    levels, _ = moments.draw(torch.tensor([0.25, 0.5, 0.75, 1.0]).double())
    assert levels.tolist() == [2, 3, 4, 4]
    moments.update(torch.arange(1, 5).repeat(10), torch.zeros(40))  # nothing to tell them apart
    assert moments.probabilities().tolist() == [0.25] * 4


@pytest.mark.parametrize("warm", [False, True])
def test_every_level_is_drawn_in_half_precision(warm):
    moments = LossMoments(1000).to(torch.bfloat16)
    if warm:
        moments.update(torch.arange(1, 1001).repeat(10), torch.ones(10_000))
    levels, weights = moments.draw((torch.arange(1000) + 0.5).double() / 1000)
    assert levels.tolist() == list(range(1, 1001))
    torch.testing.assert_close(weights, torch.ones(1000).double())


def test_levels_are_drawn_by_their_root_mean_square():
    moments, roots = LossMoments(4), torch.tensor([1.0, 3.0, 0.5, 0.5]).double()
    for k in range(10):  # of two levels every other loss is 0, so that their means are less
        shape = torch.tensor([1.0, (k % 2) * 2**0.5, 1.0, (k % 2) * 2**0.5])
        moments.update(torch.arange(1, 5), shape * roots)
    expected = 0.999 * roots / 5 + 0.001 / 4
    torch.testing.assert_close(moments.probabilities(), expected)
    # the quantile function, and weights that leave no bias: the mean of f(i) weight is that of f
    u = (torch.arange(100_000) + 0.5).double() / 100_000
    levels, weights = moments.draw(u)
    torch.testing.assert_close(
        torch.bincount(levels - 1) / 1e5, expected.float(), rtol=0, atol=2e-5
    )
    f = levels.double().square()
    assert float((f * weights).mean()) == pytest.approx((1 + 4 + 9 + 16) / 4, rel=1e-3)
