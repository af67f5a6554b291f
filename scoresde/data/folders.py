"""What folders of images and of sounds share: files, classes, and samples that stay on disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.data.parts import Part

_UNFINISHED = ".scoresde-"
_DAY = 24 * 60 * 60.0


@dataclass(frozen=True)
class Reader:
    """How the files of a folder become samples of one shape.

    Attributes:
        kind: what they are called, such as "images".
        suffixes: of the files that are read, in lower case.
        read: makes the sample of a file, or raises ValueError.
        shape: of a sample.
        dtype: of a sample.
        settings: what a sample follows from besides its file; its repr tells two apart.
        on_error: what becomes of files that cannot be read: "raise", or "skip" them with a warning.
        cache: a folder in which samples are kept, or None to hold them in memory.
    """

    kind: str
    suffixes: tuple[str, ...]
    read: Callable[[Path], Tensor]
    shape: tuple[int, ...]
    dtype: torch.dtype
    settings: Any
    on_error: str
    cache: str | Path | None

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f'on_error={self.on_error!r} must be "raise" or "skip"')


def read_folder(root: Path, reader: Reader) -> Part:
    """Return the samples (N, *) of a folder, and their classes where they lie in sub-folders.

    With a cache the samples are mapped from a file there, copy on write. It is found again by the
    folder, its files' names, sizes and times of change and the reader's settings, and made where
    there is none; a kill on the way leaves no half of one under its name, and what it leaves under
    another is removed when one is made a day later.

    Raises:
        FileNotFoundError: the folder is missing, or holds no such files.
        ValueError: a file cannot be read (or none can), or files lie both in the folder and in its
            sub-folders.
    """
    paths, nested = _files(root, reader)
    if reader.cache is None:
        samples = np.empty((len(paths), *reader.shape), _numpy_dtype(reader))
        kept = _read_all(paths, reader, samples)
    else:
        samples, kept = _cached(root, paths, reader, Path(reader.cache))
    if not len(kept):
        raise ValueError(f"none of the {len(paths)} {reader.kind} in {root} can be read")
    if len(kept) < len(paths):
        skipped = sorted(set(range(len(paths))) - set(kept.tolist()))
        first = ", ".join(str(paths[k].relative_to(root)) for k in skipped[:3])
        warnings.warn(
            f"skipped {len(skipped)} of {len(paths)} {reader.kind} in {root} that cannot be read; "
            f"the first: {first}",
            stacklevel=3,
        )
    names = [paths[k].relative_to(root).parts[0] for k in kept] if nested else []
    return Part(torch.from_numpy(samples[: len(kept)]), names)


def files(root: Path, kind: str, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files of a folder and of all folders in it, in the order of their paths.

    Folders that programs keep for themselves are passed over: .ipynb_checkpoints and others whose
    names begin with a dot, and __MACOSX, which archives of macOS hold.
    """
    found = (
        path
        for path in root.rglob("*")
        if path.suffix.lower() in suffixes and not _is_hidden(path.relative_to(root).parent)
    )
    # by their text: paths themselves are compared without case on Windows
    paths = sorted((path for path in found if path.is_file()), key=lambda path: path.parts)
    if not paths:
        state = f"holds no {kind} ({' '.join(suffixes)})" if root.is_dir() else "is no folder"
        raise FileNotFoundError(f"{root} {state}")
    return paths


def _is_hidden(folder: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in folder.parts)


def _files(root: Path, reader: Reader) -> tuple[list[Path], bool]:
    """Return the files, and whether they lie in sub-folders."""
    paths = files(root, reader.kind, reader.suffixes)
    nested = [path.parent != root for path in paths]
    if any(nested) and not all(nested):
        raise ValueError(
            f"{root} holds {reader.kind} itself ({paths[nested.index(False)].name}) as well as in "
            "sub-folders, which name the classes: move them into one"
        )
    return paths, all(nested)


def _read_all(paths: list[Path], reader: Reader, samples: np.ndarray) -> np.ndarray:
    """Fill the first rows of an array, and return the numbers of the files that they are of."""
    kept: list[int] = []
    for k, path in enumerate(paths):
        try:
            samples[len(kept)] = reader.read(path).numpy()
            kept.append(k)
        except ValueError as error:
            if reader.on_error == "raise":
                raise ValueError(
                    f'{path} cannot be read ({error}): repair or remove it, or pass on_error="skip"'
                ) from error
    return np.array(kept, dtype=np.int64)


def _cached(
    root: Path, paths: list[Path], reader: Reader, cache: Path
) -> tuple[np.ndarray, np.ndarray]:
    target = cache / f"{reader.kind}-{_key(root, paths, reader)}"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(cache)
        temporary = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=cache))
        try:
            _write(temporary, paths, reader)
            os.rename(temporary, target)
        except OSError:
            if not target.exists():  # or else another process was faster
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    try:
        samples = np.lib.format.open_memmap(target / "samples.npy", mode="c")
        return samples, np.load(target / "kept.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{target} cannot be read ({error}): delete it") from error


def _remove_abandoned(cache: Path) -> None:
    """Remove what was being written by processes that were killed: others may be at work there."""
    for folder in cache.glob(f"{_UNFINISHED}*"):
        with suppress(OSError):  # it may be finished meanwhile
            last = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - last > _DAY:
                shutil.rmtree(folder)


def _write(folder: Path, paths: list[Path], reader: Reader) -> None:
    samples = np.lib.format.open_memmap(
        folder / "samples.npy", mode="w+", dtype=_numpy_dtype(reader),
        shape=(len(paths), *reader.shape),
    )  # fmt: skip
    np.save(folder / "kept.npy", _read_all(paths, reader, samples))
    samples.flush()


def _key(root: Path, paths: list[Path], reader: Reader) -> str:
    seen = [(str(p.relative_to(root)), (s := p.stat()).st_size, s.st_mtime_ns) for p in paths]
    # with the folder: those of an archive may have the same names, sizes and times in both parts
    of = str(root.resolve())
    told = repr((reader.settings, reader.shape, reader.dtype, reader.on_error, of, seen))
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _numpy_dtype(reader: Reader) -> np.dtype:
    return torch.empty(0, dtype=reader.dtype).numpy().dtype
