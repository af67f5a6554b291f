"""Runs from a configuration: what is settled once, computed once, and refused before training."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_helpers import exact_of_classes

from scoresde import config, measure, run
from scoresde.data import Affine, Dataset
from scoresde.demo import demo
from scoresde.grids import default_grid
from scoresde.likelihood import DiscretisedGaussian, elbo
from scoresde.models import build_model
from scoresde.noise import SeededNoise
from scoresde.pretrained import draw
from scoresde.training import WithUncertainty


def tiny(data="moons(n=200)"):
    settings = config.defaults()
    settings.data = data
    settings.net = "MLP(hidden=16, depth=1)"
    settings.train.steps, settings.train.batch_size, settings.optim.warmup = 4, 16, 2
    settings.likelihood.steps = settings.sample.steps = 4
    return settings


@pytest.fixture
def threads():
    yield torch.set_num_threads
    torch.set_num_threads(1)


def test_a_run_goes_on_under_another_number_of_threads(tmp_path, threads):
    settings = tiny("digits()")
    threads(1)
    done = run.train_run(settings, tmp_path)
    threads(2)
    data, transform = config.build_data(settings)
    # why this is a test at all: sums depend on the number of threads
    assert build_model(settings, data, transform).data_std != done.model.data_std
    again = run.train_run(settings, tmp_path)
    loaded = run.load_run(tmp_path, config.load(tmp_path))
    assert done.model.data_std == again.model.data_std == loaded.model.data_std
    assert done.transform == again.transform == loaded.transform


def test_the_transform_is_of_the_data_that_were_trained_on(tmp_path):
    x = np.linspace(0, 9, 200, dtype=np.float32).reshape(100, 2)
    np.save(tmp_path / "x.npy", x)
    settings = tiny(f"npy({str(tmp_path / 'x.npy')!r})")
    settings.conditional = False
    settings.objective = "DSM()"
    done = run.train_run(settings, tmp_path / "run")
    np.save(tmp_path / "x.npy", 2 * x)
    for other in (
        run.load_run(tmp_path / "run", config.load(tmp_path / "run")),
        run.train_run(settings, tmp_path / "run"),
    ):
        assert other.transform == done.transform
        assert other.model.data_std == done.model.data_std


def test_a_run_is_sampled_on_the_default_grid_for_its_data_or_on_the_one_named(tmp_path):
    done, drawn = run.train_run(tiny("digits()"), tmp_path), []
    for name in (None, "DensityGrid()", str(default_grid(done.model.data_std))):
        done.config.sample.grid = name
        drawn.append(draw(done.trained(), 20)[0])
    assert abs(done.model.data_std - 1.0) > 0.1
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_the_training_data_are_transformed_once(tmp_path, monkeypatch):
    done = run.train_run(tiny(), tmp_path)
    done.config.sample.batch_size = done.config.likelihood.batch_size = 2
    calls, prior = [], run.Run.prior
    monkeypatch.setattr(run.Run, "prior", lambda self: calls.append(1) or prior(self))
    draw(done.trained(), 6)
    assert len(calls) == 1
    results = measure.measure(done, done.held_out(6))
    assert len(results) == 3
    assert len(calls) == 2


def test_the_trace_may_be_less_that_of_the_training_data(tmp_path):
    done = run.train_run(tiny("digits()"), tmp_path)
    done.config.likelihood.control_variate = True
    trace = measure.trace_of(done)
    assert str(trace).startswith("ControlVariate(trace=Flipped(trace=Hutchinson(n=4")
    x = done.transform.forward(done.data.train)
    assert torch.allclose(trace.gaussian.mean.float(), x.flatten(1).mean(0), atol=1e-5)
    (record,) = measure.measure(done, done.held_out(3))
    assert str(trace) in record.method
    done.config.likelihood.control_variate = False
    assert str(measure.trace_of(done)).startswith("Flipped(")


def test_a_run_of_before_some_keys_loads_goes_on_and_is_measured(tmp_path):
    settings = tiny("digits()")
    settings.optim.decay = False
    done = run.train_run(settings, tmp_path)
    path = tmp_path / config.FILE
    old = json.loads(path.read_text())
    del old["train"]["dequantise"], old["likelihood"]["method"], old["likelihood"]["levels"]
    del old["likelihood"]["control_variate"]
    path.write_text(json.dumps(old))
    assert config.load(tmp_path).to_dict() == done.config.to_dict()
    # nor do the settings in its checkpoint differ
    assert "dequantise" not in config.identity(settings, done.transform)
    settings.train.steps += 1
    assert run.train_run(settings, tmp_path).history[-1].step == 5
    settings.train.steps, settings.train.dequantise = 6, False
    with pytest.raises(ValueError, match="dequantise: expected False, found None"):
        run.train_run(settings, tmp_path)


def test_grey_levels_that_are_not_dequantised_have_a_probability_by_the_elbo(tmp_path):
    settings = tiny("digits()")
    settings.train.dequantise, settings.likelihood.method = False, "elbo"
    settings.likelihood.levels = 8
    done = run.train_run(settings, tmp_path)
    x, rows = done.held_out(5), torch.arange(5)
    assert torch.equal(x, done.transform.forward(done.data.test[done.order[:5]]))
    found = measure.evaluator(done, seed=3)(x, rows)
    wanted = elbo(
        done.model, x, n=8, decoder=DiscretisedGaussian(done.transform), prior=done.prior(),
        noise=SeededNoise(3, indices=rows),
    )  # fmt: skip
    assert torch.equal(found.bits_per_dim, wanted.bits_per_dim)
    assert found.probability
    assert found.bound
    columns = measure.measure_all(done, x, tmp_path / "likelihood", seed=3)
    assert np.array_equal(columns["nats"], wanted.nats.numpy())


def test_by_the_elbo_dequantised_data_have_a_density_and_by_the_flow_all_are(tmp_path):
    settings = tiny("digits()")
    settings.likelihood.method, settings.likelihood.levels = "elbo", 8
    done = run.train_run(settings, tmp_path)
    x, rows = done.held_out(3), torch.arange(3)
    noise = torch.Generator().manual_seed(settings.seed)
    dequantised = done.transform.forward(done.data.test[done.order[:3]], noise)
    assert torch.equal(x, dequantised)
    found = measure.evaluator(done)(x, rows)
    assert found.bound
    assert not found.probability
    assert found.log_det_data == done.transform.log_det
    done.config.likelihood.method, done.config.train.dequantise = "flow", False
    assert torch.equal(done.held_out(3), dequantised)
    assert not measure.evaluator(done)(x, rows).bound


def test_a_learnt_uncertainty_is_trained_and_kept_beside_the_denoiser(tmp_path):
    settings = tiny("digits()")
    settings.objective = f"LearnedUncertainty(objective={settings.objective})"
    done = run.train_run(settings, tmp_path)
    assert isinstance(done.model, WithUncertainty)
    loaded = run.load_run(tmp_path, config.load(tmp_path))
    drawn = [draw(each.trained(), 3)[0] for each in (done, loaded)]
    assert torch.equal(*drawn)


def test_batches_are_of_the_middles_of_bins_unless_they_are_dequantised(tmp_path):
    settings = tiny("digits()")
    batches = []
    for settings.train.dequantise in (False, True):
        made = run.build_run(settings)
        torch.manual_seed(0)
        batches.append(run._stream(made)(0)[0])
    middles, spread = batches
    assert torch.equal(made.transform.forward(made.transform.to_pixels(spread)), middles)
    assert not torch.equal(spread, middles)


def test_data_that_are_dequantised_otherwise_are_measured_anew(tmp_path):
    done = run.train_run(tiny("digits()"), tmp_path)
    folder = tmp_path / "likelihood"
    first = measure.measure_all(done, done.held_out(3), folder)
    done.config.seed += 1
    second = measure.measure_all(done, done.held_out(3), folder)
    assert not np.array_equal(first["nats"], second["nats"])


def sorted_run(objective="DSM()"):
    """An exact model of two classes, one after the other in their file."""
    settings, labels = tiny(), torch.arange(300) // 200
    settings.objective, settings.likelihood.trace = objective, "ExactTrace()"
    settings.likelihood.steps = 32
    seeded, means = torch.Generator().manual_seed(0), torch.tensor([[-3.0], [3.0]])
    x = means[labels] + 0.5 * torch.randn(300, 1, generator=seeded)
    model = exact_of_classes(means, 0.5)
    return run.Run(settings, Dataset(x, x + 0.01, labels, labels), Affine(), model)


def test_likelihoods_are_of_test_rows_at_random_and_of_the_same_as_they_grow():
    made = sorted_run()
    x = made.held_out()
    assert sorted(x.tolist()) == sorted(made.data.test.tolist())
    shares = [float((made.held_out(n) > 0).float().mean()) for n in (30, 100, 200)]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.15)  # all of the first 200 rows are below 0
    made.config.seed += 1  # every run of these data is measured on the same rows
    assert torch.equal(made.held_out(30), x[:30])
    grey = run.build_run(tiny("digits()"))
    assert torch.equal(grey.held_out(30), grey.held_out(60)[:30])


@pytest.mark.parametrize("objective", ["DSM()", "SlicedScoreMatching()"])
def test_a_network_that_was_always_told_the_class_has_the_likelihood_of_samples_given_theirs(
    tmp_path, objective
):
    made = sorted_run(objective=objective)
    columns = measure.measure_all(made, made.held_out(40), tmp_path)
    rows = torch.from_numpy(columns["index"])
    assert torch.equal(rows, made.order[:40])
    means = made.model.net.means.detach()[made.data.test_labels[rows]]
    wanted = torch.distributions.Normal(means, 0.5).log_prob(made.data.test[rows]).squeeze(1)
    np.testing.assert_allclose(columns["nats"], wanted.numpy(), atol=0.1)  # the prior is of both
    assert measure.law(made) == "p(x | class)"


@pytest.mark.parametrize("method", ["elbo", "vlb"])
def test_bounds_are_told_the_class_too(method):
    settings = tiny("digits()")
    settings.sde = "LinearBetas(n=4)" if method == "vlb" else settings.sde
    settings.likelihood.method, settings.objective = method, "DSM()"
    made = run.build_run(settings)
    seen = []
    made.model.net.register_forward_hook(lambda *a: seen.append(a[2]["label"]), with_kwargs=True)
    measure.measure(made, made.held_out(3))
    assert all(set(labels.tolist()) == set(made.given[:3].tolist()) for labels in seen)
    assert seen


def test_a_network_that_was_told_no_class_at_times_has_the_likelihood_of_samples(tmp_path):
    for objective in ("DSM(label_dropout=0.1)", "LearnedUncertainty(DSM(label_dropout=0.1))"):
        made = sorted_run(objective=objective)
        assert made.given is None
        assert measure.law(made) == "p(x)"
    made.config.conditional, made.config.objective = False, "DSM()"
    assert made.given is None


@pytest.mark.parametrize("part", ["train", "test", "test_labels", "transform"])
def test_likelihoods_of_other_data_are_measured_anew(tmp_path, part):
    made = sorted_run()
    before = measure.measure_all(made, made.held_out(3), tmp_path)
    again = measure.measure_all(made, made.held_out(4), tmp_path)
    assert len(list(tmp_path.rglob("rows-*"))) == 2
    assert np.array_equal(again["nats"][:3], before["nats"])
    if part == "transform":
        made = replace(made, transform=Affine(scale=1.1))
    else:
        values = getattr(made.data, part)
        values.copy_(1 - values)
    other = measure.measure_all(made, made.held_out(3), tmp_path)
    assert len(list(tmp_path.rglob("rows-*"))) == 3
    assert not np.array_equal(other["nats"], before["nats"])


def test_samples_that_are_no_images_are_no_pictures(tmp_path):
    settings = tiny()
    settings.train.tensorboard, settings.train.sample_every = True, 2
    with pytest.raises(ValueError, match=r"train.sample_every=2: samples of shape \(2,\)"):
        run.train_run(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_too_short_for_its_warm_up_says_which_key_to_lower(tmp_path):
    settings = tiny()
    settings.train.steps, settings.optim.warmup = 60, 100
    with pytest.raises(
        ValueError, match=r"config.optim.warmup=100 is more than .*60; .* --config.optim.warmup=6$"
    ):
        run.train_run(settings, tmp_path)
    settings.train.steps, settings.optim.warmup, settings.optim.decay = 2, 4, False
    assert run.train_run(settings, tmp_path).history


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sample.solver", "Foo()"),
        ("sample.grid", "DDIM()"),
        ("sample.steps", 0),
        ("likelihood.solver", "AdamsPC(order=-1)"),
        ("likelihood.grid", "KarrasGrd()"),
        ("likelihood.trace", "Hutchinson(n=0)"),
        ("likelihood.batch_size", 0),
        ("likelihood.method", "bound"),
        ("likelihood.levels", 1),
        ("likelihood.solver", "EulerMaruyama()"),
        ("objective", "VPSDE()"),
        ("train.steps", 0),
        ("optim.warmup", 0),
        ("optim.warmup", 5),
    ],
)
def test_all_settings_are_read_before_training(tmp_path, monkeypatch, key, value):
    monkeypatch.setattr(run, "train", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(config, "build_data", lambda _: pytest.fail("read data"))
    settings = tiny()
    settings.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=f"^config.{key}"):
        run.train_run(settings, tmp_path)


def test_the_demo_refuses_other_data_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr("scoresde.demo.train_run", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match="the demo needs images with grey levels and labels"):
        demo(tiny(), tmp_path)


def test_the_demo_refuses_another_likelihood_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr("scoresde.demo.train_run", lambda *_: pytest.fail("trained"))
    settings = tiny("digits()")
    settings.likelihood.method = "elbo"
    with pytest.raises(ValueError, match=r"config.likelihood.method='elbo': the demo"):
        demo(settings, tmp_path)


@pytest.mark.parametrize(
    ("absent", "packages"),
    [
        (["matplotlib"], "matplotlib"),
        (["PIL"], "pillow"),
        (["sklearn", "PIL", "matplotlib"], "scikit-learn and pillow and matplotlib"),
    ],
)
def test_the_demo_names_all_that_it_lacks_before_it_trains(tmp_path, monkeypatch, absent, packages):
    monkeypatch.setattr("scoresde.demo.train_run", lambda *_: pytest.fail("trained"))
    for module in absent:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"^{packages} missing: .*'scoresde\[report\]'$"):
        demo(tiny("digits()"), tmp_path)


def test_pictures_on_tensorboard_are_refused_before_training_without_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "train", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setitem(sys.modules, "PIL", None)
    settings = tiny("digits()")
    settings.train.tensorboard, settings.train.sample_every = True, 2
    with pytest.raises(ImportError, match=r"scoresde\[tensorboard\]"):
        run.train_run(settings, tmp_path)


@pytest.mark.gpu
def test_results_come_back_to_host_memory(tmp_path):
    done = run.train_run(tiny("digits()"), tmp_path)
    assert next(done.model.parameters()).is_cuda
    samples, _ = draw(done.trained(), 3)
    assert not samples.is_cuda
    (result,) = measure.measure(done, done.held_out(3))
    assert not any(v.is_cuda for v in vars(result).values() if isinstance(v, torch.Tensor))


@pytest.mark.gpu
def test_the_demo_runs_on_a_gpu(tmp_path):
    assert demo(tiny("digits()"), tmp_path).exists()


def wav(path, n):
    import wave

    path.mkdir()
    for k, samples in enumerate(np.random.default_rng(0).integers(-(2**15), 2**15, (n, 16))):
        with wave.open(str(path / f"{k:02}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(samples.astype("<i2").tobytes())


@pytest.fixture(params=["audio", "series", "table"])
def named(request, tmp_path):
    """The name of data that lie in files, as a configuration gives it."""
    rows = np.random.default_rng(1).normal(size=(20, 4))
    lines = [",".join(map(str, row)) for row in rows]
    match request.param:
        case "audio":
            wav(tmp_path / "wavs", 20)
            return (
                f"audio({str(tmp_path / 'wavs')!r}, length=16, cache={str(tmp_path / 'cache')!r})"
            )
        case "series":
            (tmp_path / "x.csv").write_text("\n".join(lines))
            return f"series({str(tmp_path / 'x.csv')!r})"
    (tmp_path / "x.csv").write_text("\n".join(["a,b,c,d", *lines]))
    return f"table({str(tmp_path / 'x.csv')!r}, columns=('b', 'a', 'd'))"


@pytest.mark.parametrize("net", ["MLP(hidden=8, depth=1)", "UNet(width=8, multipliers=(1, 1))"])
def test_runs_train_on_sounds_series_and_tables(tmp_path, named, net):
    settings = tiny(named)
    settings.net, settings.conditional, settings.objective = net, False, "DSM()"
    settings.train.steps = 3
    shape = config.build_data(settings)[0].shape
    if net.startswith("UNet") and len(shape) == 1:
        pytest.skip("a table has no axis to convolve along")
    settings.train.shift = 1 if len(shape) > 1 else 0
    done = run.train_run(settings, tmp_path / "run")
    again = run.load_run(tmp_path / "run", config.load(tmp_path / "run"))
    assert draw(again.trained(), 2)[0].shape == (2, *shape)
    assert np.isfinite(done.history[-1].loss)


def test_a_shift_is_part_of_what_a_run_is_and_fits_its_data(tmp_path):
    settings = tiny("digits()")
    assert "shift" not in config.identity(settings, config.build_data(settings)[1])
    run.train_run(settings, tmp_path)
    settings.train.shift = 2
    with pytest.raises(ValueError, match="shift"):
        run.train_run(settings, tmp_path)
    settings.train.shift = 8
    with pytest.raises(ValueError, match=r"config.train.shift=8: samples are of shape \(1, 8, 8\)"):
        run.train_run(settings, tmp_path)
    settings.data, settings.train.shift = "moons(n=200)", 1
    with pytest.raises(ValueError, match=r"config.train.shift=1: samples are of shape \(2,\)"):
        run.train_run(settings, tmp_path / "other")


def test_the_prior_has_the_moments_of_the_training_data(tmp_path):
    done = run.build_run(tiny())
    x = done.transform.forward(done.data.train)
    wanted = done.model.sde.prior(x.mean(0), x.var(0, correction=0))
    torch.testing.assert_close(done.prior().mean, wanted.mean)
    torch.testing.assert_close(done.prior().std, wanted.std)


@pytest.mark.parametrize(("word", "half"), [("off", False), ("on", True)])
def test_samples_are_drawn_in_bfloat16_where_that_is_asked_for(tmp_path, word, half):
    done, seen = run.train_run(tiny(), tmp_path), []
    layer = next(part for part in done.model.modules() if isinstance(part, torch.nn.Linear))
    layer.register_forward_hook(lambda _, x, y: seen.append(y.dtype == torch.bfloat16))
    done.config.sample.amp = word
    x, _ = draw(done.trained(), 3)
    assert set(seen) == {half}
    assert x.dtype == torch.float32


def test_how_samples_are_rounded_is_a_word():
    settings = tiny()
    settings.sample.amp = "bf16"
    with pytest.raises(ValueError, match=r"sample.amp='bf16' must be one of 'auto', 'on', 'off'"):
        run.build_run(settings)
