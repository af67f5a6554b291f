"""Data that stay on disk: caches of folders, batches read ahead, moments in one pass."""

from __future__ import annotations

import itertools
import os
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scoresde import data
from scoresde.data.moments import moments

quick = settings(max_examples=25, deadline=None)


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate(["cat/a", "cat/b", "dog/a"]):
        save(tmp_path / "train" / f"{name}.png", k)
    return tmp_path / "train"


def same(a, b):
    return (
        torch.equal(a.train, b.train)
        and torch.equal(a.train_labels, b.train_labels)
        and a.classes == b.classes
    )


def test_a_cache_holds_what_the_folder_does_and_decodes_it_once(folder, tmp_path, monkeypatch):
    held = data.images(folder, size=4)
    cache = tmp_path / "deep" / "cache"
    assert same(data.images(folder, size=4, cache=cache), held)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("decoded"))
    kept = data.images(folder, size=4, cache=cache)
    assert same(kept, held)
    kept.train.zero_()  # copy on write
    assert same(data.images(folder, size=4, cache=cache), held)
    assert len(list(cache.iterdir())) == 1


def test_a_cache_is_not_used_for_other_files_or_settings(folder, tmp_path):
    cache = tmp_path / "cache"
    data.images(folder, size=4, cache=cache)
    assert data.images(folder, size=2, cache=cache).shape == (3, 2, 2)
    assert data.images(folder, size=4, channels=1, cache=cache).shape == (1, 4, 4)
    path = folder / "cat" / "a.png"
    before = path.stat().st_mtime_ns
    save(path, 7)
    os.utime(path, ns=(before + 1, before + 1))
    assert same(data.images(folder, size=4, cache=cache), data.images(folder, size=4))
    path.rename(folder / "dog" / "b.png")
    assert same(data.images(folder, size=4, cache=cache), data.images(folder, size=4))


def test_folders_that_look_alike_have_caches_of_their_own(tmp_path):
    """As those of an archive do, with equal names and times, and sizes where pixels are plain."""
    for k, part in enumerate(("train", "test")):
        path = tmp_path / part / "a.bmp"
        save(path, k)
        os.utime(path, ns=(0, 0))
    parts = (tmp_path / "train", tmp_path / "test")
    kept = data.images(*parts, size=4, cache=tmp_path / "cache")
    held = data.images(*parts, size=4)
    assert torch.equal(kept.test, held.test)
    assert not torch.equal(kept.test, kept.train)


def test_a_cache_remembers_what_was_skipped(folder, tmp_path):
    (folder / "cat" / "a.png").write_bytes(b"no image")
    read = {"size": 4, "on_error": "skip"}
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"skipped 1 of 3 .*cat/a\.png"):
            kept = data.images(folder, cache=tmp_path / "cache", **read)
        with pytest.warns(UserWarning, match="skipped 1 of 3"):
            assert same(kept, data.images(folder, **read))


def test_an_error_leaves_nothing_in_the_cache_and_damage_is_named(folder, tmp_path):
    cache = tmp_path / "cache"
    whole = (folder / "dog" / "a.png").read_bytes()
    (folder / "dog" / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.png cannot be read"):
        data.images(folder, size=4, cache=cache)
    assert list(cache.iterdir()) == []
    (folder / "dog" / "a.png").write_bytes(whole)
    data.images(folder, size=4, cache=cache)
    (samples,) = cache.glob("*/samples.npy")
    samples.write_bytes(samples.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"images-\w+ cannot be read .*: delete it"):
        data.images(folder, size=4, cache=cache)


def test_what_a_killed_process_left_in_a_cache_is_removed_a_day_later(folder, tmp_path):
    cache = tmp_path / "cache"
    for name, age in (("old", 2), ("new", 0)):
        left = cache / f".scoresde-{name}"
        left.mkdir(parents=True)
        for path in (left / "samples.npy", left):
            path.touch()
            then = time.time() - age * 24 * 3600
            os.utime(path, (then, then))
    data.images(folder, size=4, cache=cache)
    assert [path.name for path in cache.glob(".scoresde-*")] == [".scoresde-new"]


# Batches


@quick
@given(st.integers(1, 30), st.integers(1, 20), st.integers(1, 6), st.integers(0, 9))
def test_batches_read_ahead_are_the_same(n, batch_size, ahead, start):
    x = torch.arange(n)[:, None]
    stream = {"seed": 3, "start_step": start, "labels": torch.arange(n)}
    plain = itertools.islice(data.batches(x, batch_size, **stream), 8)
    for (a, k), (b, m) in zip(
        plain, data.batches(x, batch_size, ahead=ahead, **stream), strict=False
    ):
        assert torch.equal(a, b)
        assert torch.equal(k, m)


class Counted:
    """Data that count how often they were read from."""

    shape = (8, 1)

    def __init__(self, enough):
        self.reads, self.enough, self.done = 0, enough, threading.Event()

    def __len__(self):
        return 8

    def __getitem__(self, index):
        self.reads += 1
        if self.reads == self.enough:
            self.done.set()
        return index[:, None]


@pytest.mark.parametrize("ahead", [1, 3])
def test_while_a_batch_is_used_as_many_as_asked_for_are_read(ahead):
    rows = Counted(enough=1 + ahead)
    stream = data.batches(rows, 2, seed=0, ahead=ahead)
    next(stream)
    assert rows.done.wait(timeout=10)
    del stream
    assert rows.reads == 1 + ahead  # and no more


def test_an_error_of_a_reader_reaches_the_caller_and_ends_the_readers():
    class Broken(Counted):
        def __getitem__(self, index):
            raise OSError("the disk is gone")

    before = threading.active_count()
    stream = data.batches(Broken(enough=1), 2, seed=0, ahead=2)
    with pytest.raises(OSError, match="the disk is gone"):
        next(stream)
    assert threading.active_count() == before


def test_readers_end_with_their_batches():
    before = threading.active_count()
    stream = data.batches(torch.zeros(4, 1), 2, seed=0, ahead=3)
    next(stream)
    assert threading.active_count() > before
    del stream
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="ahead=-1"):
        data.batches(torch.zeros(4, 1), 2, seed=0, ahead=-1)


# Moments


@quick
@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 100))
def test_moments_in_one_pass_are_the_moments(n, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(n, 2, 3, dtype=torch.float64, generator=generator) + 1e3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scoresde.data.moments._VALUES", 6 * rows)
        mean, variance = moments(x)
        scaled = moments(x, lambda part: part / 2)
    wanted, spread = x.mean(0), x.var(0, correction=0)
    torch.testing.assert_close(mean, wanted, rtol=1e-14, atol=0)
    torch.testing.assert_close(variance, spread, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(scaled[1], spread / 4, rtol=1e-10, atol=1e-12)


def test_what_is_constant_has_no_variance_at_all():
    x = torch.full((1000, 3), 0.1) * torch.tensor([1.0, 3.0, 7.0])
    mean, variance = moments(x)
    assert torch.equal(mean, x[0].double())
    assert (variance == 0).all()
