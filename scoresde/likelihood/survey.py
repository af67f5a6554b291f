"""Likelihoods of a whole data set, over any number of processes, in parts that survive a kill.

Each batch becomes a file of its own, at once and whole. So a survey that was stopped goes on from
its last batch, and processes need to know nothing of each other but how many there are.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from scoresde import atomic
from scoresde.denoiser import BaseDenoiser, Denoiser
from scoresde.likelihood.record import LogLikelihood

Evaluate = Callable[[Tensor, Tensor], LogLikelihood]
"""The likelihoods of some rows (b, *) of a data set, given with their indices (b,)."""

Columns = dict[str, np.ndarray]
"""A value for each sample, by name."""


@dataclass(frozen=True)
class Share:
    """The part of a survey that one of several processes does.

    Attributes:
        rank: which process this is.
        world: how many there are.

    Raises:
        ValueError: a rank that is not one of them.
    """

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank={self.rank} must lie in 0..{self.world - 1}, of {self.world}")

    @classmethod
    def of_environment(cls) -> Share:
        """Return the share that torchrun gave this process; all of the work without it."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def survey(
    evaluate: Evaluate,
    x: Tensor,
    folder: Path,
    *,
    batch_size: int,
    settings: Mapping[str, Any],
    share: Share | None = None,
    progress: bool = True,
) -> Columns | None:
    """Measure all rows of a data set, and return what is known of each.

    A batch that is done is stored under `folder`, in a folder of the settings' own: results of
    other settings are never mixed in. What a killed survey has done is not done again, and a kill
    loses one batch at most. `evaluate` must give a row the same result in every batch, so its
    noise is best keyed by the indices: `SeededNoise(seed, indices=indices)`.

    Args:
        evaluate: measures some rows.
        x: the data set (N, *), or as much of it as shall be measured.
        folder: where parts are kept.
        batch_size: rows that are measured at once.
        settings: all that the results depend on, fit for JSON; `fingerprint(model)` among them, and
            what tells the data from others.
        share: which of several processes this is; as torchrun says by default.
        progress: show a progress bar.

    Returns:
        The columns of all rows, in their order; None in a process that finds others still at work.

    Raises:
        ValueError: a batch size below 1; no rows.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least 1")
    if not len(x):
        raise ValueError("x: has no rows to measure")
    share = share or Share.of_environment()
    parts = folder / _digest(json.dumps(settings, sort_keys=True).encode())
    parts.mkdir(parents=True, exist_ok=True)
    atomic.replace(parts / "settings.json", json.dumps(settings, indent=2, sort_keys=True))
    done = set(_read(parts).get("index", np.empty(0)).tolist())
    own = (i for i in range(0, len(x), batch_size) if i // batch_size % share.world == share.rank)
    batches = [[k for k in range(i, min(i + batch_size, len(x))) if k not in done] for i in own]
    todo = [torch.tensor(rows) for rows in batches if rows]
    hidden = not progress or share.rank > 0
    with tqdm(total=sum(map(len, todo)), desc="likelihood", disable=hidden, leave=False) as bar:
        for rows in todo:
            columns = {"index": rows.numpy(), **evaluate(x[rows], rows).numpy()}
            packed = _packed(columns)
            name = f"rows-{rows[0]:09d}-{rows[-1]:09d}.npz"
            atomic.replace(parts / name, packed + hashlib.sha256(packed).digest())
            bar.update(len(rows))
    return _whole(_read(parts), len(x))


def fingerprint(model: nn.Module) -> str:
    """Return a digest of a model, which tells it from others.

    It is of the parameters and buffers; of a denoiser also of the process, by its levels at some
    times, of what is predicted, of the deviation of the data and of the time that is fed. What
    else a module computes with is not seen, nor its code.
    """
    digest = hashlib.sha256()
    for line in _numbers(model):
        digest.update(line.encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _numbers(model: nn.Module) -> Iterator[str]:
    """Yield a line for all that denoisers know besides their tensors; functions by their values."""
    for name, part in model.named_modules():
        if not isinstance(part, BaseDenoiser):
            continue
        sde, own = part.sde, part if isinstance(part, Denoiser) else None
        yield f"{name} {part.data_std!r} {own.predicts if own else ''}\n"
        for k in range(33):
            level = sde.level((1.0 - k / 32) * sde.t_min + k / 32 * sde.T)
            fed = float(own.time_input(level)) if own else 0.0
            # rounded, as elementary functions differ in their last bits between machines
            yield " ".join(f"{v:.9e}" for v in (level.t, level.alpha, level.sigma, fed)) + "\n"


def summary(columns: Columns) -> dict[str, float | None]:
    """Return the mean bits per dimension, its errors, and the calls, of a survey's columns.

    `stderr` is the standard error of the mean over samples, which has that of the estimated traces
    in it; `trace_stderr` is the latter alone. What cannot be told from so few is None.
    """
    bits, trace = (columns[k].astype(float) for k in ("bits_per_dim", "bits_per_dim_stderr"))
    n = len(bits)
    found = {
        "samples": n,
        "bits_per_dim": float(bits.mean()),
        "stderr": math.sqrt(bits.var(ddof=1) / n) if n > 1 else math.nan,
        "trace_stderr": math.sqrt(np.square(trace).sum()) / n,
        "nfe": float(columns["nfe"].mean()),
    }
    return {k: v if math.isfinite(v) else None for k, v in found.items()}


def save_columns(path: Path, columns: Columns) -> None:
    """Write columns to a file at once and whole: Parquet where it ends so, else .npz.

    Raises:
        ImportError: Parquet without pyarrow, with what to install.
    """
    if path.suffix != ".parquet":
        return atomic.replace(path, _packed(columns))
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError(f"{path}: pyarrow missing: pip install 'scoresde[parquet]'") from None
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    atomic.replace(path, sink.getvalue())
    return None


def _packed(columns: Columns) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, allow_pickle=False, **columns)
    return sink.getvalue()


def _read(parts: Path) -> Columns:
    """Return the columns of all parts together, those of damaged files left out."""
    loaded: list[Columns] = []
    for path in sorted(parts.glob("rows-*.npz")):
        packed = _intact(path)
        if packed is None:
            warnings.warn(f"{path} is damaged and measured anew", stacklevel=3)
            continue
        with np.load(io.BytesIO(packed)) as file:
            loaded.append({k: file[k] for k in file.files})
    return {k: np.concatenate([part[k] for part in loaded]) for k in _names(loaded)}


def _intact(path: Path) -> bytes | None:
    """Return what was written to a part, or None where anything of it has changed."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    # a digest of all bytes: archives check fewer, and fail in many ways
    packed, digest = stored[:-32], stored[-32:]
    return packed if hashlib.sha256(packed).digest() == digest else None


def _names(loaded: Iterable[Columns]) -> list[str]:
    return list(next(iter(loaded), {}))


def _whole(columns: Columns, n: int) -> Columns | None:
    """Return rows 0 to n - 1 in order, or None where some are missing."""
    index = columns.get("index", np.empty(0, dtype=int))
    rows, first = np.unique(index, return_index=True)
    kept = first[rows < n]
    return {k: v[kept] for k, v in columns.items()} if len(kept) == n else None


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:12]
