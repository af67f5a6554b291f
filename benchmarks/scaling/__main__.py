"""Count for every system; write counts.json, and tables.md, which docs/scaling.md includes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.scaling.page import as_json, page
from benchmarks.scaling.systems import SYSTEMS

HERE = Path(__file__).parent


def main() -> None:
    """Count and write."""
    counts = {}
    for name, system in SYSTEMS.items():
        counts[name] = system.count()
        print(name, counts[name], flush=True)
    (HERE / "counts.json").write_text(as_json(counts))
    (HERE / "tables.md").write_text(page(counts))


if __name__ == "__main__":
    main()
