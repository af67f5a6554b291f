"""The loss curve: measured without waiting for the device, and kept across resumes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor


class Record(NamedTuple):
    """What was measured since the record before.

    Attributes:
        step: steps taken.
        loss: mean loss.
        grad_norm: mean norm of the gradient, before clipping.
        lr: learning rate of the last step, of the first group of parameters.
        samples_per_second: training samples a second of wall time.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    samples_per_second: float


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient became NaN or infinite.

    Attributes:
        step: the first step at which it did, counted from 0.
    """

    def __init__(self, step: int, loss: float, grad_norm: float) -> None:
        super().__init__(
            f"step {step}: the loss is {loss}, the norm of its gradient {grad_norm}; no checkpoint "
            f"has been written since. Look at the batch of that step, or try a lower learning "
            f"rate, a longer warm-up or a larger t_min"
        )
        self.step = step


class Meter:
    """Losses and gradient norms since the last record, left where they were computed."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._samples, self._since = 0, time.perf_counter()

    def add(self, loss: Tensor, norm: Tensor, samples: int) -> None:
        """Take note of a step: its loss, gradient norm and batch size."""
        self._losses.append(loss)
        self._norms.append(norm)
        self._samples += samples

    def check(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the losses and norms of the steps before `step`: the one wait for the device.

        Raises:
            NonFiniteLoss: naming the first step whose loss or gradient is not finite.
        """
        if not self._losses:
            return torch.empty(0), torch.empty(0)
        losses, norms = torch.stack([*self._losses, *self._norms]).double().cpu().chunk(2)
        finite = losses.isfinite() & norms.isfinite()
        if not finite.all():
            first = int(finite.logical_not().nonzero()[0])
            at = step - len(losses) + first
            raise NonFiniteLoss(at, float(losses[first]), float(norms[first]))
        return losses, norms

    def read(self, step: int, lr: float) -> Record:
        """Return the record after `step` steps, and start anew. Raises as `check`."""
        losses, norms = self.check(step)
        now = time.perf_counter()
        speed = self._samples / (now - self._since)
        self._losses, self._norms, self._samples, self._since = [], [], 0, now
        return Record(step, float(losses.mean()), float(norms.mean()), lr, speed)


def append_log(path: Path, record: Record) -> None:
    """Add a record to a log, one JSON object a line."""
    with open(path, "a") as file:
        file.write(json.dumps(record._asdict()) + "\n")


def rewind_log(path: Path, step: int) -> list[Record]:
    """Return the records of a log up to a step, and drop those after it from the file."""
    lines = path.read_text().splitlines() if path.exists() else []
    records = [r for r in map(_parse, lines) if r is not None and r.step <= step]
    kept = path.with_suffix(".tmp")
    kept.write_text("".join(json.dumps(r._asdict()) + "\n" for r in records))
    os.replace(kept, path)
    return records


def _parse(line: str) -> Record | None:
    try:
        return Record(**json.loads(line))
    except (ValueError, TypeError):
        return None  # a kill may leave half a line; what it measured is measured again
