"""The checks that data pass at the door: errors name the argument, the value and the remedy."""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_LEVELS = 2**16
"""More grey levels than this cannot be told apart reliably in float32."""

MAX_CLASSES = 2**16
"""More classes than this are named, or a label is wrong."""

_EXPANSION = 256
_SMALL = 2**30
"""Bytes that a file may unpack to whatever its size, 1 GiB."""

_RESOLUTION = 2**-12
"""The part of their range by which rounding may move values that are not whole numbers."""


@contextmanager
def naming(train: str | Path, test: str | Path | None = None) -> Iterator[None]:
    """Put the sources before what a data set made of them is refused for, which says which part."""
    try:
        yield
    except ValueError as error:
        source = train if test is None else f"{train} and {test}"
        raise ValueError(f"{source}: {error}") from error


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Say of text that is no UTF-8 which file it is in, and the remedy."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}): save it as UTF-8") from error


def require_distinct(where: str, exact: np.ndarray, values: np.ndarray) -> None:
    """Raise ValueError where rounding to the dtype of `values` destroys what is distinct.

    That is where it makes whole numbers equal, such as times in seconds since 1970 in float32, or
    other numbers whose range is small beside their size; continuous data lose no more than digits.
    """
    distinct = np.unique(exact)
    rounded = distinct.astype(values.dtype)
    merged = np.flatnonzero(rounded[1:] == rounded[:-1])
    if not len(merged):
        return
    reach = float(distinct[-1]) - float(distinct[0])
    coarse = np.abs(distinct - rounded).max() > _RESOLUTION * reach
    if coarse or (distinct == np.rint(distinct)).all():
        first, second = distinct[merged[0] : merged[0] + 2]
        raise ValueError(
            f"{where} holds {first} and {second}, which are equal in {values.dtype}: subtract an "
            "offset first, or round what need not be told apart"
        )


def require_class(name: str, where: str) -> None:
    """Raise ValueError for a name that is empty, or goes on in the next line of its file."""
    if not name:
        raise ValueError(f"{where} has no value: fill it in, or remove the row")
    if "\n" in name or "\r" in name:
        raise ValueError(
            f"{where} is {reprlib.repr(name)}, of several lines: close its quotes, or write one"
        )


def require_expansion(path: Path, unpacked: int, remedy: str) -> None:
    """Raise ValueError if a file declares more than 1 GiB and more than 256 times its own size.

    It is damaged, or made to fill the memory. Deflate packs up to 1032 times, and binary images by
    some hundred times.
    """
    packed = path.stat().st_size
    if unpacked > max(_SMALL, _EXPANSION * packed):
        raise ValueError(
            f"{path} declares {unpacked} bytes in a file of {packed}, more than {_EXPANSION} "
            f"times as many: get it again, or {remedy} if it is meant to be so"
        )


def integer(value: Any) -> int | None:
    """Return an integer, of NumPy as well, as an int, and None for anything else, bool included."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def require_count(name: str, value: int) -> int:
    """Return an argument as an int. Raise ValueError unless it is an integer from 1 up."""
    count = integer(value)
    if count is None or count < 1:
        raise ValueError(f"{name}={value!r} must be a positive integer")
    return count


def require_level_count(levels: int) -> None:
    """Raise ValueError unless `levels` is a number of grey levels: an int in 2..65536."""
    if not isinstance(levels, Integral) or not 2 <= levels <= MAX_LEVELS:
        raise ValueError(
            f"levels={levels!r} is not a number of grey levels: give an int in 2..{MAX_LEVELS} "
            "(256 for 8-bit images), or None for continuous data"
        )


def require_grey_levels(name: str, x: Tensor, levels: int) -> None:
    """Raise ValueError unless `x` holds integers in 0..levels-1."""
    if not _is_integer(x):
        raise ValueError(
            f"{name} holds {x.dtype} values, but levels={levels} declares integers "
            f"0..{levels - 1}: give integers (for images in [0, 1], "
            f"({levels - 1} * x).round().to(torch.uint8)), or levels=None for continuous data"
        )
    fits = x.dtype == torch.uint8 and levels >= 256  # by its type: no need to read all of a file
    if x.numel() == 0 or fits:
        return
    low, high = (bound.item() for bound in torch.aminmax(x))
    if low < 0 or high >= levels:
        raise ValueError(
            f"{name} is outside the declared range: it spans {low}..{high}, but levels={levels} "
            f"declares 0..{levels - 1}: shift the data, or declare levels={int(high) + 1} or more"
        )


def require_continuous(name: str, x: Tensor) -> None:
    """Raise ValueError unless `x` holds finite floating-point values."""
    if not x.is_floating_point():
        raise ValueError(
            f"{name} holds {x.dtype} values, but levels=None declares continuous data: "
            "give their number of grey levels (levels=256 for 8-bit images), or convert with "
            ".float()"
        )
    require_finite(name, x)


def require_finite(name: str, x: Tensor) -> None:
    """Raise ValueError, saying how many and where first, if `x` holds NaN or infinities."""
    if x.numel() == 0:
        return
    # NaN wins both ends, so one pass settles the common case without a mask the size of the data.
    if all(torch.isfinite(bound) for bound in torch.aminmax(x)):
        return
    where = torch.nonzero(~torch.isfinite(x))
    first = tuple(where[0].tolist())
    raise ValueError(
        f"{name} holds {len(where)} of {x.numel()} values that are not finite (the first is "
        f"{x[first].item()} at index {first}): remove or impute them"
    )


def require_labels(name: str, labels: Tensor, count: int) -> None:
    """Raise ValueError unless `labels` are `count` class indices, shape (count,), from 0 up."""
    if not _is_integer(labels) or labels.ndim != 1:
        raise ValueError(
            f"{name} is {labels.dtype} of shape {tuple(labels.shape)}: give one class index a "
            f"sample, integers of shape ({count},)"
        )
    if len(labels) != count:
        raise ValueError(f"{name} has {len(labels)} labels for {count} samples: give one each")
    if count and labels.min() < 0:
        raise ValueError(f"{name} has a negative label, {labels.min().item()}: count from 0")


def require_known_labels(source: str, labels: Tensor, classes: int) -> None:
    """Raise ValueError, naming the row, if one of labels (N,) is not in 0..classes-1."""
    wrong = torch.nonzero((labels < 0) | (labels >= classes)).flatten()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{source}: row {row + 1} has the label {int(labels[row])}, but the classes are "
            f"0..{classes - 1}: correct it, or name all classes"
        )


def _is_integer(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
