"""Files of time series of equal length: CSV, and the .ts format of the UCR and UEA archives."""

from __future__ import annotations

import csv
import reprlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde.data.checks import decoding, integer, require_class, require_distinct
from scoresde.data.dataset import Dataset
from scoresde.data.parts import Part, read_parts

_MISSING = ("?", "na", "n/a", "null", "none", "-")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_INDEX = ("", "Unnamed: 0")  # as pandas names one without a name


def series(
    train: str | Path, test: str | Path | None = None, *, label: int | None = None
) -> Dataset:
    """Read time series of equal length from text files, one in each row: shape (channels, L).

    - .csv and .tsv: the values of one channel, and the class in one column, if there is one. A
      first row of names, without any number, is a header. Blank lines are skipped.
    - .ts: a header of fields such as `@classLabel true up down`, and after `@data` one series a
      line: its channels split by colons, their values by commas, and the class at the end, if the
      header has classes. Format: Löning et al. 2019, arXiv:1909.07872 (sktime), now of aeon.

    Values are continuous, and rounded to torch's default dtype, float32 unless it was changed. Rows
    are counted from 1, the header aside.

    Args:
        train: path of the training series.
        test: path of the test series. Without one the test set is empty: see `Dataset.split`.
        label: of .csv and .tsv, the position of the column with the class, such as 0 or -1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file of another kind; a value that is missing or no finite number, series of
            several lengths, quotes that do not close, a first row that counts 0, 1, 2, ... as
            headers do, or a class that the header does not list, with file and row; a header that
            begins with an index; text that is no UTF-8; whole numbers that the dtype makes equal,
            or values whose range is too small beside their size; time stamps; a test set with other
            classes.
    """
    position = integer(label)
    if label is not None and position is None:
        raise ValueError(f"label={label!r} must be the position of a column, such as 0 or -1")
    return read_parts(partial(_read, label=position), train, test)


def _read(path: Path, label: int | None) -> Part:
    suffix = path.suffix.lower()
    if suffix not in (*_DELIMITERS, ".ts"):
        raise ValueError(f"{path} is no .csv, .tsv or .ts file; for .npy files use npy")
    with decoding(path):
        if suffix == ".ts":
            if label is not None:
                raise ValueError(f"label={label}: the header of a .ts file says where classes are")
            return _read_ts(path)
        return _read_table(path, _DELIMITERS[suffix], label)


def _read_table(path: Path, delimiter: str, label: int | None) -> Part:
    rows = _rows(path, delimiter, label)
    named = bool(rows) and _is_header(rows[0], label)
    if named and rows[0][0].strip() in _INDEX and label not in (0, -len(rows[0])):
        raise ValueError(
            f"{path} has the index of a data frame, the column {rows[0][0]!r}: write it with "
            "index=False"
        )
    hint = f" (split values by {delimiter!r}, write decimals with a point, name classes by label=)"
    values, names = [], []
    for number, row in enumerate(rows[1:] if named else rows, start=1):
        where = f"{path}, row {number}"
        if label is not None:
            if not -len(row) <= label < len(row):
                raise ValueError(f"{where} has {len(row)} columns, and none at label={label}")
            names.append(_class(row.pop(label).strip(), where))
        values.append(_numbers(row, where, hint)[None])
    first = values[0].flatten() if values and not named else ()
    if len(first) > 2 and np.array_equal(first, np.arange(len(first))):
        raise ValueError(
            f"{path}, row 1 counts 0, 1, 2, ... as a header does: remove it, or put a row of names "
            "before it if it is a series"
        )
    return Part(_stack(path, values), names)


def _rows(path: Path, delimiter: str, label: int | None) -> list[list[str]]:
    rows: list[list[str]] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            for row in csv.reader(file, delimiter=delimiter, strict=True):
                if len(row) > 1 or "".join(row).strip():
                    rows.append(row)
        except csv.Error as error:
            number = 1 + len(rows) - (bool(rows) and _is_header(rows[0], label))
            raise ValueError(
                f"{path}, row {number} is no text of values ({error}): close its quotes, or get "
                "the file again"
            ) from error
    return rows


def _read_ts(path: Path) -> Part:
    with path.open(encoding="utf-8-sig") as file:
        lines = (line.strip() for line in file)
        classes = _ts_header(path, lines)
        rows = [line for line in lines if line and line[0] not in "#%"]
    values, names = [], []
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        channels = row.split(":")
        if classes is not None:
            name = _class(channels.pop().strip(), where)
            if classes and name not in classes:
                raise ValueError(
                    f"{where} ends in the class {name!r}, but @classLabel lists {classes}: correct "
                    "either"
                )
            names.append(name)
        read = [_numbers(channel.split(","), where) for channel in channels]
        lengths = [len(channel) for channel in read]
        if len(set(lengths)) != 1:
            raise ValueError(
                f"{where} has channels of the lengths {lengths}: give one or more of one length"
            )
        values.append(np.stack(read))
    return Part(_stack(path, values), names, classes or ())


def _ts_header(path: Path, lines: Iterator[str]) -> tuple[str, ...] | None:
    """Read up to @data, and return the classes, in order; None where series have none."""
    classes = None
    for line in lines:
        field, *words = line.lower().split() or [""]
        on = words[:1] == ["true"]
        if field == "@data" and not words:
            return classes
        if field == "@data" or (field == "@classlabel" and words[:1] not in (["true"], ["false"])):
            raise ValueError(
                f"{path} has the line {line[:40]!r}: write @data alone, and true with the classes, "
                "or false, after @classLabel"
            )
        if field in ("@timestamps", "@targetlabel") and on:
            raise ValueError(
                f"{path} declares {line!r}: only values at equal distances, with classes or none, "
                "can be read; write it without"
            )
        if field == "@classlabel" and on:
            classes = tuple(line.split()[2:])
        elif field and field[0] not in "@#%":
            raise ValueError(f"{path} has the line {line[:40]!r} before @data: it is no .ts file")
    raise ValueError(f"{path} has no line @data: it is no .ts file, or cut short; get it again")


def _is_header(row: Sequence[str], label: int | None) -> bool:
    """Return whether a row holds a name, and no number: a name may be NA, but not all of them."""
    values = [value.strip().lower() for value in row]
    if label is not None and -len(row) <= label < len(row):
        values.pop(label)
    named = any(v and v not in _MISSING for v in values)
    return named and not any(map(_is_number, values))


def _numbers(values: Sequence[str], where: str, hint: str = "") -> np.ndarray:
    try:
        numbers = np.array(values, dtype=np.float64)
    except ValueError:
        numbers = np.array([float(v) if _is_number(v) else np.nan for v in values])
    dtype = torch.empty(0).numpy().dtype
    with np.errstate(over="ignore"):
        finite = np.isfinite(numbers.astype(dtype))
    if not finite.all():
        at = int(np.argmin(finite))
        raise ValueError(
            f"{where} has {reprlib.repr(values[at])} at place {at + 1}, which is no finite number "
            f"of {dtype}: correct it, fill it in, or remove the row{hint}"
        )
    return numbers


def _class(name: str, where: str) -> str:
    require_class("" if name == "?" else name, f"{where}: the class")
    return name


def _stack(path: Path, values: list[np.ndarray]) -> Tensor:
    if not values or not values[0].size:
        raise ValueError(f"{path} holds no series")
    for number, value in enumerate(values, start=1):
        if value.shape != values[0].shape:
            raise ValueError(
                f"{path}, row {number} has {_size(value)}, row 1 has {_size(values[0])}: make all "
                "series alike, such as by cutting them to the shortest"
            )
    exact = np.stack(values)
    rounded = exact.astype(torch.empty(0).numpy().dtype)
    for channel in range(exact.shape[1]):
        require_distinct(f"{path}: channel {channel + 1}", exact[:, channel], rounded)
    return torch.from_numpy(rounded)


def _size(value: np.ndarray) -> str:
    return f"{value.shape[0]} channels of {value.shape[1]} values"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
