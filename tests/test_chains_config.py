"""Chains from configurations: named, trained, sampled and bounded."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import scoresde as sd
from scoresde import chains, config, measure, run
from scoresde.calls import build
from scoresde.chains import Clipped, LearnedVariance
from scoresde.data import Affine
from scoresde.models import clipped
from scoresde.pretrained import draw, trained


def settings_of(objective):
    settings = config.defaults()
    settings.conditional = False
    settings.net = "MLP(hidden=8, depth=1, time_scale=0.1)"
    settings.sde = "LinearBetas(n=6, beta_max=0.5)"
    settings.predicts, settings.time_input = "eps", "feed_index"
    settings.objective = objective
    settings.train.steps, settings.train.batch_size, settings.optim.warmup = 3, 8, 2
    settings.train.dequantise = False
    settings.sample.solver = "Ancestral(forward_variance=True)"
    settings.sample.grid, settings.sample.steps = "Respaced()", 6
    settings.likelihood.method, settings.likelihood.levels = "vlb", 6
    return settings


SIMPLE, WEIGHED = "DSM(times=LevelTimes())", "DSM(weighting=variational, times=LevelTimes())"


@pytest.mark.parametrize("objective", [SIMPLE, WEIGHED, "VLB()", "Hybrid(weight=0.01)"])
def test_a_chain_is_trained_sampled_and_bounded(objective, tmp_path):
    settings = settings_of(objective)
    learned = not objective.startswith("DSM")
    if learned:
        settings.sample.solver = "LearnedAncestral()"
        settings.sample.grid, settings.sample.steps = "Respaced(QuadraticGrid())", 3
    done = run.train_run(settings, tmp_path)
    assert isinstance(done.model, LearnedVariance) == learned
    assert done.model.sde == chains.LinearBetas(n=6, beta_max=0.5)
    drawn, calls = draw(done.trained(), 4)
    assert (drawn.shape, calls) == ((4, *done.data.shape), 3 if learned else 6)
    x = done.held_out(3)
    assert torch.equal(x, done.transform.forward(done.data.test[done.order[:3]]))
    (found,) = measure.measure(done, x)
    assert found.probability
    assert found.terms.shape == (3, 7)  # all levels, where at least as many are to be drawn
    decoder = chains.ChainDecoder(done.transform, None if learned else 0.0)
    noise = sd.SeededNoise(0, indices=torch.arange(3))
    wanted = chains.vlb(
        done.model, x, share=None if learned else 1.0, decoder=decoder, noise=noise,
        prior=done.prior(),
    )  # fmt: skip
    torch.testing.assert_close(found.nats, wanted.nats)
    done.config.likelihood.levels = 4
    (found,) = measure.measure(done, x)
    assert found.terms is None
    loaded = run.load_run(tmp_path, config.load(tmp_path))
    assert torch.equal(draw(loaded.trained(), 4)[0], drawn)


def test_the_bins_of_the_bound_are_those_of_the_data(tmp_path, monkeypatch):
    """A transform where grey levels are trained on themselves, and none where they are spread."""
    seen = []
    monkeypatch.setattr(
        run, "train", lambda model, objective, *_, **__: seen.append(objective) or 1 / 0
    )
    for dequantise in (False, True):
        settings = settings_of("VLB()")
        settings.train.dequantise = dequantise
        with pytest.raises(ZeroDivisionError):
            run.train_run(settings, tmp_path)
    assert isinstance(seen[0].transform, Affine)
    assert seen[1].transform is None


def test_samples_may_be_kept_in_the_range_of_grey_levels(tmp_path, monkeypatch):
    settings = settings_of(SIMPLE)
    settings.sample.clip = True
    built, seen = run.build_run(settings), []
    solve = trained.solve
    monkeypatch.setattr(
        trained, "solve", lambda model, *a, **k: seen.append(model) or solve(model, *a, **k)
    )
    draw(built.trained(), 2)
    (model,) = seen
    assert isinstance(model, Clipped)
    ends = built.transform.forward(torch.tensor([[0], [16]]).expand(2, 1)).flatten().tolist()
    assert [model.low, model.high] == pytest.approx(ends)


@pytest.mark.parametrize("method", ["vlb", "elbo"])
def test_bounds_may_be_of_the_model_that_is_kept_in_the_range_of_grey_levels(method):
    settings = settings_of(SIMPLE)
    settings.likelihood.method, settings.likelihood.clip = method, True
    built = run.build_run(settings)
    x = built.held_out(3)
    (found,) = measure.measure(built, x)
    ends = built.transform.forward(torch.tensor([[0], [16]]).expand(2, 1)).flatten().tolist()
    last = chains.ChainDecoder(built.transform, 0.0)
    bound = {
        "vlb": partial(chains.vlb, share=1.0, decoder=last),
        "elbo": partial(sd.elbo, n=6, decoder=sd.DiscretisedGaussian(built.transform)),
    }[method]
    wanted = bound(
        Clipped(built.model, *ends),
        x,
        noise=sd.SeededNoise(0, indices=torch.arange(3)),
        prior=built.prior(),
    )
    torch.testing.assert_close(found.nats, wanted.nats)
    settings.likelihood.clip = False
    (other,) = measure.measure(run.build_run(settings), x)
    assert not torch.equal(other.nats, found.nats)


def test_bounds_of_spread_grey_levels_keep_to_the_edges_of_their_bins():
    settings = settings_of(SIMPLE)
    settings.train.dequantise, settings.likelihood.clip = True, True
    built = run.build_run(settings)
    model = clipped(built.model, settings, "likelihood", built.transform, built.data.shape)
    ends = built.transform.embed(torch.tensor([[-0.5], [16.5]])).flatten()
    assert [model.low, model.high] == pytest.approx(ends.tolist())


@pytest.mark.parametrize("section", ["sample", "likelihood"])
def test_continuous_data_have_no_range_to_keep_to(section):
    settings = settings_of(SIMPLE)
    settings.data, settings.net = "moons(n=50)", "MLP(hidden=8)"
    settings[section].clip = True
    with pytest.raises(ValueError, match=rf"config.{section}.clip: continuous data"):
        run.build_run(settings)


def test_the_flow_has_no_range_to_keep_to():
    settings = settings_of(SIMPLE)
    settings.likelihood.method, settings.likelihood.clip = "flow", True
    with pytest.raises(ValueError, match=r"config.likelihood.clip=True: is for bounds"):
        run.build_run(settings)


@pytest.mark.parametrize(
    "call",
    [
        "MLP(hidden=8)",
        "UNet(width=8, multipliers=(1, 2), patch=2)",
        "UNet(width=8, multipliers=(1, 2), progressive_output='output_skip')",
        "ddpm(width=8, multipliers=(1, 2), blocks=1)",
        "ddpmpp(width=8, multipliers=(1, 2), blocks=1)",
        "ncsnpp(width=8, multipliers=(1, 2), blocks=1)",
        "RefineNet(width=8, multipliers=(1, 2), dilations=(2,))",
        "ADM(width=8, multipliers=(1, 2), attention=(), head_channels=8)",
        "DiT(width=8, depth=1, heads=2)",
    ],
)
def test_networks_learn_variances(call):
    """Those of images by what a configuration gives them, whatever their last layer is."""
    given = {"shape": (3, 4, 4), "channels": 3, "dims": 2, "outputs": 6}
    net, x = build(call, nn.Module, **given), torch.randn(2, 3, 4, 4)
    assert net(x, torch.ones(2)).shape == (2, 6, 4, 4)
    assert net(x[:0], torch.ones(0)).shape == (0, 6, 4, 4)
    model = LearnedVariance(net, chains.LinearBetas(n=4))
    chains.Hybrid()(model, x, torch.Generator().manual_seed(0)).backward()
    slopes = net.head.bias.grad.chunk(2)  # of the mean and of the variances
    assert all(slope.isfinite().all() and (slope != 0).any() for slope in slopes)
    with pytest.raises(ValueError, match="outputs=0"):
        build(call, nn.Module, **given | {"outputs": 0})


def test_ncsn_has_names():
    ladder = build("GeometricSigmas(n=8, sigma_max=2.0)", sd.SDE)
    assert ladder == chains.GeometricSigmas(n=8, sigma_max=2.0)
    solver = build("annealed_langevin(step=0.05, corrections=3)", sd.Solver)
    assert solver == chains.annealed_langevin(0.05, 3)
    solver = build("ncsnv2_sampler(GeometricSigmas(n=8, sigma_max=2.0))", sd.Solver)
    assert solver == chains.ncsnv2_sampler(ladder)


@pytest.mark.parametrize(
    ("grid", "method", "message"),
    [
        (None, "vlb", r"config.likelihood.method='vlb'.*levels of a chain"),
        ("Respaced()", "elbo", r"config.sample.grid: grid=Respaced.*levels of a chain"),
    ],
)
def test_what_is_no_chain_is_refused_before_it_is_trained(grid, method, message):
    settings = settings_of("DSM()")
    settings.sde, settings.time_input = "VPSDE()", "feed_t"
    settings.sample.grid, settings.likelihood.method = grid, method
    with pytest.raises(ValueError, match=message):
        run.build_run(settings)


def test_more_steps_than_levels_are_refused_before_training():
    settings = settings_of("DSM()")
    settings.sample.steps = 7
    with pytest.raises(ValueError, match=r"config.sample.grid: steps.* has 6 levels"):
        run.build_run(settings)
