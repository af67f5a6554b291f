"""Configurations name objects of the library, and nothing else."""

import json
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest
import torch
from torch import nn

import scoresde as sd
from scoresde import config, nets
from scoresde.atomic import CorruptCheckpoint
from scoresde.calls import build
from scoresde.data import Affine, Dataset
from scoresde.flags import parse
from scoresde.models import build_model
from scoresde.training import DSM, LearnedUncertainty, LogNormalTimes, edm

CONFIGS = sorted(Path(__file__).parents[1].joinpath("configs").glob("*.py"))


def test_build_makes_the_call_as_python_would():
    assert build("VPSDE(beta_max=10.0)", sd.SDE) == sd.VPSDE(beta_max=10.0)
    assert build("AdamsPC(4)", sd.Solver) == sd.AdamsPC(order=4)
    nested = "PredictorCorrector(predictor=EulerMaruyama(), corrector=Langevin(snr=0.1))"
    wanted = sd.PredictorCorrector(sd.EulerMaruyama(), sd.Langevin(snr=0.1))
    assert build(nested, sd.Solver) == wanted
    objective = "DSM(weighting=edm, times=LogNormalTimes(mean=-1.0, std=2.0))"
    wanted = DSM(weighting=edm, times=LogNormalTimes(-1.0, 2.0))
    assert build(objective, DSM) == wanted


def test_build_gives_what_the_signature_asks_for():
    given = {"shape": (3,), "channels": 3, "dims": 2, "num_classes": None}
    assert isinstance(build("MLP(hidden=8)", nn.Module, **given), nets.MLP)
    # what the call says wins
    assert build("MLP(shape=5, hidden=8)", nn.Module, **given).shape == (5,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("VPSED()", "no 'VPSED'; did you mean 'VPSDE'"),
        ("VPSDE(beta_mx=1.0)", "no argument 'beta_mx'; did you mean 'beta_max'"),
        ("VPSDE(", "is not a call"),
        ("moonz()", "has no 'moonz'; a SDE is needed$"),  # data are no process
        ("AdamsPC()", "is a AdamsPC, but a SDE is needed"),
        ("VPSDE(1, 2, 3, 4)", "positional argument"),
        ("VPSDE(beta_min=-1.0)", "need 0 < beta_min"),
        ("VPSDE(beta_min=1 + 1)", "neither a literal nor a call"),
        ("__import__('os').getcwd()", "neither a literal nor a call"),
        ("torch.rand(1)", "neither a literal nor a call"),
        ("eval('1')", "no 'eval'"),
        ("save('x')", "no 'save'"),
        ("(lambda: 1)()", "neither a literal nor a call"),
        ("VPSDE(beta_max=[x for x in (1,)])", "neither a literal nor a call"),
    ],
)
def test_what_is_no_call_of_the_library_is_refused(call, message):
    with pytest.raises(ValueError, match="(?s).*" + message.replace("(", r"\(")):
        build(call, sd.SDE)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        ("images('here', size=8, cache='kept')", sd.SDE),
        ("VPSDE(beta_max=images('here', size=8, cache='kept'))", sd.SDE),
        ("VPSDE(0.1, images('here', size=8, cache='kept'))", sd.SDE),
        ("DSM(weighting=images('here', size=8, cache='kept'))", config.OBJECTIVE),
        ("images(images('here', size=8, cache='kept'), size=8)", Dataset),
    ],
)
def test_no_data_are_read_where_none_are_wanted(monkeypatch, call, kind):
    def images(folder: str, size: int, cache: str) -> Dataset:
        pytest.fail("read")

    monkeypatch.setattr("scoresde.calls._FUNCTIONS", (images,))
    with pytest.raises(ValueError, match="images makes a data set, and none is needed there"):
        build(call, kind)


def test_a_name_where_a_call_is_meant_is_refused():
    with pytest.raises(ValueError, match=r"write the call, such as 'MLP\(\)'"):
        build("MLP", nn.Module, shape=2)


@pytest.mark.parametrize(
    ("call", "kind", "nearest"),
    [
        ("DDIMM()", sd.Solver, "DDIM"),
        ("moonz()", Dataset, "moons"),
        ("feed_tt", FunctionType, "feed_t"),
        ("Restart(solver=Huen())", sd.Solver, "Heun"),
        ("Restart(Huen())", sd.Solver, "Heun"),
        ("DSM(times=LogNormalTime())", DSM, "LogNormalTimes"),
        ("DSM(weighting=edn)", DSM, "edm"),
        ("LearntUncertainty()", config.OBJECTIVE, "LearnedUncertainty"),
        ("SlicedScoreMatching(times=DiscretTimes())", config.OBJECTIVE, "DiscreteTimes"),
        ("DSM(times=DensityGri())", DSM, None),
    ],
)
def test_the_nearest_name_is_of_the_kind_that_is_wanted(call, kind, nearest):
    hint = "; a Times is needed" if nearest is None else f"; did you mean '{nearest}'\\?"
    with pytest.raises(ValueError, match=f"the library has no '[^']*'{hint}$"):
        build(call, kind)


def test_an_objective_is_one_of_several_kinds():
    for call in ("DSM()", "LearnedUncertainty(objective=DSM(weighting=velocity))"):
        assert isinstance(build(call, config.OBJECTIVE), DSM | LearnedUncertainty)
    wanted = (
        "VPSDE, but a DSM or SlicedScoreMatching or LearnedUncertainty or VLB or Hybrid is needed"
    )
    with pytest.raises(ValueError, match=wanted):
        build("VPSDE()", config.OBJECTIVE)


def test_a_table_of_the_library_is_named_without_a_call():
    assert build("AYS_SD15", sd.Grid) is sd.AYS_SD15
    with pytest.raises(ValueError, match=r"AYS_SD15 is a value; write the name alone"):
        build("AYS_SD15()", sd.Grid)


def test_what_is_wrong_is_told_with_its_key():
    settings = config.defaults()
    settings.sample.solver = "VPSDE()"
    with pytest.raises(ValueError, match=r"^config.sample.solver: 'VPSDE\(\)' is a VPSDE, but"):
        config.build_at(settings, "sample.solver", sd.Solver)


def stand_in(shape, dtype, levels=None, classes=0):
    x = torch.zeros(4, *shape, dtype=dtype)
    x[0] = 1
    labels = torch.arange(4) % classes if classes else None
    names = tuple(str(k) for k in range(classes))
    return Dataset(x, x.clone(), labels, labels, levels=levels, classes=names)


def data_of(settings):
    if "moons" in settings.data:
        return stand_in((2,), torch.float32)
    if "table" in settings.data:
        return stand_in((7,), torch.float32, classes=5)
    if "series" in settings.data:
        return stand_in((1, 24), torch.float32, classes=2)
    if "cifar" in settings.data:
        return stand_in((3, 32, 32), torch.uint8, 256, 10)
    size = 8 if "digits" in settings.data else 28
    return stand_in((1, size, size), torch.uint8, 17 if size == 8 else 256, 10)


PARAMETERS = {
    # Song et al. 2021, arXiv:2011.13456: 62 and 63 million
    "vp_ddpmpp_cifar10": 61_804_419,
    "ve_ncsnpp_cifar10": 62_758_787,
    # Karras et al. 2022, arXiv:2206.00364: 55.73 million, less 9 x 128 that see the augmentation
    "edm_cifar10": 55_732_739,
    # as the networks of these names: test_nets.py, test_nets_adm.py, test_nets_refinenet.py
    "ddpm_cifar10": 35_218_947,
    "iddpm_cifar10": 52_546_438,
    "ncsnv2_cifar10": 29_694_083,
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_file_builds_its_model(path):
    settings = config.read(path)
    data = data_of(settings)
    transform = Affine(levels=data.levels)
    settings.data_std = 1.0
    with torch.device("meta"):
        model = build_model(settings, data, transform)
    count = sum(p.numel() for p in model.parameters())
    assert count == PARAMETERS.get(path.stem, count)
    config.build_at(settings, "objective", config.OBJECTIVE)
    for section in ("sample", "likelihood"):
        solver = config.build_at(settings, f"{section}.solver", sd.Solver)
        if settings[section].grid is not None:
            grid = config.build_at(settings, f"{section}.grid", sd.Grid)
            levels = grid.levels(model.sde, settings[section].steps - 1)
            assert len(levels) == settings[section].steps
        assert solver.nfe(settings[section].steps, denoise=True) > 0
    build(settings.likelihood.trace, sd.Trace)


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("edm_cifar10", 35),
        ("ve_ncsnpp_cifar10", 2000),
        ("vp_ddpmpp_cifar10", 1000),
        ("ddpm_cifar10", 1000),
        ("iddpm_cifar10", 4000),
        ("ncsnv2_cifar10", 5 * 232 + 1),
    ],
)
def test_samplers_take_the_calls_that_their_papers_tell(name, calls):
    (path,) = (path for path in CONFIGS if path.stem == name)
    chosen = config.read(path).sample
    assert build(chosen.solver, sd.Solver).nfe(chosen.steps, denoise=True) == calls


def test_weights_follow_from_the_seed_and_leave_the_generator_alone():
    settings = config.defaults()
    data, transform = config.build_data(settings)
    state = torch.get_rng_state()
    one, two = (build_model(settings, data, transform) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(map(torch.equal, one.parameters(), two.parameters()))
    settings.seed = 1
    other = build_model(settings, data, transform)
    assert not all(map(torch.equal, one.parameters(), other.parameters()))
    assert one.data_std == pytest.approx(float(transform.forward(data.train).std()), rel=1e-6)


def test_a_configuration_survives_its_file(tmp_path):
    settings = config.defaults()
    settings.optim.lr = 0.125
    config.save(settings, tmp_path)
    assert config.load(tmp_path).to_dict() == settings.to_dict()
    with pytest.raises(FileNotFoundError, match="scoresde train"):
        config.load(tmp_path / "elsewhere")


def test_a_key_that_is_younger_than_a_run_has_its_default_and_damage_is_told(tmp_path):
    path, wanted = tmp_path / config.FILE, config.defaults().to_dict()
    config.save(config.defaults(), tmp_path)
    whole = json.loads(path.read_text())
    for key in whole:
        path.write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        assert config.load(tmp_path).to_dict() == wanted
    for text, message in (
        (json.dumps(whole)[:99], "is damaged .*; delete it; `scoresde train` with its --config"),
        ("3", "holds no keys"),
        (json.dumps(whole | {"train": 3}), "train=3 is no group of keys"),
    ):
        path.write_text(text)
        with pytest.raises(CorruptCheckpoint, match=f"^{path}: {message}"):
            config.load(tmp_path)


def test_a_grid_that_is_not_named_can_be_and_is_the_default_for_the_data(tmp_path):
    assert config.defaults().sample.grid is config.defaults().likelihood.grid is None
    folder = f"--workdir={tmp_path}"
    config.save(config.defaults(), tmp_path)
    named = parse("sample", [folder, "--config.sample.grid=LogSNRGrid()"]).config
    assert config.build_at(named, "sample.grid", sd.Grid) == sd.LogSNRGrid()
    named = parse("demo", ["--config.likelihood.grid=KarrasGrid(rho=5.0)"]).config
    assert config.build_at(named, "likelihood.grid", sd.Grid) == sd.KarrasGrid(5.0)
    # runs of before name a grid, and keep it
    settings = config.defaults()
    settings.sample.grid = "DensityGrid()"
    config.save(settings, tmp_path)
    assert parse("sample", [folder]).config.sample.grid == "DensityGrid()"


def test_continuous_data_are_standardised(tmp_path):
    np.save(tmp_path / "x.npy", np.linspace(0, 9, 200, dtype=np.float32).reshape(100, 2))
    settings = config.defaults()
    settings.data = f"npy({str(tmp_path / 'x.npy')!r})"
    data, transform = config.build_data(settings)
    assert len(data.test) == 10  # a tenth is set aside where there is no test set
    y = transform.forward(data.train)
    torch.testing.assert_close(y.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(y.var(0, correction=0), torch.ones(2))
