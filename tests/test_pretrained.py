"""Models as files: what is saved draws the same without its data; one comes with the package."""

import json
import runpy
import sys
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde import atomic, cli, config, pretrained, run
from scoresde.atomic import CorruptCheckpoint
from scoresde.pretrained.files import FACTS, WEIGHTS

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "scoresde" / "pretrained"
CLASSES = ("tall", "wide", "round")


@pytest.fixture
def trained(tmp_path):
    """A model with weights of all sizes, of data that are gone."""
    generator = np.random.default_rng(0)
    path = tmp_path / "data.npz"
    x, labels = generator.integers(0, 9, (30, 1, 4, 4), dtype=np.uint8), np.arange(30) % 3
    np.savez(path, train=x, train_labels=labels)
    settings = config.defaults()
    settings.data = f"npz({str(path)!r}, levels=9, classes={CLASSES})"
    settings.net, settings.sample.steps = "MLP(hidden=16, depth=1)", 3
    made = run.build_run(settings).trained()
    path.unlink()
    seeded = torch.Generator().manual_seed(0)
    for weight in made.model.parameters():
        weight.data = torch.randn(weight.shape, generator=seeded) * 0.3
    return replace(made, model=made.model.eval())


@pytest.fixture
def saved(trained, tmp_path):
    pretrained.save(trained, tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def scoresde(monkeypatch, capsys):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["scoresde", *map(str, words)])
        return cli.main(), *capsys.readouterr()

    return call


def test_what_is_saved_is_loaded_with_its_parameters_rounded_to_half_precision(trained, saved):
    loaded = pretrained.load(saved)
    assert loaded.config.to_dict() == trained.config.to_dict()
    assert (loaded.shape, loaded.classes) == ((1, 4, 4), CLASSES)
    assert loaded.transform == trained.transform
    assert loaded.model.data_std == trained.model.data_std
    assert not loaded.model.training
    for part in ("mean", "std"):
        assert torch.equal(getattr(loaded.prior, part), getattr(trained.prior, part))
    halved, exact = dict(loaded.model.named_parameters()), dict(trained.model.named_parameters())
    assert halved.keys() == exact.keys()
    for name, weight in exact.items():
        assert halved[name].dtype == torch.float32
        # half a unit in the last place of 11 bits, or of the least number
        assert (halved[name] - weight).abs().le(2**-11 * weight.abs() + 2**-25).all(), name
    for one, two in zip(loaded.model.buffers(), trained.model.buffers(), strict=True):
        assert torch.equal(one, two)


def test_saving_again_changes_nothing(saved, tmp_path):
    pretrained.save(pretrained.load(saved), tmp_path / "again")
    for path in saved.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_labels_are_taken_in_turn(trained):
    all_of_them, calls = pretrained.draw(trained, 6)
    assert (all_of_them.shape, all_of_them.dtype, calls) == ((6, 1, 4, 4), torch.uint8, 3)
    alone = [pretrained.draw(trained, 6, labels=[k])[0] for k in range(3)]
    assert not torch.equal(alone[0], alone[1])
    for i in range(6):
        assert torch.equal(all_of_them[i], alone[i % 3][i])
    some, _ = pretrained.draw(trained, 6, labels=[2, 0])
    assert torch.equal(some[4], alone[2][4])
    assert torch.equal(some[5], alone[0][5])


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("round", 2, None),
        ("1", 1, None),
        ("3", None, "label='3': 0 to 2, or one of tall, wide, round"),
        ("-1", None, "label='-1'"),
        ("tal", None, "did you mean 'tall'"),
    ],
)
def test_a_label_is_a_name_or_a_number(trained, name, label, message):
    if message is None:
        assert trained.label(name) == label
        return
    with pytest.raises(ValueError, match=message):
        trained.label(name)


def test_labels_that_are_none_are_refused(trained):
    for label in (-2, 3):
        with pytest.raises(ValueError, match=rf"labels: {label} must be in 0..2"):
            pretrained.draw(trained, 2, labels=[0, label])
    plain = replace(trained, classes=())
    with pytest.raises(ValueError, match="told no class"):
        pretrained.draw(plain, 2, labels=[0])
    with pytest.raises(ValueError, match="told no class; leave it out"):
        plain.label("tall")


def test_a_weight_beyond_half_precision_is_refused_before_anything_is_written(trained, tmp_path):
    trained.model.net.head.bias.data[0] = 7e4
    with pytest.raises(ValueError, match=r"net.head.bias: a weight of 7e\+04"):
        pretrained.save(trained, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", [WEIGHTS, config.FILE])
def test_damage_is_told(saved, name):
    content = bytearray((saved / name).read_bytes())
    content[-1] ^= 1 if name == WEIGHTS else ord("\n") ^ ord(" ")
    (saved / name).write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match=rf"{saved}: .*{name}.* differs .*export it again"):
        pretrained.load(saved)


@pytest.mark.parametrize("written", [1, 2])
def test_an_export_that_was_killed_over_another_is_refused(
    trained, saved, tmp_path, monkeypatch, written
):
    trained.model.net.head.bias.data += 1.0
    trained.config.sde = "VPSDE(beta_max=9.0)"
    replace_file, left = atomic.replace, [None] * written
    monkeypatch.setattr(atomic, "replace", lambda *a: left.pop() or replace_file(*a))
    with pytest.raises(IndexError):  # stands for a kill
        pretrained.save(trained, saved)
    with pytest.raises(CorruptCheckpoint, match="differs from what was written"):
        pretrained.load(saved)
    monkeypatch.undo()
    pretrained.save(trained, saved)
    assert pretrained.load(saved).config.sde == trained.config.sde


def test_facts_that_are_not_what_was_saved_are_told_with_their_file(saved):
    path, written = saved / FACTS, (saved / FACTS).read_text()
    facts = json.loads(written)
    facts["classes"].reverse()
    for text, message in (
        (json.dumps(facts), "differs from what was written"),
        (written[:20], f"{path}: is damaged .*; install or export it again"),
        ("[]", f"{path}: holds no keys"),
        (written.replace("sha256", "sha"), f"{path}: has no 'sha256'; install or export it again"),
        (written.replace("shape", "form"), f"{path}: has no 'shape'"),
    ):
        path.write_text(text)
        with pytest.raises(CorruptCheckpoint, match=message):
            pretrained.load(saved)


def test_no_samples_are_refused(trained):
    for n in (0, -1):
        with pytest.raises(ValueError, match=rf"^n={n}: at least 1"):
            pretrained.draw(trained, n)


def test_a_model_that_is_none_is_told_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match="'fashon': neither one of fashion"):
        pretrained.load("fashon")
    with pytest.raises(ValueError, match="scoresde export"):
        pretrained.load(tmp_path)


def test_a_run_is_exported_and_drawn_from_elsewhere(scoresde, tmp_path, monkeypatch):
    where = f"--workdir={tmp_path / 'run'}"
    short = ("--config.train.steps=2", "--config.optim.warmup=1", "--config.net=MLP(hidden=8)")
    digits = f"--config={ROOT}/configs/vp_digits.py"
    assert scoresde("train", digits, where, *short)[0] == 0
    status, out, _ = scoresde("export", where, f"--to={tmp_path / 'model'}")
    assert (status, out) == (0, f"scoresde sample --pretrained={tmp_path / 'model'}\n")
    few = ("--n=5", "--label=3,7", "--config.sample.steps=4", "--seed=2")
    assert scoresde("sample", where, *few)[0] == 0
    monkeypatch.setattr(config, "build_data", pytest.fail)
    monkeypatch.chdir(tmp_path)
    status, out, _ = scoresde("sample", "--pretrained", "model", *few)
    assert status == 0
    assert out.startswith("5 samples, 4 network calls each: samples.npz\n")
    there, here = (np.load(p / "samples.npz")["samples"] for p in (tmp_path / "run", tmp_path))
    # of 17 grey levels, rounding may move those at the edge of a bin by one
    assert np.abs(there.astype(int) - here).max() <= 1
    with Image.open("samples.png") as picture:
        assert picture.size == (4 * (5 * 9 + 1), 4 * (9 + 1))
    assert scoresde("sample", "--pretrained=model", "--workdir=new/one", "--n=1")[0] == 0
    assert len(np.load("new/one/samples.npz")["samples"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", "--pretrained=fashon"], "'fashon': neither one of fashion"),
        (["sample", "--pretrained=fashion", "--label=Cot"], "did you mean 'Coat'?"),
        (["sample", "--pretrained=fashion", "--label=10"], "label='10': 0 to 9, or one of T-shirt"),
        (["sample", "--pretrained=fashion", "--config=x.py"], "has its own"),
        (["train", "--pretrained=fashion"], "--pretrained=fashion: no such flag"),
        (["export", "--workdir=."], "no config.json there"),
        (["export"], "--workdir is missing"),
    ],
)
def test_mistakes_are_told_in_a_line(scoresde, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = scoresde(*words)
    assert (status, out) == (2, "")
    assert message in err
    assert not list(tmp_path.iterdir())


def test_the_package_brings_a_small_model_of_fashion_that_draws_the_same_every_time():
    assert pretrained.names() == ("fashion",)
    folder = SHIPPED / "fashion"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4e6
    assert (folder / "CARD.md").is_file()
    fashion = pretrained.load("fashion")
    assert (fashion.shape, fashion.transform.levels) == ((1, 28, 28), 256)
    assert (len(fashion.classes), fashion.classes[4]) == (10, "Coat")
    how = {"labels": [7, 4], "steps": 2}
    pictures, calls = pretrained.draw(fashion, 2, **how)
    assert (pictures.shape, pictures.dtype, calls) == ((2, 1, 28, 28), torch.uint8, 2)
    assert torch.equal(pictures, pretrained.draw(fashion, 2, **how)[0])
    # mass in the middle, none in the corners, as in all of the data
    assert pictures[..., 8:20, 8:20].float().mean() > 5 * pictures[..., :2, :2].float().mean()


def test_the_model_of_fashion_is_that_of_its_configuration():
    given = runpy.run_path(str(ROOT / "configs" / "vp_fashion_small.py"))["get_config"]().to_dict()
    kept = pretrained.load("fashion").config.to_dict()
    for key in ("net", "sde", "objective", "predicts", "seed", "optim", "train"):
        assert kept[key] == given[key], key
    assert set(asdict(pretrained.load("fashion").transform)) == {"loc", "scale", "levels"}


def test_the_wheel_takes_all_that_a_model_consists_of():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["scoresde"]
    taken = {path for pattern in patterns for path in (ROOT / "scoresde").glob(pattern)}
    assert {path for name in pretrained.names() for path in (SHIPPED / name).iterdir()} <= taken
    facts = json.loads((SHIPPED / "fashion" / FACTS).read_text())
    assert set(facts) == {"shape", "classes", "sha256"}
