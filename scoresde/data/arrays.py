"""NumPy files. Object arrays, whose reading would run code, are refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from scoresde.data.checks import naming, require_expansion
from scoresde.data.dataset import Dataset

_NAMES = ("train", "test", "train_labels", "test_labels")


def npy(train: str | Path, test: str | Path | None = None, *, levels: int | None = None) -> Dataset:
    """Read the samples (N, *) of one .npy file, and a test set from another; images (N, C, H, W).

    uint8 files, and floats of torch's default dtype, stay on disk and are read where they are used
    (memory-mapped, copy on write); other dtypes are converted in memory.

    Args:
        train: path of the training samples.
        test: path of the test samples. Without one the test set is empty: see `Dataset.split`.
        levels: the number of grey levels of integer data.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is damaged or holds objects, or the data fail the checks of `Dataset`.
    """
    samples = _read_npy(Path(train))
    held_out = samples[:0] if test is None else _read_npy(Path(test))
    with naming(train, test):
        return Dataset(samples, held_out, levels=levels, name=Path(train).stem)


def npz(path: str | Path, *, levels: int | None = None, classes: tuple[str, ...] = ()) -> Dataset:
    """Read a .npz file with the arrays `train` and, as there are, `test` and their labels.

    The arrays are `train`, `test`, `train_labels`, `test_labels`, as `numpy.savez` names them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds objects, lacks `train` or has arrays of other names,
            unpacks to more than 1 GiB and 256 times its size, or the data fail the checks of
            `Dataset`.
    """
    path = Path(path)
    found = _read_npz(path)
    train, train_labels = found["train"], found.get("train_labels")
    with naming(path):
        return Dataset(
            train,
            found.get("test", train[:0]),
            train_labels,
            found.get("test_labels", None if train_labels is None else train_labels[:0]),
            levels=levels,
            name=path.stem,
            classes=classes,
        )


def _read_npy(path: Path) -> Tensor:
    with _reading(path, "numpy.save"):
        return _tensor(np.lib.format.open_memmap(path, mode="c"))


def _read_npz(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        with _reading(path, "numpy.savez"):
            archive = NpzFile(file, allow_pickle=False)
            size = sum(member.file_size for member in ZipFile(file).infolist())
        names = archive.files
        if "train" not in names or not set(names) <= set(_NAMES):
            raise ValueError(
                f"{path} holds the arrays {sorted(names)}: name them {', '.join(_NAMES)}; only "
                "train is required"
            )
        require_expansion(path, size, "write it with numpy.savez")
        with _reading(path, "numpy.savez"):
            return {name: _tensor(archive[name]) for name in names}


def _tensor(array: Any) -> Tensor:
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise ValueError(f"{array!r:.40} is no array of samples or labels")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"the array is of dtype {array.dtype}, not floats or integers")
    if array.dtype.kind == "f":
        dtype = torch.empty(0).numpy().dtype
    else:
        dtype = array.dtype if array.dtype == np.uint8 else np.dtype(np.int64)
    with np.errstate(over="ignore"):  # infinities are refused with the file and the place
        return torch.from_numpy(array.astype(dtype, copy=False))


@contextmanager
def _reading(path: Path, writer: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file raises anything
        raise ValueError(
            f"{path} cannot be read ({error}): write it with {writer}, arrays of numbers only "
            "(objects would need pickle, which runs code)"
        ) from error
