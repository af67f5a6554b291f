"""The founding systems from training to the table, on images of 8x8 and with hardly any budget."""

from __future__ import annotations

import json
import struct
import sys
from functools import partial

import numpy as np
import pytest

from benchmarks.systems import __main__ as command
from benchmarks.systems import measure as systems
from benchmarks.systems.page import as_json, page
from scoresde.chains import GeometricSigmas, best_step
from scoresde.data import idx
from scoresde.metrics import convnet


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with two kinds of stripes as data/fashion-mnist, in IDX files."""
    home = tmp_path / "data" / "fashion-mnist"
    home.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, n in (("train", 80), ("t10k", 60)):
        labels = np.arange(n, dtype=np.uint8) % 2
        grey = generator.integers(60, 200, (n, 8, 1), dtype=np.uint8).repeat(8, 2)
        images = np.where(labels[:, None, None] == 1, grey, grey.swapaxes(1, 2))
        header = struct.pack(">4B3I", 0, 0, 8, 3, n, 8, 8)
        (home / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">4BI", 0, 0, 8, 1, n)
        (home / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_a_system_is_trained_and_measured_and_gone_on_with(name, folder, monkeypatch):
    stick = systems.yardstick(idx("data/fashion-mnist"), folder, 20)
    small = {"n": 20, "steps": 2, "calls": (10,), "measured": 2, "pictures": folder}
    result = systems.measure(name, stick, folder, **small)
    assert (result.steps, [c.calls for c in result.cells]) == (2, [10, systems.DEFAULT_CALLS])
    for cell in result.cells:
        assert (cell.frechet.samples, cell.frechet.reference) == (20, 60)
        assert cell.frechet.network == stick.features.name == stick.floor.kid.network
        # nobody learns from two batches
        assert cell.frechet.value > stick.floor.frechet.value > 0.0
    assert (result.bits is not None) == systems.SYSTEMS[name].likelihood
    assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    text, kept = page([result], stick), json.loads(as_json([result], stick))
    assert f"| {systems.SYSTEMS[name].title} |" in text
    assert kept["systems"][0]["cells"][0]["kid"]["value"] == result.cells[0].kid.value
    # nothing is drawn or trained anew
    for module, name_of in ((systems, "draw"), (convnet, "train_classifier")):
        monkeypatch.setattr(module, name_of, refuse)
    again = systems.yardstick(idx("data/fashion-mnist"), folder, 20)
    assert systems.measure(name, again, folder, **small) == result


def refuse(*args, **kwargs):
    raise AssertionError("was kept, and is not made anew")


def test_langevin_dynamics_keep_to_the_calls_with_the_step_of_technique_4():
    sde = GeometricSigmas(n=99, sigma_max=22.0, sigma_min=0.01)
    for calls, levels, corrections in ((10, 9, 1), (50, 9, 5), (496, 99, 5), (1000, 99, 10)):
        chosen = systems.langevin(sde, calls)
        solver, steps = chosen["solver"], chosen["steps"]
        assert (steps, solver.corrections) == (levels, corrections)
        assert calls - levels < solver.nfe(steps, denoise=True) <= calls
        ratio = (22.0 / 0.01) ** (1.0 / (levels - 1))
        assert 2.0 * solver.corrector.snr**2 == pytest.approx(best_step(ratio, corrections))


@pytest.mark.slow
def test_a_part_is_printed_and_the_page_left_as_it_was(folder, monkeypatch, capsys):
    monkeypatch.setattr(command, "HERE", folder)
    monkeypatch.setattr(command, "measure", partial(systems.measure, calls=(10,)))
    words = ["systems", "--n=20", "--steps=1", "--only=ncsnv2_fashion"]
    monkeypatch.setattr(sys, "argv", words)
    command.main()
    assert "| NCSNv2 |" in capsys.readouterr().out
    assert not (folder / "systems.md").exists()
    assert (folder / "runs/systems/ncsnv2_fashion-1").is_dir()
