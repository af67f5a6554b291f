"""The loss curve: measured without waiting for the device, and kept across resumes."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scoresde import atomic


class Record(NamedTuple):
    """What was measured since the record before, or since the run was resumed.

    Attributes:
        step: steps taken.
        loss: mean loss of the steps that were not skipped; NaN if all were.
        grad_norm: mean norm of their gradients, before clipping.
        lr: learning rate of the last step, of the first group of parameters.
        samples_per_second: training samples a second of wall time.
        skipped: steps skipped, because the loss or the gradient was not finite.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    samples_per_second: float
    skipped: int = 0


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient was NaN or infinite in too many steps in a row.

    Attributes:
        step: the first of these steps, counted from 0.
    """

    def __init__(self, step: int, count: int, loss: float, grad_norm: float) -> None:
        super().__init__(
            f"step {step}: the loss is {loss}, the norm of its gradient {grad_norm}, and not "
            f"finite in {count} steps in a row; they were skipped, and no checkpoint has been "
            f"written since. Look at the batch of that step, or try a lower learning rate, a "
            f"longer warm-up or a larger t_min"
        )
        self.step = step


class Meter:
    """Losses and gradient norms since the last record, left where they were computed.

    Args:
        max_skipped: how many steps in a row may not be finite.
    """

    def __init__(self, max_skipped: int) -> None:
        self._max_skipped = max_skipped
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._samples, self._since = 0, time.perf_counter()
        self._in_a_row = 0  # skipped at the last record, whose losses are gone

    def add(self, loss: Tensor, norm: Tensor, samples: int) -> None:
        """Take note of a step: its loss, gradient norm and batch size."""
        self._losses.append(loss)
        self._norms.append(norm)
        self._samples += samples

    def check(self, step: int) -> tuple[Tensor, int]:
        """Return the losses and norms (2, n) of the steps before `step` that were not skipped.

        The one wait for the device. The number of steps skipped in a row at the end comes with it.

        Raises:
            NonFiniteLoss: too many steps in a row were skipped; it names the first.
        """
        if not self._losses:
            return torch.empty(2, 0), self._in_a_row
        values = torch.stack([*self._losses, *self._norms]).double().cpu().view(2, -1)
        finite, in_a_row = values.isfinite().all(0), self._in_a_row
        for i, sound in enumerate(finite.tolist()):
            in_a_row = 0 if sound else in_a_row + 1
            if in_a_row > self._max_skipped:
                first = step - values.shape[1] + i + 1 - in_a_row
                raise NonFiniteLoss(first, in_a_row, *values[:, i].tolist())
        return values[:, finite], in_a_row

    def read(self, step: int, lr: float) -> Record:
        """Return the record after `step` steps, and start anew. Raises as `check`."""
        values, self._in_a_row = self.check(step)
        skipped = len(self._losses) - values.shape[1]
        now = time.perf_counter()
        speed = self._samples / (now - self._since)
        self._losses, self._norms, self._samples, self._since = [], [], 0, now
        loss, norm = values.mean(1).tolist()
        return Record(step, loss, norm, lr, speed, skipped)


def append_log(path: Path, record: Record) -> None:
    """Add a record to a log, one JSON object a line."""
    with open(path, "a") as file:
        file.write(_line(record))


def rewind_log(path: Path, step: int) -> list[Record]:
    """Return the records of a log up to a step, and drop those after it from the file."""
    lines = path.read_text().splitlines() if path.exists() else []
    records = [r for r in map(_parse, lines) if r is not None and r.step <= step]
    atomic.replace(path, "".join(map(_line, records)))
    return records


def _line(record: Record) -> str:
    # JSON knows no NaN
    told = {k: v if math.isfinite(v) else None for k, v in record._asdict().items()}
    return json.dumps(told) + "\n"


def _parse(line: str) -> Record | None:
    try:
        told: dict[str, Any] = json.loads(line)
        values: dict[str, Any] = {k: math.nan if v is None else v for k, v in told.items()}
        return Record(**values)
    except (ValueError, TypeError, AttributeError):
        return None  # a kill may leave half a line; what it measured is measured again
