"""What is said about the code: every example runs, and every list is complete."""

from __future__ import annotations

import re
import runpy
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from solver_examples import concrete_solvers

import scoresde
import scoresde.chains
import scoresde.data
import scoresde.density
import scoresde.metrics
import scoresde.nets
import scoresde.pretrained
import scoresde.testing
import scoresde.testing.strategies
import scoresde.training
from scoresde import Corrector

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [p for p in PAGES if EXAMPLE.search(p.read_text())], ids=name)
def test_examples_run(page, tmp_path, monkeypatch):
    text, lines = page.read_text(), []
    for example in EXAMPLE.finditer(text):
        # at the lines where they stand in the page, so that a traceback points there
        lines += [""] * (text[: example.start(1)].count("\n") - len(lines))
        lines += example[1].splitlines()
    script = tmp_path / f"{page.stem}.py"
    script.write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        runpy.run_path(str(script))


def table(page, heading):
    """Return the rows of a page's table whose first column has a heading, by column."""
    text = (ROOT / "docs" / page).read_text()
    found = re.search(rf"^\| {heading} \|.*\n(?:\|.*\n)+", text, re.MULTILINE)
    assert found, f"{page} has no table headed {heading!r}"
    head, _, *rows = ([c.strip() for c in r.strip("|").split("|")] for r in found[0].splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def linked(cell):
    """Return what a cell such as [`DDIM`][scoresde.DDIM] links to."""
    module, _, member = re.search(r"\]\[([\w.]+)\]", cell)[1].rpartition(".")
    return getattr(sys.modules[module], member)


def public(base):
    """Return the library's public classes that derive from one, those of the test kit aside."""
    children = {kind for child in base.__subclasses__() for kind in (child, *public(child))}
    homes = (scoresde, scoresde.training)
    return {k for k in children if any(getattr(home, k.__name__, None) is k for home in homes)}


@pytest.mark.parametrize("heading", ["Solver", "Corrector"])
def test_table_of_solvers_says_what_the_classes_say(heading):
    for row in table("solvers.md", heading):
        kind = linked(row[heading])
        assert int(row["Calls a step"]) == kind().evals, kind
        assert row["Noise"].split()[0] == ("yes" if kind().stochastic else "no"), kind
        default, _, most = row["Order"].strip(")").partition(" (1-")
        assert int(default) == kind().order, kind
        if most:
            kind(order=int(most))
            with pytest.raises(ValueError, match="order"):
                kind(order=int(most) + 1)


@pytest.mark.parametrize(
    ("page", "heading", "members"),
    [
        ("solvers.md", "Solver", {k for k in concrete_solvers() if not issubclass(k, Corrector)}),
        ("solvers.md", "Corrector", public(Corrector)),
        ("solvers.md", "Grid", public(scoresde.Grid)),
        ("solvers.md", "Frame", public(scoresde.Frame)),
        ("solvers.md", "Error", public(scoresde.SolveError)),
        ("processes.md", "Process", public(scoresde.SDE)),
        ("training.md", "Law of t", public(scoresde.training.Times)),
    ],
)
def test_table_lists_all(page, heading, members):
    assert {linked(row[heading]) for row in table(page, heading)} == members


@pytest.mark.parametrize(
    "module",
    [
        *("", ".training", ".chains", ".pretrained", ".nets", ".data", ".metrics"),
        *(".testing", ".testing.strategies"),
    ],
)
def test_reference_describes_every_public_name(module):
    described = "".join(page.read_text() for page in ROOT.glob("docs/reference/*.md"))
    found = set(re.findall(rf"^::: scoresde{re.escape(module)}\.(\w+)$", described, re.MULTILINE))
    assert found == set(sys.modules[f"scoresde{module}"].__all__)


@pytest.mark.parametrize("module", ["likelihood", "density"])
def test_reference_describes_what_a_module_adds_to_the_public_names(module):
    described = "".join(page.read_text() for page in ROOT.glob("docs/reference/*.md"))
    found = set(re.findall(rf"^::: scoresde\.{module}\.(\w+)$", described, re.MULTILINE))
    assert found == set(getattr(scoresde, module).__all__) - set(scoresde.__all__)


def test_promises_name_tests_that_exist():
    holders = " ".join(row["Held by"] for row in table("design.md", "Promise"))
    named = set(re.findall(r"test_\w+\.py", holders))
    assert named <= {path.name for path in ROOT.glob("tests/test_*.py")}


def test_changelog_is_at_the_version():
    newest = re.search(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == scoresde.__version__ == version("scoresde")
