"""Tables: CSV and Parquet files with named columns."""

from __future__ import annotations

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
        columns = [name for name in _read(Path(train)).column_names if name != label]
    columns = list(columns)
    if not columns or len(set(columns)) < len(columns) or label in columns:
        raise ValueError(f"columns={columns}, label={label!r}: name some, and each of them once")
    return read_parts(partial(_part, columns=columns, label=label), train, test)


def _part(path: Path, columns: Sequence[str], label: str | None) -> Part:
    content = _read(path)
    read = [_numbers(path, name, _column(path, content, name)) for name in columns]
    samples = torch.from_numpy(np.stack(read, axis=1)).to(torch.get_default_dtype())
    return Part(
        samples, [] if label is None else _names(path, label, _column(path, content, label))
    )


def _read(path: Path) -> Any:
    """Return a file as a table of PyArrow."""
    try:
        import pyarrow
        from pyarrow import csv, parquet
    except ImportError as error:
        raise ImportError("table needs PyArrow: pip install 'scoresde[parquet]'") from error
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        match path.suffix.lower():
            case ".csv":
                # empty text is missing, as an empty number is
                return csv.read_csv(
                    path, convert_options=csv.ConvertOptions(strings_can_be_null=True)
                )
            case ".parquet":
                return parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): repair it, or get it again") from error
    raise ValueError(f"{path} is no .csv or .parquet file")


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
            f"{path}, row {row + 1}: column {name!r} holds {value!r}, which is no number: correct "
            "it, leave the column out by columns=, or name it by label="
        )
    values = column.cast("float64", safe=False).to_numpy()
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(
            f"{path}, row {row + 1}: column {name!r} holds {values[row]}: correct it, or remove "
            "the row"
        )
    return values


def _names(path: Path, label: str, column: Any) -> list[str]:
    _require_complete(path, label, column)
    names = column.to_pylist()
    for row, name in enumerate(names, start=1):
        if not isinstance(name, str | int):
            raise ValueError(
                f"{path}, row {row}: the label {label!r} is {name!r}, no text or integer: round "
                "it, or name another column"
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
