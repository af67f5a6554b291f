"""Time series and tables: what was written is read, and a bad value is named by file and row."""

from __future__ import annotations

import json
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet

from scoresde import data

# Series


def ts(rows, classes="true up down", extra=""):
    header = f"# about\n@problemName tiny\n@timeStamps false\n{extra}@classLabel {classes}\n"
    return f"{header}@data\n{rows}"


def test_csv_has_a_series_in_each_row(tmp_path):
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("1,2,3.5\n-4,5e1,6\n\n")
    dataset = data.series(train)
    assert dataset.train.tolist() == [[[1, 2, 3.5]], [[-4, 50, 6]]]
    assert (len(dataset.test), dataset.num_classes, dataset.name) == (0, 0, "train")
    train.write_text("class,t0,t1\nup,1,2\ndown,3,4\n")
    test.write_text("down, 5, 6\n")
    dataset = data.series(train, test, label=0)
    assert (dataset.train.tolist(), dataset.test.tolist()) == ([[[1, 2]], [[3, 4]]], [[[5, 6]]])
    assert (dataset.classes, dataset.train_labels.tolist()) == (("down", "up"), [1, 0])
    assert dataset.test_labels.tolist() == [0]


def test_tsv_is_the_same_with_tabs_and_labels_may_be_last(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("1.5\t2\tx\n3\t4\ty\n")
    dataset = data.series(path, label=-1)
    assert dataset.train.tolist() == [[[1.5, 2]], [[3, 4]]]
    assert dataset.classes == ("x", "y")


def test_ts_has_channels_and_classes(tmp_path):
    train, test = tmp_path / "A_TRAIN.ts", tmp_path / "A_TEST.ts"
    train.write_text(ts("1,2:3,4:up\n5,6:7,8:down\n"))
    test.write_text(ts("9,9:9,9:down\n"))
    dataset = data.series(train, test)
    assert dataset.train.tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    assert dataset.classes == ("up", "down")  # in the order of the header
    assert (dataset.train_labels.tolist(), dataset.test_labels.tolist()) == ([0, 1], [1])
    train.write_text(ts("1,2\n", classes="false"))
    dataset = data.series(train)
    assert (dataset.train.tolist(), dataset.num_classes) == ([[[1, 2]]], 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "1,2\n3,x\n", "row 2 has 'x' at place 2"),
        ("a.csv", "1,2\n3,\n", "row 2 has '' at place 2"),
        ("a.csv", "1,nan\n", "row 1 has 'nan' at place 2"),
        ("a.csv", "1,1e39\n", "row 1 has '1e39' at place 2, which is no finite number of float32"),
        ("a.csv", "1,2\n3,NA\n", "row 2 has 'NA' at place 2"),
        ("a.csv", "?,?\n1,2\n", r"row 1 has '\?' at place 1"),
        ("a.csv", ",,\n1,2,3\n", "row 1 has '' at place 1"),
        ("a.csv", "1;2\n3;4\n", "row 1 has '3;4' at place 1, .*split values by ','"),
        ("a.csv", "1,2\n'3,5',4\n", "row 2 has .* decimals with a point"),
        ("a.csv", '1,2\n3,"4\n5,6\n7,8\n', "row 2 is no text of values .*close its quotes"),
        ("a.csv", 'a,b\n1,2\n3,"4"5\n', "row 2 is no text of values .*close its quotes"),
        ("a.csv", '1,2\n3,"4\n5"\n', r"row 2 has '4\\n5' at place 2"),
        ("a.csv", ",a,b\n0,1,2\n", "has the index of a data frame, the column '': .*index=False"),
        ("a.csv", "Unnamed: 0,a\n0,1\n", "has the index of a data frame, the column 'Unnamed: 0'"),
        ("a.csv", "1700000000,1700000060\n", r"channel 1 holds 1700000000\.0 and 1700000060\.0, "),
        ("a.csv", "1e6\n1000000.01\n", r"1000000\.0 and 1000000\.01, which are equal in float32"),
        ("a.csv", "0,1,2\n5,6,7\n", "row 1 counts 0, 1, 2, .* put a row of names before it"),
        ("a.csv", "1,2\n3\n", "row 2 has 1 channels of 1 values, row 1 has 1 channels of 2"),
        ("a.csv", "", "holds no series"),
        ("a.csv", "a,b\n", "holds no series"),
        ("a.csv", b"\xff\xfe\x01", "is no UTF-8 text .*: save it as UTF-8"),
        ("a.csv", "caf\xe9,b\n1,2\n".encode("latin1"), "is no UTF-8 text .*: save it as UTF-8"),
        ("a.ts", ts("1:up\n").encode("utf-16"), "is no UTF-8 text .*: save it as UTF-8"),
        ("a.csv", b'1,2\n3,"4' + b"0" * 200_000, "is no text of values .*field limit"),
        ("a.ts", ts("1,2:up\n3,?:down\n"), r"row 2 has '\?' at place 2"),
        ("a.ts", ts("1,2:up\n3,4:side\n"), "row 2 ends in the class 'side', but @classLabel lists"),
        ("a.ts", ts("1,2:up\n3,4\n"), "row 2 ends in the class '3,4'"),
        ("a.ts", ts("1,2:?\n"), "row 1: the class has no value"),
        ("a.ts", ts("up\n"), r"row 1 has channels of the lengths \[\]"),
        ("a.ts", ts("1,2:3:up\n"), r"row 1 has channels of the lengths \[2, 1\]"),
        ("a.ts", ts("1,2:up\n1,2,3:up\n"), "row 2 has 1 channels of 3 values"),
        ("a.ts", ts("1,2:up\n1,2:1,2:up\n"), "row 2 has 2 channels of 2 values"),
        ("a.ts", ts("", extra="@timestamps true\n"), "declares '@timestamps true'"),
        ("a.ts", ts("", extra="@targetlabel true\n"), "declares '@targetlabel true'"),
        ("a.ts", ts("", classes="yes up"), "line '@classLabel yes up': write"),
        ("a.ts", ts("1:up\n", classes="true up up"), "classes holds 'up' more than once"),
        ("a.ts", ts("1:up\n").replace("@data\n", "@data "), "line '@data 1:up': write @data alone"),
        ("a.ts", ts("1,2:up\n3,4:up:up\n"), "row 2 has 'up' at place 1"),
        ("a.ts", "@problemName a\n1,2\n", "line '1,2' before @data"),
        ("a.ts", "@problemName a\n", "no line @data"),
        ("a.ts", ts(""), "holds no series"),
        ("a.txt", "1,2", r"is no \.csv, \.tsv or \.ts file"),
    ],
)
def test_series_that_cannot_be_used_are_refused_by_file_and_row(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"{name}.*{message}"):
        data.series(path)


@pytest.mark.parametrize(
    "content",
    [
        "1,2\n3,4\n",
        "\ufeff1,2\r\n3,4\r\n",
        "1,2\r3,4\r",
        '"1.0","2.0"\n" 3 ",4e0\n',
        "a,b\n\n1,2\n  \n3,4",
        "NA-1,#2\n1,2\n3,4\n",
        "na,k\n1,2\n3,4\n",  # sodium
    ],
)
def test_a_csv_file_is_read_however_it_is_written(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content.encode())
    assert data.series(tmp_path / "a.csv").train.tolist() == [[[1, 2]], [[3, 4]]]


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("@data\n", "  @data  \n\n"),
        lambda text: text.replace("5,6", "# one\n% two\n 5 , 6 "),
    ],
)
def test_a_ts_file_is_read_however_it_is_written(tmp_path, change):
    text = change(ts("1,2:up\n5,6:down\n", extra="@missing false\n@univariate true\n"))
    (tmp_path / "a.ts").write_bytes(text.encode())
    dataset = data.series(tmp_path / "a.ts")
    assert dataset.train.tolist() == [[[1, 2]], [[5, 6]]]
    assert [name.lower() for name in dataset.classes] == ["up", "down"]


def test_a_header_that_counts_is_no_series(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,0,1,2\nup,5,6,7\n")
    with pytest.raises(ValueError, match=r"a\.csv, row 1 counts 0, 1, 2, \.\.\. as a header does"):
        data.series(path, label=0)
    path.write_text("id,a,b,c\nup,0,1,2\n")
    assert data.series(path, label=0).train.tolist() == [[[0, 1, 2]]]
    path.write_text("up,?,?\ndown,1,2\n")
    with pytest.raises(ValueError, match=r"a\.csv, row 1 has '\?' at place 1"):
        data.series(path, label=0)


def test_labels_of_series_that_are_not_there_are_refused(tmp_path):
    train, test = tmp_path / "a.csv", tmp_path / "b.csv"
    train.write_text("1,2\n")
    with pytest.raises(ValueError, match=r"a\.csv, row 1 has 2 columns, and none at label=2"):
        data.series(train, label=2)
    train.write_text("1,2\nup,3\n")
    assert data.series(train, label=np.int64(0)).classes == ("1", "up")
    for label in ("class", 0.0, True):
        with pytest.raises(ValueError, match=rf"label={label!r} must be the position of a column"):
            data.series(train, label=label)
    train.write_text("up,1\n,2\n")
    with pytest.raises(ValueError, match=r"a\.csv, row 2: the class has no value"):
        data.series(train, label=0)
    train.write_text("up,1\n")
    test.write_text("up,1\nside,2\n")
    with pytest.raises(ValueError, match=r"b\.csv has the classes \['side', 'up'\], .*a\.csv has"):
        data.series(train, test, label=0)
    (tmp_path / "A_TRAIN.ts").write_text(ts("1,2:up\n"))
    (tmp_path / "A_TEST.ts").write_text(ts("1,2:up\n3,4:down\n"))  # listed, with no example
    with pytest.raises(ValueError, match=r"A_TEST\.ts has the classes \['down', 'up'\], "):
        data.series(tmp_path / "A_TRAIN.ts", tmp_path / "A_TEST.ts")
    (tmp_path / "a.ts").write_text(ts("1:up\n"))
    with pytest.raises(ValueError, match=r"label=0: the header of a \.ts file says"):
        data.series(tmp_path / "a.ts", label=0)
    with pytest.raises(FileNotFoundError):
        data.series(tmp_path / "missing.csv")


# Tables

COLUMNS = {"kind": ["b", "a", "b"], "x": [1.5, 2.0, -3.0], "n": [10, 20, 30]}


def write(path, columns):
    content = pa.table(columns)
    if path.suffix == ".parquet":
        parquet.write_table(content, path)
    else:
        rows = zip(*columns.values(), strict=True)
        cells = [["" if v is None else str(v) for v in row] for row in (columns, *rows)]
        path.write_text("".join(",".join(row) + "\n" for row in cells))
    return path


@pytest.fixture(params=["csv", "parquet"])
def path(request, tmp_path):
    return tmp_path / f"train.{request.param}"


def test_tables_are_read_by_columns(path):
    write(path, COLUMNS)
    dataset = data.table(path, label="kind")
    assert dataset.train.tolist() == [[1.5, 10], [2, 20], [-3, 30]]
    assert dataset.train.dtype == torch.get_default_dtype()
    assert (dataset.classes, dataset.train_labels.tolist()) == (("a", "b"), [1, 0, 1])
    assert data.table(path, columns=("n", "x")).train.tolist() == [[10, 1.5], [20, 2], [30, -3]]
    test = write(path.with_stem("test"), {"n": [1], "kind": ["a"], "x": [7.0]})
    dataset = data.table(path, test, columns=["x", "n"], label="kind")
    assert (dataset.test.tolist(), dataset.test_labels.tolist()) == ([[7, 1]], [0])
    assert data.table(path, columns=["x"], label="n").classes == ("10", "20", "30")


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {}, "row 1: column 'kind' holds 'b', which is no number"),
        ({"x": ["1.5", "2", "oops"]}, {"label": "kind"}, "row 3: column 'x' holds 'oops'"),
        ({"x": [1.5, None, 3.0]}, {"label": "kind"}, "row 2: column 'x' has no value"),
        ({"n": [1, 2, None]}, {"label": "kind"}, "row 3: column 'n' has no value"),
        ({"kind": ["a", None, "b"]}, {"label": "kind"}, "row 2: .* 'kind' has no value"),
        ({"x": [1.5, 1e39, 0.0]}, {"label": "kind"}, "row 2: column 'x' holds 1e\\+39, .* float32"),
        ({"x": ["1.5", "?", "2"]}, {"label": "kind"}, r"row 2: column 'x' holds '\?', .*correct"),
        (
            {"x": ["1,5", "2", "3"]},
            {"columns": ["x"]},
            "(row 1|has 4 columns).* decimals|header has 3",
        ),
        ({"x": [1.5, 2.5, -np.inf]}, {"label": "kind"}, "row 3: column 'x' holds -inf"),
        ({"kind": [0.5, 1.5, 2.5]}, {"label": "kind"}, "row 1: the label 'kind' is '?0.5"),
        ({"x": [True, False, True]}, {"label": "kind"}, "row 1: column 'x' holds True"),
        ({}, {"columns": ["y"]}, r"has the columns \['kind', 'x', 'n'\], and not one 'y'"),
        ({}, {"columns": ["x"], "label": "sort"}, "and not one 'sort'"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_by_row_and_column(
    path, changes, arguments, message
):
    write(path, COLUMNS | changes)
    with pytest.raises(ValueError, match=rf"{path.name}.*{message}"):
        data.table(path, **arguments)


def test_columns_that_make_no_sense_are_refused(path):
    write(path, COLUMNS)
    for arguments in ({"columns": ()}, {"columns": ("x", "x")}, {"columns": ["x"], "label": "x"}):
        with pytest.raises(ValueError, match="name some, and each of them once"):
            data.table(path, **arguments)


def test_damaged_tables_are_refused(path, monkeypatch):
    write(path, COLUMNS)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2] if path.suffix == ".parquet" else b"\n", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path.name} cannot be read"):
            data.table(path)
    write(path, {"x": pa.array([], pa.float64())})
    with pytest.raises(ValueError, match=rf"{path.name} has no rows"):
        data.table(path)
    with pytest.raises(ValueError, match=r"a\.xls is no \.csv or \.parquet file"):
        data.table(path.rename(path.parent / "a.xls"))
    with pytest.raises(FileNotFoundError, match="there is no file"):
        data.table(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'scoresde\[parquet\]'"):
        data.table(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n\n3\n4,5\n", "row 2 has 1 columns, the header has 2: '3'; correct either"),
        ("a,b\n1,2\n3,4,5\n", "row 2 has 3 columns, the header has 2: '3,4,5'"),
        ("a,b\n1,5;2,5\n3,5;4,5\n", "row 1 has 3 columns, the header has 2"),
        ("a;b\n1.5;2.5\n", "row 1: column 'a;b' holds '1.5;2.5', .*commas split values"),
        ("a,b\n" + "1,2\n" * 300_000 + "1,x\n", "row 300001: column 'b' holds 'x'"),
        ('a,b\n1,"2\n' + "3,4\n" * 1000, r"row 1: column 'b' holds '2\\n3,4[^;]{,40}, which is no"),
        (
            "1.5,2\n3,4\n",
            r"begins with the numbers \['1.5', '2'\] .*put a row of names before them",
        ),
        ("a,a\n1,2\n", r"columns=\['a', 'a'\], .* each of them once"),
        ("a,b\n1,NA\n", "row 1: column 'b' has no value: fill it in"),
        ("a,b\n1,nan\n", "row 1: column 'b' has no value"),
        ("a,b\n1,true\n", "row 1: column 'b' holds True"),
        ("a,b\n1,2024-05-01\n", r"row 1: column 'b' holds datetime\.date"),
        (",a,b\n0,1.5,2\n", "has the index of a data frame, the column '': .*index=False, or name"),
        ("Unnamed: 0,a\n0,1\n", "has the index of a data frame, the column 'Unnamed: 0'"),
        (
            "a,t\n1,1700000000\n2,1700000060\n3,1700000120\n",
            "column 't' holds 1700000000 and 1700000060, which are equal in float32: subtract",
        ),
        ("t\n1e6\n1000000.01\n", r"column 't' holds 1000000\.0 and 1000000\.01, which are equal"),
        ("t\n9007199254740992\n9007199254740993\n", "column 't' holds 900719.* are equal"),
    ],
)
def test_rows_of_csv_tables_that_are_wrong_are_named(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=rf"a\.csv(,|:)? {message}"):
        data.table(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n1,2\n3,4\n",
        "\ufeffa,b\r\n1,2\r\n\r\n3,4\r\n",
        '"a","b, c"\n"1","2"\n"3",4.0\n',
        "0,1\n1,2\n3,4\n",  # as pandas names columns without names
    ],
)
def test_a_csv_table_is_read_however_it_is_written(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content.encode())
    assert data.table(tmp_path / "a.csv").train.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "content",
    [
        "caf\xe9,b\n1,2\n".encode("latin1"),
        "a,b\n1,2\n".encode("utf-16"),
        "a,b\n1,caf\xe9\n".encode("latin1"),
    ],
)
def test_a_csv_table_that_is_no_utf_8_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    for arguments in ({}, {"label": "b"}):
        with pytest.raises(ValueError, match=r"a\.csv is no UTF-8 text .*: save it as UTF-8"):
            data.table(tmp_path / "a.csv", **arguments)


def test_columns_that_are_not_read_may_be_in_any_code(tmp_path):
    (tmp_path / "a.csv").write_bytes("a,b\n1,caf\xe9\n".encode("latin1"))
    assert data.table(tmp_path / "a.csv", columns=["a"]).train.tolist() == [[1]]


def test_classes_of_tables_are_text_as_it_is_written(tmp_path):
    (tmp_path / "a.csv").write_text("k,x\n01,1\n1,2\nNA,3\ntrue,4\n1.0,5\n2024-05-01,6\n")
    classes = ("01", "1", "1.0", "2024-05-01", "NA", "true")
    assert data.table(tmp_path / "a.csv", label="k").classes == classes
    for content, message in [
        ("k,x\nup,1\n,2\n", "row 2: the label 'k' has no value"),
        ('k,x\nup,1\n"down,2\nup,3\n"down,4\n', r"row 2: the label 'k' is 'down,2\\nup,3\\n\w*"),
        (
            'x,k\n1,up\n2,"down\n3,up\n',
            r"row 2: the label 'k' is 'down\\n3,up\\n', of several lines",
        ),
    ]:
        (tmp_path / "a.csv").write_text(content)
        with pytest.raises(ValueError, match=rf"a\.csv, {message}"):
            data.table(tmp_path / "a.csv", label="k")


def test_an_index_is_read_if_it_is_named(tmp_path):
    (tmp_path / "a.csv").write_text(",x\n5,1\n6,2\n")
    assert data.table(tmp_path / "a.csv", columns=["", "x"]).train.tolist() == [[5, 1], [6, 2]]
    assert data.table(tmp_path / "a.csv", label="").classes == ("5", "6")
    assert data.series(tmp_path / "a.csv", label=0).classes == ("5", "6")


@pytest.mark.parametrize(
    ("index", "stored"), [("__index_level_0__", ["__index_level_0__"]), ("id", ["id"])]
)
def test_an_index_in_a_parquet_file_is_refused(tmp_path, index, stored):
    frame = pa.table({"x": [1.5, 2.5], index: [3, 4]})
    pandas = {"index_columns": stored, "columns": []}
    parquet.write_table(
        frame.replace_schema_metadata({"pandas": json.dumps(pandas)}), tmp_path / "a.parquet"
    )
    with pytest.raises(ValueError, match=rf"a\.parquet has the index .* column '{index}': .*False"):
        data.table(tmp_path / "a.parquet")
    assert data.table(tmp_path / "a.parquet", columns=["x"]).train.tolist() == [[1.5], [2.5]]
    pandas["index_columns"] = [{"kind": "range", "start": 0, "stop": 2, "step": 1}]
    frame = pa.table({"x": [1.5, 2.5]}).replace_schema_metadata({"pandas": json.dumps(pandas)})
    parquet.write_table(frame, tmp_path / "a.parquet")
    assert data.table(tmp_path / "a.parquet").shape == (1,)


def test_continuous_data_may_lose_digits_and_numbers_that_float32_holds_are_kept(tmp_path):
    near = np.nextafter(0.1, 1)
    write(tmp_path / "a.parquet", {"x": [0.1, near, 0.7], "n": [0, 2**24 - 1, 2**24]})
    assert data.table(tmp_path / "a.parquet").train[:, 1].tolist() == [0, 2**24 - 1, 2**24]
    (tmp_path / "a.csv").write_text(f"0.1,{near!s},0.7\n")
    assert data.series(tmp_path / "a.csv").shape == (1, 3)


def test_numbers_may_be_names_if_they_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("2019,2020\n1,2\n")
    assert data.table(tmp_path / "a.csv", columns=["2020", "2019"]).train.tolist() == [[2, 1]]
    with pytest.raises(ValueError, match=r"a\.csv begins with the numbers \['2020'\]"):
        data.table(tmp_path / "a.csv", label="2019")


def test_numbers_beside_the_name_of_the_label_are_names(tmp_path):
    (tmp_path / "a.csv").write_text("400,410,class\n1,2,up\n")
    assert data.table(tmp_path / "a.csv", label="class").train.tolist() == [[1, 2]]


def test_only_tables_that_are_wrong_are_read_on_one_thread(tmp_path, monkeypatch):
    threads, read = [], csv.read_csv

    def spy(path, options, *others):
        threads.append(options.use_threads)
        return read(path, options, *others)

    monkeypatch.setattr(csv, "read_csv", spy)
    (tmp_path / "a.csv").write_text("a,b\n" + "1,2\n" * 300_000)  # of two blocks
    assert len(data.table(tmp_path / "a.csv", columns=["a", "b"]).train) == 300_000
    assert threads == [True]
    with (tmp_path / "a.csv").open("a") as file:
        file.write("3\n")
    with pytest.raises(ValueError, match=r"row 300001 has 1 columns, the header has 2: '3'"):
        data.table(tmp_path / "a.csv")
    assert threads == [True, True, False]
