"""The package's own order: what may import what, how long a file is, and what is public."""

from __future__ import annotations

import ast
import inspect
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import scoresde

PACKAGE = Path(scoresde.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# every module may import those before it
ORDER = [
    "tensors",
    "errors",
    "atomic",
    "sde",
    "denoiser",
    "analytic",
    "grids",
    "noise",
    "solvers",
    "gradients",
    "adaptive",
    "integrate",
    "sampling",
    "fitting",
    "likelihood",
    "density",
    "guidance",
    "training",
    "chains",
    "nets",
    "data",
    "metrics",
    "interop",
    "testing",
    "calls",
    "config",
    "models",
    "pretrained",
    "run",
    "measure",
    "evaluate",
    "report",
    "demo",
    "flags",
    "cli",
]
ALONE = {"nets", "data", "metrics"}  # know nothing of the rest
LAZY = {
    *("torchsde", "scipy", "sklearn", "matplotlib", "PIL", "tensorboard", "ml_collections"),
    "pyarrow",
}


def unit(path):
    """Return the module or package directly under scoresde that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Return the units of scoresde that a file imports, at any depth; "" is the package itself."""
    units = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import in line {node.lineno}"
            module = node.module or ""
            names = [module]
            if module == "scoresde":  # names of the package, or its modules
                names = [f"scoresde.{a.name}" if a.name in ORDER else module for a in node.names]
        else:
            continue
        units |= {name.split(".")[1] if "." in name else "" for name in names if is_ours(name)}
    return units


APART = ("testing", "interop", "chains")  # packages of their own, with names of their own


def is_ours(name):
    return name.split(".")[0] == "scoresde"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_up(path):
    own = unit(path)
    if own == "__init__":
        return
    assert own in ORDER, f"{own} is new: say in ORDER what it may import"
    below = ORDER.index("calls")
    for other in imported(path) - {own}:
        if other == "":
            assert ORDER.index(own) >= below, f"{own} imports the whole package"
            continue
        assert own not in ALONE, f"{own} imports {other}"
        assert ORDER.index(other) < ORDER.index(own), f"{own} imports {other}, which is below it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 300


NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


def lines_of_code(source):
    """Return the lines of code of every function, its docstring aside, by line and name."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {n for t in tokens if t.type not in NO_CODE for n in range(t.start[0], t.end[0] + 1)}
    counts = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = code & {*range(node.lineno, node.end_lineno + 1)}
            if ast.get_docstring(node) is not None:
                lines -= {*range(node.body[0].lineno, node.body[0].end_lineno + 1)}
            counts[node.lineno, node.name] = len(lines)
    return counts


def test_lines_of_code_leave_out_what_is_none():
    source = 'def f(\n    x,\n):\n    """Say.\n\n    More.\n    """\n    # why\n\n    return x\n'
    assert lines_of_code(source) == {(1, "f"): 4}
    assert lines_of_code("class A:\n    def f(self):\n        a = 1\n        b = 2\n") == {
        (2, "f"): 3
    }


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_are_short(path):
    counts = lines_of_code(path.read_text())
    assert {place: n for place, n in counts.items() if n > 50} == {}


def test_every_public_name_is_listed():
    public = {name for name in vars(scoresde) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(scoresde, name))}
    assert set(scoresde.__all__) == public - modules
    assert len(scoresde.__all__) == len(set(scoresde.__all__))
    # and every solver, grid, process and source of noise is public
    for base in (scoresde.Solver, scoresde.Grid, scoresde.SDE, scoresde.Noise):
        for kind in subclasses(base):
            ours = is_ours(kind.__module__) and kind.__module__.split(".")[1] not in APART
            if ours and not kind.__name__.startswith("_"):
                assert kind.__name__ in scoresde.__all__


def subclasses(base):
    return [k for child in base.__subclasses__() for k in (child, *subclasses(child))]


@pytest.mark.parametrize("name", scoresde.__all__)
def test_every_public_name_says_what_it_is(name):
    member = getattr(scoresde, name)
    if inspect.isclass(member) or inspect.isfunction(member):
        summary, *_ = (member.__doc__ or "").strip().splitlines()
        assert not summary.startswith(f"{name}("), (
            "a dataclass without a docstring gets its signature"
        )
        assert summary.endswith((".", ":"))


def test_importing_the_package_is_light():
    code = f"import sys, scoresde; print(sorted({LAZY!r} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
