"""The notebooks run, and are kept with small pictures and nothing of the machine they ran on."""

from __future__ import annotations

import runpy
from pathlib import Path

import nbformat
import pytest
from conftest import slow

RUN = runpy.run_path(str(Path(__file__).parents[1] / "notebooks/run.py"))
EVERY = pytest.mark.parametrize("path", RUN["NOTEBOOKS"], ids=lambda path: path.stem)
LONG = {"likelihood"}


@pytest.mark.parametrize(
    "path",
    [slow(p) if p.stem in LONG else p for p in RUN["NOTEBOOKS"]],
    ids=lambda path: path.stem,
)
def test_notebook_runs(path):
    kept = nbformat.read(path, as_version=4)
    made = RUN["execute"](path)
    for before, after in zip(kept.cells, made.cells, strict=True):
        # the same kinds of output, and as many
        assert kinds(before) == kinds(after), before.source


def kinds(cell):
    return [(o.output_type, sorted(o.get("data", {}))) for o in cell.get("outputs", [])]


@EVERY
def test_notebook_is_small_and_clean(path):
    notebook = nbformat.read(path, as_version=4)
    assert path.stat().st_size < 300_000
    assert not any(cell.metadata for cell in notebook.cells)
    assert set(notebook.metadata) == {"kernelspec"}
