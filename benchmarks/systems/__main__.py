"""Train and measure the founding systems; write benchmarks/systems.md, systems.json and pictures.

Training and surveys of likelihoods go on where they were stopped, and samples are kept, all under
runs/systems. So systems can be trained side by side, such as by `--only=ddpm_fashion`, before a run
of all writes the page. Data: `make data`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.systems.measure import CONFIGS, SAMPLES, SYSTEMS, measure, yardstick
from benchmarks.systems.page import as_json, page
from scoresde.config import build_data, read
from scoresde.report import require

HERE = Path(__file__).parents[1]
ASSETS = HERE.parent / "docs" / "assets"


def main() -> None:
    """Measure and print; write the page and the pictures, unless of a part or a short training."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.systems", description=__doc__)
    parser.add_argument("--n", type=int, default=SAMPLES, help="samples for each budget")
    parser.add_argument("--steps", type=int, help="of training, in place of the configurations'")
    parser.add_argument("--only", choices=tuple(SYSTEMS), action="append", help="measure this one")
    chosen = parser.parse_args()
    whole = chosen.only is None and chosen.steps is None
    if whole:
        require("PIL")
    data, _ = build_data(read(CONFIGS / "fashion_base.py"))
    root = Path("runs/systems")
    stick = yardstick(data, root, chosen.n)
    place = ASSETS if whole else None
    results = [
        measure(name, stick, root, n=chosen.n, steps=chosen.steps, pictures=place)
        for name in chosen.only or SYSTEMS
    ]
    text = page(results, stick)
    print(text)
    if whole:
        (HERE / "systems.md").write_text(text)
        (HERE / "systems.json").write_text(as_json(results, stick))


if __name__ == "__main__":
    main()
