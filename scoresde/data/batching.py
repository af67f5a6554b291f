"""Endless batches in an order that depends on the seed and the step alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


def batches(
    data: Tensor,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    labels: Tensor | None = None,
    ahead: int = 0,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Iterate for ever over shuffled batches of `data` and, if given, its `labels`.

    Epoch e visits every sample once, in a permutation drawn from (seed, e). Epochs follow each
    other without a gap: a batch may end one epoch and begin the next, so all batches are full. The
    batch of step k is a function of (seed, k) only, so a run resumed at `start_step` sees exactly
    what it would have seen.

    Args:
        data: (N, *) samples.
        batch_size: samples a batch, B; may exceed N.
        seed: a non-negative integer.
        start_step: the step of the first batch.
        labels: (N,) labels.
        ahead: how many batches are read before they are asked for, each by a thread of its own, so
            that a model need not wait for a disk. The batches stay the same.

    Returns:
        An iterator of (x, label), shapes (B, *) and (B,); label is None without `labels`.

    Raises:
        ValueError: no data, a count out of range, or labels that do not match the data.
    """
    if len(data) == 0:
        raise ValueError(f"data has shape {tuple(data.shape)}: there is nothing to draw from")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    if seed < 0 or start_step < 0:
        raise ValueError(f"seed={seed} and start_step={start_step} must not be negative")
    if labels is not None and len(labels) != len(data):
        raise ValueError(f"labels has {len(labels)} labels for {len(data)} samples: give one each")
    if ahead < 0:
        raise ValueError(f"ahead={ahead} must not be negative")

    def read(index: Tensor) -> tuple[Tensor, Tensor | None]:
        return data[index], None if labels is None else labels[index]

    indices = _indices(len(data), batch_size, seed, start_step)
    return _read_ahead(read, indices, ahead) if ahead else map(read, indices)


def _read_ahead(read: Callable[[Tensor], T], indices: Iterator[Tensor], ahead: int) -> Iterator[T]:
    with ThreadPoolExecutor(ahead, "batches") as readers:
        upcoming = deque(readers.submit(read, index) for index in islice(indices, ahead))
        for index in indices:
            # before the batch is handed out, so that reading goes on while it is used
            upcoming.append(readers.submit(read, index))
            yield upcoming.popleft().result()


def _indices(n: int, batch_size: int, seed: int, start_step: int) -> Iterator[Tensor]:
    epoch, offset = divmod(start_step * batch_size, n)
    pending = _permutation(n, seed, epoch)[offset:]
    while True:
        while len(pending) < batch_size:
            epoch += 1
            pending = torch.cat([pending, _permutation(n, seed, epoch)])
        yield pending[:batch_size]
        pending = pending[batch_size:]


def _permutation(n: int, seed: int, epoch: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(n))
