"""Tables: CSV and Parquet files with named columns."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scoresde.data.dataset import Dataset
from scoresde.data.parts import Part, read_parts


def table(
    train: str | Path,
    test: str | Path | None = None,
    *,
    columns: Sequence[str] | None = None,
    label: str | None = None,
) -> Dataset:
    """Read the numbers of a .csv or .parquet file with named columns: shape (D,), continuous.

    Rows are counted from 1, the header of a CSV file aside.

    Args:
        train: path of the training samples, one in each row.
        test: path of the test samples, of the same columns in any order. Without one the test set
            is empty: see `Dataset.split`.
        columns: names of the D columns to read, in order; all but `label` by default.
        label: name of the column with the classes, text or integers.

    Raises:
        ImportError: PyArrow is not installed.
        FileNotFoundError: there is no such file.
        ValueError: a file is damaged or of another kind; a column that is not there, or holds what
            is no number; a value that is missing or not finite, with its row and column; a test set
            with other classes.
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
    names = [name for name in _read(path).column_names if name != label]
    counted = [str(k) for k in range(len(names))]  # as pandas names them
    unnamed = names != counted and all(map(_is_number, names))
    if path.suffix.lower() == ".csv" and unnamed and (label is None or _is_number(label)):
        raise ValueError(
            f"{path} begins with the numbers {reprlib.repr(names)} where the names of the columns "
            "should be: put a row of names before them, or pass columns= if they are names"
        )
    return names


def _part(path: Path, columns: Sequence[str], label: str | None) -> Part:
    content = _read(path)
    read = [_numbers(path, name, _column(path, content, name)) for name in columns]
    names = [] if label is None else _names(path, label, _column(path, content, label))
    return Part(torch.from_numpy(np.stack(read, axis=1)), names)


def _read(path: Path) -> Any:
    """Return a file as a table of PyArrow."""
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
                return _read_csv(path)
            case ".parquet":
                return parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): repair it, or get it again") from error
    raise ValueError(f"{path} is no .csv or .parquet file")


def _read_csv(path: Path, use_threads: bool = True) -> Any:
    import pyarrow
    from pyarrow import csv

    ragged: list[Any] = []

    def note(row: Any) -> str:
        ragged.append(row)
        return "error"

    try:
        return csv.read_csv(
            path,
            csv.ReadOptions(use_threads=use_threads),
            csv.ParseOptions(invalid_row_handler=note),
            # empty text is missing, as an empty number is
            csv.ConvertOptions(strings_can_be_null=True),
        )
    except pyarrow.ArrowInvalid as error:
        if use_threads:
            return _read_csv(path, use_threads=False)  # which counts rows
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
    with np.errstate(over="ignore"):
        values = column.cast("float64", safe=False).to_numpy().astype(torch.empty(0).numpy().dtype)
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(
            f"{path}, row {row + 1}: column {name!r} holds {column[row]}, which is not finite in "
            f"{values.dtype}: correct it, or remove the row"
        )
    return values


def _names(path: Path, label: str, column: Any) -> list[str]:
    _require_complete(path, label, column)
    names = column.to_pylist()
    for row, name in enumerate(names, start=1):
        if not isinstance(name, str | int):
            raise ValueError(
                f"{path}, row {row}: the label {label!r} is {reprlib.repr(name)}, no text or "
                "integer: round it, or name another column"
            )
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
