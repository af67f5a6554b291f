"""Measure everything; write benchmarks/results.md, results.json and the pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import figures
from benchmarks.measure import measure, settle
from benchmarks.page import as_json, page

HERE = Path(__file__).parent
ASSETS = HERE.parent / "docs" / "assets"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--alone", action="store_true", help="measure without other libraries")
    alone = parser.parse_args().alone
    settle()
    results = measure(peers=not alone)
    text = page(results)
    print(text)
    if not alone:
        (HERE / "results.md").write_text(text)
        (HERE / "results.json").write_text(as_json(results))
        figures.flow(results.flow, ASSETS / "flow.png")
        figures.mean(results.flow, ASSETS / "error.png")
        figures.weak(results.weak, ASSETS / "weak.png")
        figures.likelihood(results.likelihood, ASSETS / "likelihood.png")
        figures.scale(results.scale, ASSETS / "scale.png")


if __name__ == "__main__":
    main()
