"""Metrics of a run, in Python and on the command line."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_helpers import exact_of_classes

from scoresde import cli, config
from scoresde.data import Affine, Dataset
from scoresde.evaluate import METRICS, evaluate
from scoresde.run import Run, build_run

ROOT = Path(__file__).parents[1]
NAMES = {
    "frechet": ["Frechet distance"],
    "frechet_infinity": ["Frechet distance at infinity"],
    "kid": ["KID"],
    "precision_recall": ["precision", "recall"],
    "density_coverage": ["density", "coverage"],
    "sliced": ["sliced W2"],
    "energy": ["energy distance"],
    "mmd": ["MMD²"],
    "c2st": ["C2ST accuracy"],
}


def untrained(data, conditional=True):
    chosen = config.defaults()
    chosen.data, chosen.conditional = data, conditional
    chosen.net = "MLP(hidden=8, depth=1)"
    chosen.sample.steps = 2
    return build_run(chosen)


def test_every_metric_has_a_name_and_is_told_in_the_usage():
    run = untrained("moons(n=300)")
    assert list(NAMES) == list(METRICS)
    found = evaluate(run, 40, metrics=list(NAMES))
    assert [e.metric for e in found.samples] == [name for names in NAMES.values() for name in names]
    assert [e.metric for e in found.train] == [e.metric for e in found.samples]
    assert all(name in cli.USAGE for name in NAMES)
    assert found.nfe == 2
    few = {"energy distance", "MMD²", "C2ST accuracy"}
    assert {(e.samples, e.reference) for e in found.samples if e.metric in few} == {(40, 40)}
    assert {(e.samples, e.reference) for e in found.train if e.metric not in few} == {(40, 300)}


def test_an_untrained_run_is_told_from_its_data_and_training_data_are_not():
    found = evaluate(untrained("moons(n=800)"), 400, metrics=["energy"])
    assert all(e.p_value < 0.01 for e in found.samples)
    assert all(e.p_value > 0.01 for e in found.train)
    assert {e.network for e in found.samples} == {"none"}


def test_images_are_compared_by_a_classifier_that_the_table_names():
    run = untrained("digits()")
    found = evaluate(run, 40)
    assert [e.metric for e in found.samples] == ["Frechet distance", "KID", "precision", "recall"]
    (network,) = {e.network for e in (*found.samples, *found.train)}
    assert network.startswith("ConvNet classifier ")
    lines = found.table().splitlines()
    assert lines[0] == f"features: {network}"
    assert lines[1].split() == ["samples", "p", "training", "data", "N", "M"]
    assert lines[2].split()[:3] == ["Frechet", "distance", f"{found.samples[0].value:.4g}"]
    assert lines[2].split()[-2:] == ["40", str(len(run.data.test))]
    assert {len(line) for line in lines[1:]} == {len(lines[1])}
    assert found.samples[0].value > found.train[0].value


def test_the_same_seed_gives_the_same_numbers():
    run = untrained("moons(n=100)")
    found, again, other = (evaluate(run, 30, metrics=["sliced"], seed=s) for s in (0, 0, 1))
    assert found == again
    assert found.samples[0].value != other.samples[0].value


def test_an_exact_model_of_classes_that_are_not_balanced_passes():
    seeded, means, std = torch.Generator().manual_seed(0), torch.tensor([[-3.0], [3.0]]), 0.5
    labels = (torch.rand(800, generator=seeded) < 0.1).long()
    x = means[labels] + std * torch.randn(800, 1, generator=seeded)
    data = Dataset(x[:400], x[400:], labels[:400], labels[400:])
    run = Run(config.defaults(), data, Affine(), exact_of_classes(means, std))
    found = evaluate(run, 400, metrics=["energy"])
    assert all(e.p_value > 0.01 for e in found.samples)


def test_data_sorted_by_class_are_taken_at_random():
    run = untrained("gaussians8(n=400)", conditional=False)
    order = run.data.train[:, 0].argsort()
    run.data.train.copy_(run.data.train[order])
    found = evaluate(run, 100, metrics=["energy"])
    assert found.train[0].p_value > 0.01


@pytest.mark.parametrize(
    ("data", "asked", "message"),
    [
        ("moons(n=50)", {"metrics": ["fid"]}, "--metrics: no 'fid'; of frechet, "),
        ("moons(n=50)", {"features": "inception"}, "--features=inception: one of classifier, dig"),
        ("moons(n=50)", {"features": "classifier"}, "no images with labels to learn from"),
        ("digits()", {"features": "digits"}, "--features=digits: takes grey levels 0..255, not"),
        (
            "digits()",
            {"metrics": ["frechet_infinity"], "features": "none"},
            r"frechet_infinity of 20 samples.*extrapolate=True.*leave it out by --metrics",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_samples_are_drawn(
    monkeypatch, data, asked, message
):
    monkeypatch.setattr("scoresde.evaluate.draw", lambda *_: pytest.fail("samples were drawn"))
    with pytest.raises(ValueError, match=message):
        evaluate(untrained(data), 20, **asked)


def test_samples_need_as_many_training_data_and_some_test_data():
    run = untrained("moons(n=30)")
    with pytest.raises(ValueError, match=r"--n=31: there are 30 training data"):
        evaluate(run, 31, metrics=["sliced"])
    assert {e.samples for e in evaluate(run, metrics=["sliced"]).train} == {30}
    none = replace(run.data, test=run.data.test[:0], test_labels=run.data.test_labels[:0])
    with pytest.raises(ValueError, match=r"0 test.* has no test data: name some"):
        evaluate(replace(run, data=none), 10, metrics=["sliced"])


def test_the_command_prints_a_table_and_writes_a_file(monkeypatch, tmp_path, capsys):
    def scoresde(*words):
        monkeypatch.setattr(sys, "argv", ["scoresde", *words])
        return cli.main(), *capsys.readouterr()

    how = ("--config.train.steps=2", "--config.optim.warmup=1", "--config.data=moons(n=60)")
    train = f"--config={ROOT}/configs/vp_moons.py"
    assert scoresde("train", train, f"--workdir={tmp_path}", *how)[0] == 0
    status, out, _ = scoresde("evaluate", f"--workdir={tmp_path}", "--n=20", "--metrics=sliced,mmd")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "features: none"
    assert [line[:9].rstrip() for line in lines[2:]] == ["sliced W2", "MMD²"]
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["nfe"] == 20
    first = stored["samples"][0]
    assert (first["metric"], first["samples"], first["network"]) == ("sliced W2", 20, "none")
    assert f"{first['value']:.4g}" in lines[2]
    assert 0 < stored["samples"][1]["p_value"] <= 1
    status, out, err = scoresde("evaluate", f"--workdir={tmp_path}", "--metrics=fid")
    assert (status, out) == (2, "")
    assert "--metrics: no 'fid'" in err
