"""CIFAR-10 in the two forms in which it is published: binary records and Python pickles."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.data.checks import naming, require_known_labels
from scoresde.data.dataset import Dataset

_SIZE = 3 * 32 * 32
_CLASSES = 10
_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")


def cifar10(folder: str | Path) -> Dataset:
    """Read CIFAR-10, unpacked from its binary or its Python archive: shape (3, 32, 32).

    Binary (cifar-10-binary.tar.gz): each record of data_batch_1.bin to data_batch_5.bin and
    test_batch.bin is a label and the red, green and blue planes of an image; batches.meta.txt names
    the classes. Python (cifar-10-python.tar.gz): the same without .bin and .txt, in pickles. These
    are read without running code, in memory bounded by their size: a pickle that asks for more than
    NumPy's arrays is refused, and so are batches that Python 3 pickled anew (`npz` reads arrays
    that are your own).
    Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, cut short, has a label out of range, or asks for code to run.
    """
    folder = Path(folder)
    if (folder / _BATCHES[0]).exists():
        suffix, read, classes = "", _read_pickled, _read_names(_existing(folder, "batches.meta"))
    else:
        suffix, read = ".bin", _read_binary
        classes = tuple(_existing(folder, "batches.meta.txt").read_text("latin1").split())
    if len(classes) != _CLASSES:
        raise ValueError(
            f"batches.meta of {folder} names {len(classes)} classes, not {_CLASSES}: get it again"
        )
    parts = [read(_existing(folder, name + suffix)) for name in _BATCHES]
    test, test_labels = read(_existing(folder, "test_batch" + suffix))
    with naming(folder):
        return Dataset(
            train=torch.cat([pixels for pixels, _ in parts]),
            test=test,
            train_labels=torch.cat([labels for _, labels in parts]),
            test_labels=test_labels,
            levels=256,
            name="cifar10",
            classes=classes,
        )


def _read_binary(path: Path) -> tuple[Tensor, Tensor]:
    content = path.read_bytes()
    if not content or len(content) % (1 + _SIZE):
        raise ValueError(
            f"{path} has {len(content)} bytes, which is not a whole number of records of "
            f"{1 + _SIZE}: get it again"
        )
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, 1 + _SIZE)
    require_known_labels(str(path), records[:, 0], _CLASSES)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def _read_pickled(path: Path) -> tuple[Tensor, Tensor]:
    batch = _unpickle(path)
    pixels, labels = batch.get(b"data"), batch.get(b"labels")
    pixels = pixels.bytes() if isinstance(pixels, _Array) else None
    if (
        pixels is None
        or not isinstance(labels, list)
        or len(labels) != len(pixels)
        or not all(type(label) is int and abs(label) < 2**31 for label in labels)
    ):
        raise ValueError(
            f"{path} does not hold data, bytes of shape (N, {_SIZE}), and labels, N integers: get "
            "it again"
        )
    numbers = torch.tensor(labels)
    require_known_labels(str(path), numbers, _CLASSES)
    return torch.from_numpy(pixels).reshape(-1, 3, 32, 32), numbers


def _read_names(path: Path) -> tuple[str, ...]:
    names = _unpickle(path).get(b"label_names")
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise ValueError(f"{path} does not hold label_names, a list of text: get it again")
    return tuple(name.decode("latin1") for name in names)


class _Dtype:
    """Stands for `numpy.dtype` in a pickle."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.is_byte = code in (b"u1", "u1")

    def __setstate__(self, state: Any) -> None:
        """Pass over the order of the bytes."""


class _Array:
    """Stands for an array in a pickle, whose own `__setstate__` would take bytes for pointers."""

    state: Any = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def bytes(self) -> np.ndarray | None:
        """Return the array (N, 3072), if it is one of bytes."""
        match self.state:
            case (1, (int(rows), int(columns)), _Dtype(is_byte=True), columns_first, bytes(raw)):
                if columns == _SIZE and len(raw) == rows * columns:
                    values = np.frombuffer(bytearray(raw), np.uint8)
                    return values.reshape(rows, columns, order="F" if columns_first else "C")
        return None


_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
_MAX_TUPLES = 100
"""A batch of CIFAR-10 has six."""
_OPCODES = {
    *("PROTO", "MARK", "STOP", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND"),
    *("APPENDS", "EMPTY_TUPLE", *_TUPLES, "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("GLOBAL", "REDUCE", "BUILD", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2"),
    *("LONG1", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE"),
}


def _require_plain(content: bytes) -> None:
    """Raise UnpicklingError for a pickle whose reading takes more than its length accounts for.

    `pickle` makes room for any length and any number of remembered objects that it is told of, and
    hashes tuples that share tuples in a time exponential in their depth, and with a stack as deep
    as they are. Here lengths are read with what they are of, objects are remembered in order, and
    tuples are few and not recalled.
    """
    memo: dict[int, str] = {}
    last, tuples = "", 0
    for opcode, argument, _ in pickletools.genops(content):
        name, value = opcode.name, argument or 0
        if name not in _OPCODES:
            raise pickle.UnpicklingError(f"it holds {name}, which no batch of CIFAR-10 does")
        tuples += name in _TUPLES
        if tuples > _MAX_TUPLES:
            raise pickle.UnpicklingError(
                f"it holds more than {_MAX_TUPLES} tuples, which no batch of CIFAR-10 does"
            )
        if name in ("BINPUT", "LONG_BINPUT"):
            if value > len(memo) + 1:
                raise pickle.UnpicklingError(f"it remembers an object {value} after {len(memo)}")
            memo[value] = last
        elif name in ("BINGET", "LONG_BINGET") and memo.get(value) in _TUPLES:
            raise pickle.UnpicklingError("it uses a tuple twice, which no batch of CIFAR-10 does")
        elif name != "PROTO":
            last = name


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows what stands for NumPy's arrays and no other global: no code runs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which no batch of CIFAR-10 holds and which may run "
                "code"
            )
        return _GLOBALS[module, name]


def _unpickle(path: Path) -> dict[Any, Any]:
    try:
        content = path.read_bytes()
        _require_plain(content)
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises anything
        raise ValueError(f"{path} cannot be read ({error}): get it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, not a dict: get it again")
    return found


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{folder} holds no {name}")
    return folder / name
