"""IDX files, in which MNIST and its kin are published."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde.data.checks import naming, require_expansion, require_known_labels
from scoresde.data.dataset import Dataset

_UNSIGNED_BYTE = 0x08


def idx(folder: str | Path, *, classes: tuple[str, ...] = ()) -> Dataset:
    """Read a folder of the four IDX files of MNIST, Fashion-MNIST, KMNIST, ...: shape (1, H, W).

    The files are train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k, each as it
    is or with .gz. The format: LeCun, Cortes and Burges, "The MNIST database of handwritten
    digits".

    Args:
        folder: where the files lie.
        classes: the names of the classes; they are numbered without.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, cut short or of another kind, declares more than so small a
            file can be trusted to hold, a label has no name in `classes`, or the counts of images
            and labels differ.
    """
    folder = Path(folder)
    train = _read_idx(folder, "train-images-idx3-ubyte")[:, None]
    test = _read_idx(folder, "t10k-images-idx3-ubyte")[:, None]
    train_labels = _read_labels(folder, "train-labels-idx1-ubyte", classes)
    test_labels = _read_labels(folder, "t10k-labels-idx1-ubyte", classes)
    with naming(folder):
        return Dataset(train, test, train_labels, test_labels, 256, folder.resolve().name, classes)


def _read_idx(folder: Path, name: str) -> Tensor:
    """Read one IDX file: two zero bytes, the type, the rank, big-endian sizes, the values."""
    path = _existing(folder, name, f"{name}.gz")
    rank = int(name.removesuffix("-ubyte")[-1])
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape = _read_shape(path, file, rank)
            require_expansion(path, math.prod(shape), "unpack it")
            content = bytearray(math.prod(shape))
            found = file.readinto(content)
            longer = bool(file.read(1))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged ({error}): get it again") from error
    if longer or found < len(content):
        raise ValueError(
            f"{path} has {'more' if longer else found} bytes of data where its header declares "
            f"{shape}, {len(content)} bytes: get it again"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8)).view(shape)


def _read_shape(path: Path, file: BufferedIOBase, rank: int) -> tuple[int, ...]:
    header = file.read(4 + 4 * rank)
    if header[:4] != bytes([0, 0, _UNSIGNED_BYTE, rank]):
        raise ValueError(
            f"{path} begins with the bytes {header[:4].hex(' ')}, not with 00 00 08 0{rank}: it "
            f"is no IDX file of unsigned bytes in {rank} dimensions"
        )
    if len(header) < 4 + 4 * rank:
        raise ValueError(f"{path} is cut short within its header: get it again")
    return struct.unpack_from(f">{rank}I", header, offset=4)


def _read_labels(folder: Path, name: str, classes: tuple[str, ...]) -> Tensor:
    labels = _read_idx(folder, name)
    if classes:
        require_known_labels(str(_existing(folder, name, f"{name}.gz")), labels, len(classes))
    return labels


def _existing(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} holds no {' or '.join(names)}")
