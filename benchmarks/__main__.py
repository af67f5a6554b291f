"""Run all benchmarks and write benchmarks/results.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import cost, flow

RESULTS = Path(__file__).parent / "results.md"


def main() -> None:
    """Measure, print and write the tables."""
    parts = ["# Benchmarks", "Written by `make bench`."]
    parts.append("## Probability flow: relative error of the end point, by network calls")
    parts.append("Mixtures with exact scores, VP, from t = 1 to 1e-3, on the default grid.")
    for family, rows in flow.errors().items():
        head = [family, *(str(calls) for calls in flow.CALLS)]
        parts.append(_table(head, ([f"`{k}`", *map("{:.1e}".format, v)] for k, v in rows.items())))
    parts.append("## A step besides the network, per network call")
    parts.append(f"State {cost.SHAPE} in float32, one thread; the floor is x * a + p * b.")
    rows = (
        [f"`{k}`" if "(" in k else k, f"{c.operations:.1f}", f"{c.reads:g}", f"{c.times_floor:.1f}"]
        for k, c in cost.costs().items()
    )
    parts.append(_table(["", "tensor operations", "reads", "time over the floor"], rows))
    text = "\n\n".join(parts) + "\n"
    print(text)
    RESULTS.write_text(text)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
