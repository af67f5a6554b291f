"""What was measured of the systems, as a page and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.systems.measure import SYSTEMS, Cell, Result, Yardstick
from benchmarks.tables import table
from scoresde.metrics import Estimate


def page(results: Sequence[Result], stick: Yardstick) -> str:
    """Return the measurements as a page."""
    one, floor = results[0], stick.floor
    sizes = " to ".join(f"{n:,}" for n in sorted({r.parameters for r in results}))
    of = one.cells[0].frechet
    head = ["", *(f"{c.sampler}, {c.calls}" for c in one.cells)]
    parts = [
        "## Measured",
        "Written by `python -m benchmarks.systems`: Fashion-MNIST, each system from its file in "
        f"`configs/`, trained for {one.steps} steps of {one.batch} images by one network, of "
        f"{sizes} parameters. Samples by its own sampler, respaced, and by the default solver, of "
        f"at most so many network calls each: {of.samples} of them against {of.reference} test "
        f"images, on the features of the {of.network}. As many training data against the same test "
        "images say what a perfect model would have.",
        "### Frechet distance",
        table(head, _lines(results, floor, "frechet")),
        "### KID",
        table(head, _lines(results, floor, "kid")),
        "### Bits per dimension",
        "Of test images: by the variational bound of a chain, by the flow of a score SDE.",
        table(["", "bits/dim", "images"], _bits(results)),
    ]
    return "\n\n".join(parts) + "\n"


def as_json(results: Sequence[Result], stick: Yardstick) -> str:
    """Return the measurements as JSON."""

    def plain(cell: Cell) -> dict[str, Any]:
        estimates = {"frechet": asdict(cell.frechet), "kid": asdict(cell.kid)}
        return cell._asdict() | estimates

    each = [asdict(r) | {"cells": [plain(c) for c in r.cells]} for r in results]
    return json.dumps({"training data": plain(stick.floor), "systems": each}, indent=1) + "\n"


def _lines(results: Sequence[Result], floor: Cell, metric: str) -> Iterator[list[str]]:
    def told(cell: Cell) -> str:
        found: Estimate = getattr(cell, metric)
        return f"{found.value:.1f} ± {found.stderr:.1f}"

    for result in results:
        yield [SYSTEMS[result.name].title, *map(told, result.cells)]
    yield ["training data", *[told(floor)] * len(results[0].cells)]


def _bits(results: Sequence[Result]) -> Iterator[list[str]]:
    for result in results:
        if result.bits is not None:
            mean, stderr, n = (result.bits[k] for k in ("bits_per_dim", "stderr", "samples"))
            yield [SYSTEMS[result.name].title, f"{mean:.3f} ± {stderr or math.nan:.3f}", f"{n}"]
