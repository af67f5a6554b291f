"""Two binary layouts in which image sets are published: IDX (MNIST and its kin) and CIFAR-10."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from scoresde.data.dataset import Dataset

_UNSIGNED_BYTE = 0x08
_CIFAR10_RECORD = 1 + 3 * 32 * 32
_CIFAR10_BATCHES = tuple(f"data_batch_{k}.bin" for k in range(1, 6))


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
        ValueError: a file is damaged, cut short or of another kind, or the counts of images and
            labels differ.
    """
    folder = Path(folder)
    return Dataset(
        train=_read_idx(folder, "train-images-idx3-ubyte")[:, None],
        test=_read_idx(folder, "t10k-images-idx3-ubyte")[:, None],
        train_labels=_read_idx(folder, "train-labels-idx1-ubyte"),
        test_labels=_read_idx(folder, "t10k-labels-idx1-ubyte"),
        levels=256,
        name=folder.resolve().name,
        classes=classes,
    )


def cifar10(folder: str | Path) -> Dataset:
    """Read the binary version of CIFAR-10 (cifar-10-binary.tar.gz, unpacked): shape (3, 32, 32).

    Each record of data_batch_1.bin to data_batch_5.bin and test_batch.bin is a label and the red,
    green and blue planes of an image; batches.meta.txt names the classes. Krizhevsky 2009,
    "Learning Multiple Layers of Features from Tiny Images".

    Raises:
        FileNotFoundError: a file is missing, or this is the Python version of the set.
        ValueError: a file is damaged or cut short.
    """
    folder = Path(folder)
    if (folder / "data_batch_1").exists():
        raise FileNotFoundError(
            f"{folder} holds the Python version of CIFAR-10, whose batches are pickles, and "
            "reading a pickle runs the code in it: get the binary one, cifar-10-binary.tar.gz"
        )
    classes = tuple(_existing(folder, "batches.meta.txt").read_text().split())
    parts = [_read_cifar10(_existing(folder, name)) for name in _CIFAR10_BATCHES]
    test, test_labels = _read_cifar10(_existing(folder, "test_batch.bin"))
    return Dataset(
        train=torch.cat([pixels for pixels, _ in parts]),
        test=test,
        train_labels=torch.cat([labels for _, labels in parts]),
        test_labels=test_labels,
        levels=256,
        name="cifar10",
        classes=classes,
    )


def _read_idx(folder: Path, name: str) -> Tensor:
    """Read one IDX file: two zero bytes, the type, the rank, big-endian sizes, the values."""
    path = _existing(folder, name, f"{name}.gz")
    rank = int(name.removesuffix("-ubyte")[-1])
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged ({error}): get it again") from error
    header = 4 + 4 * rank
    if content[:4] != bytes([0, 0, _UNSIGNED_BYTE, rank]):
        raise ValueError(
            f"{path} begins with the bytes {content[:4].hex(' ')}, not with 00 00 08 0{rank}: it "
            f"is no IDX file of unsigned bytes in {rank} dimensions"
        )
    if len(content) < header:
        raise ValueError(f"{path} is cut short within its header: get it again")
    shape = struct.unpack_from(f">{rank}I", content, offset=4)
    if len(content) != header + math.prod(shape):
        raise ValueError(
            f"{path} has {len(content) - header} bytes of data where its header declares {shape}, "
            f"{math.prod(shape)} bytes: get it again"
        )
    return _bytes(content)[header:].view(shape)


def _read_cifar10(path: Path) -> tuple[Tensor, Tensor]:
    content = path.read_bytes()
    if not content or len(content) % _CIFAR10_RECORD:
        raise ValueError(
            f"{path} has {len(content)} bytes, which is not a whole number of records of "
            f"{_CIFAR10_RECORD}: get it again"
        )
    records = _bytes(content).view(-1, _CIFAR10_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def _bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _existing(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} holds no {' or '.join(names)}")
