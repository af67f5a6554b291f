"""The command line, as a new user meets it."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from scoresde import cli

ROOT = Path(__file__).parents[1]
DIGITS, MOONS = (f"--config={ROOT}/configs/vp_{name}.py" for name in ("digits", "moons"))
TINY = (
    "--config.train.steps=6",
    "--config.optim.warmup=2",
    "--config.train.batch_size=16",
    "--config.train.log_every=3",
    "--config.net=MLP(hidden=16, depth=1)",
)


@pytest.fixture
def scoresde(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["scoresde", *map(str, words)])
        status = cli.main()
        return status, *capsys.readouterr()

    return run


def test_the_console_script_shows_its_usage():
    script = Path(sys.executable).with_name("scoresde")
    shown = subprocess.run([script, "help"], capture_output=True, text=True, check=True)
    assert shown.stdout == cli.USAGE


def test_the_usage_sets_what_the_guides_set_and_shortens_a_run():
    guides = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    rates = re.findall(r"--config\.optim\.lr=(\S+)", "\n".join([cli.USAGE, *guides]))
    assert len(rates) > 1
    assert set(rates) == {rates[0]}
    assert "--config.train.steps=1000" in cli.USAGE


@pytest.mark.parametrize("words", [["help"], ["--help"], ["train", "--help"], ["sample", "-h"]])
def test_help_is_the_usage(scoresde, words):
    assert scoresde(*words) == (0, cli.USAGE, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dmeo"], "no command 'dmeo'"),
        (["train"], "--config is missing"),
        (["train", DIGITS], "--workdir is missing"),
        (["train", "--config=nowhere.py", "--workdir=w"], "nowhere.py: no such file"),
        (
            ["train", DIGITS, "--workdir=w", "--config.optim.lrr=1"],
            "config.optim.lrr; did you mean config.optim.lr?\n",
        ),
        (
            ["train", DIGITS, "--workdir=w", "--config.optin.lr=1"],
            "config.optin; did you mean config.optim?\n",
        ),
        (
            ["train", DIGITS, "--workdir=w", "--config.optim.x=1"],
            "the configuration has no key config.optim.x; config.optim has decay, lr, warmup\n",
        ),
        (
            ["train", DIGITS, "--workdir=w", "--config.steps=60"],
            "no key config.steps; config has conditional, data",
        ),
        (
            ["train", DIGITS, "--workdir=w", "--config.seed.x=1"],
            "config.seed has no keys, but a value",
        ),
        (
            ["train", DIGITS, "--workdir=w", "--config.optim=1"],
            "config.optim is a group of keys; set one of decay,",
        ),
        (["train", DIGITS, "--wrokdir=w"], "did you mean --workdir?"),
        (["train", DIGITS, "--workdir=w", "--confg.optim.lr=1"], "did you mean --config?"),
        (["train", DIGITS, "--workdir=w", "--config.train.amp=bf16"], "train.amp='bf16' must be"),
        (["train", DIGITS, "--workdir=w", "--config.sample.batch_size=0"], "sample.batch_size=0"),
        (["sample", "--workdir", "elsewhere"], "workdir=elsewhere"),
        (["train", DIGITS, "--workdir=w", "--config.train.steps=many"], ": 'many'\n"),
        (["train", DIGITS, "--workdir=w", "extra"], "extra: not a flag"),
        (["train", DIGITS, "--workdir=w", "--config.sde=VPSED()"], "did you mean 'VPSDE'"),
        (["train", DIGITS, "--workdir=w", "--config.data=idx('none')"], "none"),
        (["sample"], "--workdir is missing"),
        (["sample", "--workdir=w"], "no config.json there"),
        (["sample", "--workdir=w", "--config=x.py"], "has its own"),
        (["sample", "--workdir=w", "--format=npz"], "--format=npz: no such flag"),
        (["sample", "--workdir=w", "--n=0"], "no config.json there"),
    ],
)
def test_mistakes_are_told_in_a_line(scoresde, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = scoresde(*words)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "w" / "config.json").exists()


def test_train_sample_and_likelihood_of_digits(scoresde, tmp_path):
    status, out, _ = scoresde("train", DIGITS, f"--workdir={tmp_path}", *TINY)
    assert status == 0
    assert "trained 6 steps" in out
    assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 6
    how = ("--config.sample.solver=DDIM(eta=1.0)", "--config.sample.steps=5")
    status, out, _ = scoresde("sample", f"--workdir={tmp_path}", "--n=7", *how)
    assert status == 0
    assert "7 samples, 5 network calls each" in out
    samples = np.load(tmp_path / "samples.npz")["samples"]
    assert samples.shape == (7, 1, 8, 8)
    assert samples.dtype == np.uint8
    assert samples.max() <= 16
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.size == (4 * (7 * 9 + 1), 4 * (9 + 1))
    steps = "--config.likelihood.steps=8"
    status, _, _ = scoresde("likelihood", f"--workdir={tmp_path}", "--n=9", steps)
    assert status == 0
    summary = json.loads((tmp_path / "likelihood.json").read_text())
    stored = np.load(tmp_path / "likelihood.npz")
    assert summary["samples"] == len(stored["bits_per_dim"]) == 9
    assert summary["bits_per_dim"] == pytest.approx(stored["bits_per_dim"].mean())
    assert summary["nfe"] == 8
    # images of 64 pixels and 17 levels: bits/dim follow from nats by the bins' log-determinant
    nats = stored["nats"] / 64 + np.log(2 / 17)
    np.testing.assert_allclose(stored["bits_per_dim"], -nats / np.log(2), rtol=1e-5)
    # more of them go on from these
    more = ("--n=11", "--format=parquet", steps)
    assert scoresde("likelihood", f"--workdir={tmp_path}", *more)[0] == 0
    table = pq.read_table(tmp_path / "likelihood.parquet")
    assert len(list(tmp_path.glob("likelihood/*/rows-*.npz"))) == 2
    assert table["nats"].to_pylist()[:9] == stored["nats"].tolist()


def test_a_full_disk_leaves_the_samples_of_before(scoresde, tmp_path, monkeypatch):
    words = ("sample", "--pretrained=fashion", f"--workdir={tmp_path}", "--n=1")
    words = (*words, "--config.sample.steps=2")
    assert scoresde(*words)[0] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"samples.npz", "samples.png"}

    sync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    for failing, name in enumerate(("samples.npz", "samples.png"), 1):
        calls.clear()
        status, _, err = scoresde(*words, f"--seed={failing}")
        assert (status, "No space left" in err) == (2, True)
        assert {path.name for path in tmp_path.iterdir()} == set(before)
        assert (tmp_path / name).read_bytes() == before[name]


def test_samples_are_drawn_where_no_picture_can_be_made(scoresde, tmp_path, monkeypatch):
    assert scoresde("train", DIGITS, f"--workdir={tmp_path}", *TINY)[0] == 0
    monkeypatch.setitem(sys.modules, "PIL", None)
    status, out, _ = scoresde("sample", f"--workdir={tmp_path}", "--n=2")
    assert status == 0
    assert out.endswith("no picture: pillow missing: pip install 'scoresde[report]'\n")
    assert len(np.load(tmp_path / "samples.npz")["samples"]) == 2
    assert not (tmp_path / "samples.png").exists()


def test_parquet_without_its_package_is_refused_before_anything_is_measured(
    scoresde, tmp_path, monkeypatch
):
    assert scoresde("train", MOONS, f"--workdir={tmp_path}", *TINY)[0] == 0
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, err = scoresde("likelihood", f"--workdir={tmp_path}", "--n=2", "--format=parquet")
    assert (status, err) == (
        2, "scoresde likelihood: pyarrow missing: pip install 'scoresde[parquet]'\n"
    )  # fmt: skip
    assert not (tmp_path / "likelihood").exists()


def test_continuous_data_come_back_in_data_units(scoresde, tmp_path):
    assert scoresde("train", MOONS, f"--workdir={tmp_path}", *TINY)[0] == 0
    assert scoresde("sample", f"--workdir={tmp_path}", "--n=50")[0] == 0
    samples = np.load(tmp_path / "samples.npz")["samples"]
    assert samples.shape == (50, 2)
    assert not (tmp_path / "samples.png").exists()
    assert scoresde("likelihood", f"--workdir={tmp_path}", "--n=20")[0] == 0
    assert json.loads((tmp_path / "likelihood.json").read_text())["trace_stderr"] == 0.0


def test_another_configuration_leaves_the_run_as_it_is(scoresde, tmp_path):
    assert scoresde("train", MOONS, f"--workdir={tmp_path}", *TINY)[0] == 0
    before = (tmp_path / "config.json").read_text()
    other = (*TINY[:-1], "--config.net=MLP(hidden=8, depth=1)")
    status, _, err = scoresde("train", MOONS, f"--workdir={tmp_path}", *other)
    assert status == 2
    assert "MLP(hidden=8, depth=1)" in err
    assert "MLP(hidden=16, depth=1)" in err
    assert (tmp_path / "config.json").read_text() == before


MINE = """
import scoresde

class Mine(scoresde.VPSDE):
    def __init__(self, rate): ...

def ddim(field, x, levels, noise):
    for here, there in zip(levels[:-1], levels[1:]):
        x = field(x, here).combine(x0=there.alpha, eps=there.sigma)
    return x

def churned(steps):
    return scoresde.Churned(scoresde.Heun(), 1.0 / steps)

solver = scoresde.DDIM()
number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's own, in the folder where the command is given."""
    (tmp_path / "mine_of_a_user.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine_of_a_user", raising=False)
    return "mine_of_a_user"


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["scoresde:DDIM"], 0, "ok    order        declared 1"),
        (["scoresde:AdamsPC", "--operations=12"], 0, "ok    operations"),
        (["scoresde:AdamsPC"], 1, "FAIL  operations"),
        (["scoresde:VPSDE"], 0, "ok    coefficients"),
        (["mine_of_a_user:solver"], 0, "ok    order        declared 1"),
        (["mine_of_a_user:churned"], 0, "ok    order        declared 2"),
        (["mine_of_a_user:ddim"], 0, "ok    order        declared none"),
        (["mine_of_a_user:ddim", "--order=1", "--evals=1"], 0, "ok    evals        1 a step"),
        (["mine_of_a_user:ddim", "--order=2"], 1, "FAIL  order        declared 2"),
        (["mine_of_a_user:ddim", "--stochastic"], 1, "FAIL  stochastic"),
    ],
)
def test_check_prints_a_report_and_says_whether_it_holds(scoresde, mine, words, status, line):
    found, out, err = scoresde("check", *words)
    assert (found, err) == (status, "")
    assert line in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name one thing to check, as package.module:Name"),
        (["scoresde:DDIM", "scoresde:Heun"], "name one thing"),
        (["DDIM"], "DDIM: write package.module:Name"),
        (["nowhere:DDIM"], "nowhere:DDIM: No module named 'nowhere'"),
        (["scoresde:DDIMM"], "no DDIMM in scoresde; did you mean 'DDIM'"),
        (["scoresde:sample"], "is no solver, no process"),
        (["scoresde:Langevin"], "check it in a PredictorCorrector"),
        (["scoresde:GaussianSDE"], "name an instance instead"),
        (["mine_of_a_user:number"], "3 is no solver"),
        (["mine_of_a_user:Mine"], "name an instance instead"),
        (["scoresde:DDIM", "--order=1"], "--order: scoresde:DDIM says that itself"),
        (["scoresde:DDIM", "--order=one"], "order"),
        (["scoresde:DDIM", "--odrer=1"], "Did you mean: order"),
    ],
)
def test_check_tells_mistakes_in_a_line(scoresde, mine, words, message):
    status, out, err = scoresde("check", *words)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_a_default_can_be_had_again(scoresde, tmp_path):
    drawn = []
    for name, named in (("a", ()), ("b", ("--config.sample.grid=UniformGrid()",))):
        home = tmp_path / name
        assert scoresde("train", MOONS, f"--workdir={home}", *TINY, *named)[0] == 0
        for again in ((), ("--config.sample.grid=None",)):
            assert scoresde("sample", f"--workdir={home}", "--n=3", *again)[0] == 0
            drawn.append(np.load(home / "samples.npz")["samples"])
    default, same, uniform, restored = drawn
    assert np.array_equal(default, same)
    assert not np.allclose(uniform, restored)
    assert np.array_equal(default, restored)


def test_flags_are_written_with_a_space_as_well(scoresde, tmp_path):
    words = [
        part for word in (MOONS, f"--workdir={tmp_path}", *TINY) for part in word.split("=", 1)
    ]
    assert scoresde("train", *words)[0] == 0
    assert scoresde("sample", "--workdir", tmp_path, "--n", 3)[0] == 0
    assert len(np.load(tmp_path / "samples.npz")["samples"]) == 3


def test_a_finished_run_without_its_log_is_still_finished(scoresde, tmp_path):
    assert scoresde("train", MOONS, f"--workdir={tmp_path}", *TINY)[0] == 0
    (tmp_path / "log.jsonl").unlink()
    status, out, _ = scoresde("train", MOONS, f"--workdir={tmp_path}", *TINY)
    assert (status, out) == (0, "trained 6 steps\n")


def test_what_has_no_standard_error_is_null(scoresde, tmp_path):
    assert scoresde("train", MOONS, f"--workdir={tmp_path}", *TINY)[0] == 0
    trace = "--config.likelihood.trace=Hutchinson(n=1)"
    assert scoresde("likelihood", f"--workdir={tmp_path}", "--n=1", trace)[0] == 0
    text = (tmp_path / "likelihood.json").read_text()
    summary = json.loads(text, parse_constant=pytest.fail)
    assert summary["stderr"] is None
    assert summary["trace_stderr"] is None
    assert np.isfinite(summary["bits_per_dim"])


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_killed_run_can_be_sampled(scoresde, tmp_path, monkeypatch):
    from scoresde.training import checkpoint

    save = checkpoint.save

    def killed(*args, **options):
        save(*args, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(Killed):
            scoresde(
                "train", MOONS, f"--workdir={tmp_path}", *TINY, "--config.train.checkpoint_every=2"
            )
    assert [p.name for p in tmp_path.glob("step-*")] == ["step-000000002"]
    assert scoresde("sample", f"--workdir={tmp_path}", "--n=5")[0] == 0
    assert scoresde("likelihood", f"--workdir={tmp_path}", "--n=5")[0] == 0


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C in the first step of training, a number of times."""
    from scoresde import run

    batches = run.batches

    def interrupt(times):
        def stream(*args, **options):
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            return batches(*args, **options)

        monkeypatch.setattr(run, "batches", stream)

    # a process in the background may have been started without one
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield interrupt
    signal.signal(signal.SIGINT, former)


def test_ctrl_c_keeps_the_run_and_says_so(scoresde, tmp_path, interrupted, capsys):
    interrupted(1)
    with pytest.raises(SystemExit) as stopped:
        scoresde("train", MOONS, f"--workdir={tmp_path}", *TINY)
    assert stopped.value.code == 130
    kept = tmp_path / "step-000000001"
    said = f"scoresde train: stopped; the same command goes on from {kept}\n"
    assert capsys.readouterr().err.endswith(said)
    assert kept.is_dir()


def test_a_second_ctrl_c_ends_the_run_at_once(scoresde, tmp_path, interrupted):
    interrupted(2)
    status, _, err = scoresde("train", MOONS, f"--workdir={tmp_path}", *TINY)
    assert status == 130
    assert err.endswith("scoresde train: interrupted\n")
    assert not list(tmp_path.glob("step-*"))
