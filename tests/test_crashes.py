"""Checkpoints under kills and full disks, at every call to the file system."""

from __future__ import annotations

import errno
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_helpers import Run, assert_equal, contents

from scoresde import atomic
from scoresde.training import CheckpointError, latest


class Kill(BaseException):
    """Stands for the end of the process."""


class Faults:
    """Lets a number of calls to the file system succeed, and the next one fail."""

    def __init__(self, monkeypatch, succeed: int, error: BaseException, lasting: bool):
        self.left, self.error, self.lasting = succeed, error, lasting
        self.struck = False
        for module, name in ((os, "fsync"), (os, "rename"), (shutil, "rmtree"), (Path, "mkdir")):
            monkeypatch.setattr(module, name, self.guard(getattr(module, name)))
        monkeypatch.setattr(atomic, "open", self.open, raising=False)

    def count(self):
        if self.left == 0 or (self.struck and self.lasting):
            self.left, self.struck = -1, True
            raise self.error
        self.left -= 1

    def guard(self, call):
        def guarded(*args, **options):
            self.count()
            return call(*args, **options)

        return guarded

    def open(self, path, mode):
        return Torn(self, path) if mode == "xb" else open(path, mode)


class Torn(io.FileIO):
    """A new file of which a failing write leaves half."""

    def __init__(self, faults: Faults, path: Path):
        faults.count()
        super().__init__(path, "xb")
        self.faults = faults

    def write(self, data):
        try:
            self.faults.count()
        except BaseException:
            super().write(data[: len(data) // 2])
            raise
        return super().write(data)


def two_checkpoints(folder: Path) -> Run:
    run = Run()
    for step in (1, 2):
        run.step()
        run.save(folder, step)
    run.step()
    return run


def test_killed_at_any_call(tmp_path):
    for calls in range(100):
        folder = tmp_path / str(calls)
        run = two_checkpoints(folder)
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, calls, Kill(), lasting=True)
            try:
                run.save(folder, 3)
            except Kill:
                assert faults.struck
        newest = latest(folder)  # a warning would fail the test
        assert newest is not None
        resumed, expected = Run(), Run(int(newest.name[-1]))
        assert resumed.load(newest) in (2, 3)
        assert_equal(resumed, expected)
        atomic.clean(folder)
        assert not list(folder.glob(".*"))
        if newest.name[-1] == "2":
            run.save(folder, 3)
        if not faults.struck:
            break
    assert 20 < calls < 99  # every call of a save has been struck


def test_full_disk_at_any_call(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    for calls in range(100):
        folder = tmp_path / str(calls)
        run = two_checkpoints(folder)
        before = contents(folder / "step-000000002")
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, calls, full, lasting=False)
            failure = None
            try:
                run.save(folder, 3)
            except CheckpointError as error:
                failure = error
        if failure is not None:
            assert "No space left" in str(failure)
            assert failure.__cause__ is full
        assert contents(folder / "step-000000002") == before
        assert latest(folder) in (folder / "step-000000002", folder / "step-000000003")
        if not faults.struck:
            break
    assert 20 < calls < 99


def test_a_file_that_may_not_grow(tmp_path):
    run = two_checkpoints(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="File too large"):
            run.save(tmp_path, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000001", "step-000000002"]
    assert latest(tmp_path) == tmp_path / "step-000000002"
    assert run.save(tmp_path, 3) == latest(tmp_path)


SAVE_FOREVER = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from training_helpers import Run
from scoresde import atomic
from scoresde.training import latest
folder = Path({folder!r})
atomic.clean(folder)
run, newest = Run(), latest(folder)
step = run.load(newest) if newest else 0
while True:
    step += 1
    run.step()
    run.save(folder, step)
    print(step, flush=True)
"""


@pytest.mark.slow
def test_killed_for_real(tmp_path):
    script = SAVE_FOREVER.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    rng = random.Random(1)
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.1))
            process.send_signal(signal.SIGKILL)
            said = process.stdout.read().split()
        newest = latest(tmp_path)
        assert newest is not None
        resumed = Run()
        step = resumed.load(newest)
        assert not said or step >= int(said[-1])  # what was said to be saved is there
        assert_equal(resumed, Run(step))
