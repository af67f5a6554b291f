"""Likelihoods of whole data sets: in any number of parts and processes, and after any kill."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from solver_examples import model_on, normal
from torch import nn

import scoresde as sd
from scoresde import VPSDE, Hutchinson, SeededNoise
from scoresde.denoiser import feed_999t
from scoresde.likelihood import Share, fingerprint, save_columns, summary, survey

X = normal(11, 3)
NET = model_on().net
SETTINGS = {"trace": "Hutchinson(2)", "seed": 0}


def evaluate(x, rows):
    noise = SeededNoise(0, indices=rows)
    return sd.log_likelihood(model_on(), x, trace=Hutchinson(2), steps=3, noise=noise)


def whole():
    return evaluate(X, torch.arange(11))


def run(folder, **how):
    how = {"batch_size": 4, "settings": SETTINGS, "progress": False, **how}
    return survey(how.pop("evaluate", evaluate), how.pop("x", X), folder, **how)


@pytest.mark.parametrize("size", [1, 4, 100])
def test_columns_are_those_of_one_batch(tmp_path, size):
    columns = run(tmp_path, batch_size=size)
    found = whole()
    assert columns["index"].tolist() == list(range(11))
    assert np.array_equal(columns["nats"], found.nats.numpy())
    assert np.array_equal(columns["bits_per_dim_stderr"], found.bits_per_dim_stderr.numpy())
    assert np.array_equal(columns["prior"], found.parts["prior"].numpy())


class Killed(BaseException):
    """Stands for the end of the process."""


class Counted:
    """Measures, counts rows, and is killed after a number of batches."""

    def __init__(self, batches=99):
        self.rows, self.left = [], batches

    def __call__(self, x, rows):
        if not self.left:
            raise Killed
        self.left -= 1
        self.rows += rows.tolist()
        return evaluate(x, rows)


def test_a_kill_loses_one_batch_at_most(tmp_path):
    first, second = Counted(2), Counted()
    with pytest.raises(Killed):
        run(tmp_path, evaluate=first, batch_size=3)
    columns = run(tmp_path, evaluate=second, batch_size=2)  # another size is no other result
    assert first.rows == [0, 1, 2, 3, 4, 5]
    assert second.rows == [6, 7, 8, 9, 10]
    assert np.array_equal(columns["nats"], whole().nats.numpy())


def test_more_rows_go_on_from_fewer(tmp_path):
    assert len(run(tmp_path, x=X[:5])["nats"]) == 5
    more = Counted()
    assert len(run(tmp_path, evaluate=more)["nats"]) == 11
    assert more.rows == [5, 6, 7, 8, 9, 10]
    assert len(run(tmp_path, x=X[:2], evaluate=Counted(0))["nats"]) == 2


def test_other_settings_are_measured_anew_and_apart(tmp_path):
    run(tmp_path)
    again = Counted()
    run(tmp_path, evaluate=again, settings={**SETTINGS, "seed": 1})
    assert again.rows == list(range(11))
    run(tmp_path, evaluate=Counted(0))  # and those of before are still there


def test_processes_share_the_work_and_the_last_one_finds_it_whole(tmp_path):
    each = [Counted() for _ in range(3)]
    found = [run(tmp_path, evaluate=c, share=Share(k, 3)) for k, c in enumerate(each)]
    assert [c.rows for c in each] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert found[0] is found[1] is None
    assert np.array_equal(found[2]["nats"], whole().nats.numpy())


def test_damaged_parts_are_measured_again(tmp_path):
    run(tmp_path)
    part = sorted(tmp_path.rglob("rows-*.npz"))[1]
    whole_file = part.read_bytes()
    for damaged in (whole_file[:-30], whole_file[:200] + b"?" + whole_file[201:], b""):
        part.write_bytes(damaged)
        again = Counted()
        with pytest.warns(UserWarning, match="damaged"):
            columns = run(tmp_path, evaluate=again)
        assert again.rows == [4, 5, 6, 7]
        assert np.array_equal(columns["nats"], whole().nats.numpy())


def test_any_bit_that_flips_is_found(tmp_path):
    columns = run(tmp_path, batch_size=11)
    (part,) = tmp_path.rglob("rows-*.npz")
    stored = part.read_bytes()
    bits = np.random.default_rng(0).choice(8 * len(stored), 400, replace=False)
    for bit in bits.tolist():
        damaged = bytearray(stored)
        damaged[bit // 8] ^= 1 << bit % 8
        part.write_bytes(damaged)
        with pytest.warns(UserWarning, match="damaged"):
            again = run(tmp_path, batch_size=11, evaluate=lambda x, rows: whole_once())
        assert all(np.array_equal(again[k], v) for k, v in columns.items())


@cache
def whole_once():
    return whole()


SCRIPT = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from test_survey import run
print(run(Path({folder!r}), batch_size=1) is None)
"""


def test_processes_find_their_share_in_the_environment(tmp_path):
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    waiting = [process.communicate(timeout=120)[0].split()[-1] for process in running]
    assert waiting.count("False") >= 1  # one at least found all done
    assert np.array_equal(run(tmp_path, evaluate=Counted(0))["nats"], whole().nats.numpy())


def test_a_summary_has_the_error_of_the_mean():
    columns = whole().numpy()
    found = summary(columns)
    bits = columns["bits_per_dim"].astype(float)
    assert found["samples"] == 11
    assert found["bits_per_dim"] == pytest.approx(bits.mean())
    assert found["stderr"] == pytest.approx(np.std(bits, ddof=1) / math.sqrt(11))
    trace = columns["bits_per_dim_stderr"].astype(float)
    assert found["trace_stderr"] == pytest.approx(math.sqrt((trace**2).sum()) / 11)
    one = summary({k: v[:1] for k, v in columns.items()})
    assert one["stderr"] is None


def test_columns_go_into_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = whole().numpy()
    save_columns(tmp_path / "all.parquet", columns)
    table = parquet.read_table(tmp_path / "all.parquet")
    assert table.column_names == list(columns)
    assert np.array_equal(table["nats"].to_numpy(), columns["nats"])


def test_parquet_names_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"scoresde\[parquet\]"):
        save_columns(tmp_path / "all.parquet", whole().numpy())


def test_a_fingerprint_tells_models_apart():
    a, b = model_on(), model_on()
    assert fingerprint(a) == fingerprint(b)
    with torch.no_grad():
        b.net.scale += 1e-6
    assert fingerprint(a) != fingerprint(b)


@pytest.mark.parametrize(
    "other",
    [
        sd.Denoiser(NET, VPSDE(t_min=1e-5), "v"),
        sd.Denoiser(NET, VPSDE(beta_max=5.0), "v"),
        sd.Denoiser(NET, sd.CosineVPSDE(), "v"),
        sd.Denoiser(NET, VPSDE(), "x0"),
        sd.Denoiser(NET, VPSDE(), "v", data_std=0.3),
        sd.Denoiser(NET, VPSDE(), "v", time_input=feed_999t),
        nn.Sequential(sd.Denoiser(NET, VPSDE(), "x0")),
    ],
)
def test_a_fingerprint_tells_what_surrounds_a_network(other):
    assert fingerprint(sd.Denoiser(NET, VPSDE(), "v")) != fingerprint(other)


def test_a_fingerprint_of_functions_is_that_of_their_values():
    def custom(power):
        return sd.GaussianSDE(lambda t: 1.0 - 0.9 * t**power, lambda t: 0.01 + t)

    one, same, other = (fingerprint(sd.Denoiser(NET, custom(p), "v")) for p in (1, 1, 2))
    assert one == same != other


def test_a_survey_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="x: has no rows"):
        run(tmp_path, x=X[:0])


@pytest.mark.parametrize(("rank", "world"), [(1, 1), (-1, 2), (0, 0)])
def test_a_share_of_nothing_is_refused(rank, world):
    with pytest.raises(ValueError, match=f"rank={rank}"):
        Share(rank, world)


def test_a_batch_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="batch_size=0"):
        run(tmp_path, batch_size=0)
