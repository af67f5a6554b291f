"""Tables: CSV and Parquet files with named columns."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scoresde.data.checks import decoding, require_class, require_distinct
from scoresde.data.dataset import Dataset
from scoresde.data.parts import Part, read_parts

_INDEX = ("", "Unnamed: 0", "__index_level_0__")
"""How pandas names an index without a name: written as CSV, read from there, as Parquet."""


def table(
    train: str | Path,
    test: str | Path | None = None,
    *,
    columns: Sequence[str] | None = None,
    label: str | None = None,
) -> Dataset:
    """Read the numbers of a .csv or .parquet file with named columns: shape (D,), continuous.

    Rows are counted from 1, the header of a CSV file aside. Numbers are rounded to torch's default
    dtype, float32 unless it was changed. Classes are text, as it is written.

    Args:
        train: path of the training samples, one in each row.
        test: path of the test samples, of the same columns in any order. Without one the test set
            is empty: see `Dataset.split`.
        columns: names of the D columns to read, in order; all but `label` by default, if none of
            them is an index that pandas wrote.
        label: name of the column with the classes, text or integers.

    Raises:
        ImportError: PyArrow is not installed.
        FileNotFoundError: there is no such file.
        ValueError: a file is damaged, of another kind or no UTF-8; a column that is not there, is
            an index, or holds what is no number, or whole numbers that the dtype makes equal, or
            others whose range is too small beside their size; a value that is missing or not
            finite, or a class over several lines, with its row and column; a test set with other
            classes.
    """
    if columns is None:
        columns = _names_of_columns(Path(train), label)
    columns = list(columns)
    if not columns or len(set(columns)) < len(columns) or label in columns:
        raise ValueError(
            f"{train}: columns={columns}, label={label!r}: name some, and each of them once"
        )
    return read_parts(partial(_part, columns=columns, label=label), train, test)


def _names_of_columns(path: Path, label: str | None) -> list[str]:
    with decoding(path):
        content = _read(path, label)
        names = [name for name in content.column_names if name != label]
    stored = content.schema.pandas_metadata or {}
    index = {name for name in stored.get("index_columns", ()) if isinstance(name, str)}
    found = next((name for name in names if name in index or name in _INDEX), None)
    if found is not None:
        raise ValueError(
            f"{path} has the index of a data frame, the column {found!r}: write it with "
            "index=False, or name the columns to read by columns="
        )
    counted = [str(k) for k in range(len(names))]  # as pandas names them
    unnamed = names != counted and all(map(_is_number, names))
    if path.suffix.lower() == ".csv" and unnamed and (label is None or _is_number(label)):
        raise ValueError(
            f"{path} begins with the numbers {reprlib.repr(names)} where the names of the columns "
            "should be: put a row of names before them, or pass columns= if they are names"
        )
    return names


def _part(path: Path, columns: Sequence[str], label: str | None) -> Part:
    with decoding(path):
        content = _read(path, label)
        read = [_numbers(path, name, _column(path, content, name)) for name in columns]
        names = [] if label is None else _names(path, label, _column(path, content, label))
    return Part(torch.from_numpy(np.stack(read, axis=1)), names)


def _read(path: Path, label: str | None) -> Any:
    """Return a file as a table of PyArrow, with the label of a CSV file as it is written."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("table needs PyArrow: pip install 'scoresde[parquet]'") from error
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        match path.suffix.lower():
            case ".csv":
                return _read_csv(path, label)
            case ".parquet":
                return parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): repair it, or get it again") from error
    raise ValueError(f"{path} is no .csv or .parquet file")


def _read_csv(path: Path, label: str | None, use_threads: bool = True) -> Any:
    import pyarrow
    from pyarrow import csv

    with path.open("rb") as file:
        file.readline().decode()  # UTF-16 would only look ragged
    ragged: list[Any] = []

    def note(row: Any) -> str:
        ragged.append(row)
        return "error"

    try:
        return csv.read_csv(
            path,
            csv.ReadOptions(use_threads=use_threads),
            csv.ParseOptions(invalid_row_handler=note),
            csv.ConvertOptions(
                check_utf8=False,  # but where it is read
                column_types=None if label is None else {label: pyarrow.string()},
            ),
        )
    except pyarrow.ArrowInvalid as error:
        if use_threads:
            return _read_csv(path, label, use_threads=False)  # which counts rows
        if not ragged:
            raise
        row = ragged[0]
        raise ValueError(
            f"{path}, row {row.number - 1} has {row.actual_columns} columns, the header has "
            f"{row.expected_columns}: {reprlib.repr(row.text)}; correct either"
        ) from error


def _numbers(path: Path, name: str, column: Any) -> np.ndarray:
    from pyarrow import types

    _require_complete(path, name, column)
    kind = column.type
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)):
        row, value = next(
            ((k, v) for k, v in enumerate(column.to_pylist()) if not _is_number(v)),
            (0, column[0].as_py()),
        )
        raise ValueError(
            f"{path}, row {row + 1}: column {name!r} holds {reprlib.repr(value)}, which is no "
            "number: correct it (commas split values, decimals have a point), leave the column out "
            "by columns=, or name it by label="
        )
    whole = types.is_integer(kind)
    exact = (column if whole else column.cast("float64", safe=False)).to_numpy()
    with np.errstate(over="ignore"):
        values = exact.astype(torch.empty(0).numpy().dtype)
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(
            f"{path}, row {row + 1}: column {name!r} holds {column[row]}, which is not finite in "
            f"{values.dtype}: correct it, or remove the row"
        )
    require_distinct(f"{path}: column {name!r}", exact, values)
    return values


def _names(path: Path, label: str, column: Any) -> list[str]:
    _require_complete(path, label, column)
    names = column.to_pylist()
    numbers = all(map(_is_number, names))
    for row, name in enumerate(names, start=1):
        where = f"{path}, row {row}: the label {label!r}"
        if not isinstance(name, str | int) or (numbers and "." in str(name)):
            raise ValueError(
                f"{where} is {reprlib.repr(name)}, no text or integer: round it, or name another "
                "column"
            )
        require_class(str(name), where)
    return [str(name) for name in names]


def _column(path: Path, content: Any, name: str) -> Any:
    if content.column_names.count(name) != 1:
        raise ValueError(f"{path} has the columns {content.column_names}, and not one {name!r}")
    return content.column(name)


def _require_complete(path: Path, name: str, column: Any) -> None:
    if len(column) == 0:
        raise ValueError(f"{path} has no rows")
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise ValueError(
            f"{path}, row {row + 1}: column {name!r} has no value: fill it in, or remove the row"
        )


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True
