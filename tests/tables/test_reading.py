"""Tables of every kind: what is recognised, what is converted, and what is refused in one line."""

import bz2
import datetime
import decimal
import gzip
import hashlib
import io
import os
import random
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

from batchnorm.errors import InputError
from batchnorm.inputs import open_frame
from batchnorm.tables import FORMATS, open_table, read_tables, table_paths, write_predictions
from batchnorm.tables.files import sources
from processes import run_afresh
from table_cases import write

DAY, TIME = datetime.date, datetime.datetime


@pytest.fixture
def written(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def refused(written):
    """Return the error of a file, without the folder, which must be one line."""

    def refuse(name, content, columns=None):
        path = written(name, content)
        with pytest.raises(InputError) as caught:
            open_table(path).read(columns)
        said = str(caught.value)
        assert "\n" not in said
        assert said.startswith(str(path))
        return said.removeprefix(f"{path.parent}{os.sep}")

    return refuse


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def parquet(table, **options):
    file = io.BytesIO()
    pa.parquet.write_table(table, file, **options)
    return file.getvalue()


def feather(table, compression="lz4"):
    file = io.BytesIO()
    pa.feather.write_feather(table, file, compression)
    return file.getvalue()


def types(table):
    return [str(kind) for kind in table.schema.types]


TABLE = pa.table({"n": [1, 2, None], "x": [0.5, None, -2.0], "text": ["a, b", 'the "one"', "two\nlines"]})


def as_csv(delimiter=","):
    file = io.BytesIO()
    pa.csv.write_csv(TABLE, file, pa.csv.WriteOptions(delimiter=delimiter))
    return file.getvalue()


JSON = (
    '{"n":1,"x":0.5,"text":"a, b"}\n{"n":2,"x":null,"text":"the \\"one\\""}\n\n{"n":null,"x":-2,"text":"two\\nlines"}'
)


def ipc_stream(table):
    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("t.csv", as_csv(), "delimited"),
        ("t.CSV", as_csv(), "delimited"),
        ("t.tsv", as_csv("\t"), "delimited"),
        ("t.txt", as_csv("|"), "delimited"),
        ("t.csv", as_csv(";"), "delimited"),
        ("t.csv", as_csv().replace(b"\n", b"\r\n").replace(b"two\r\n", b"two\n"), "delimited"),
        ("t.csv", b"sep=;\r\n" + as_csv(";"), "delimited"),
        ("t.csv", b'\xef\xbb\xbf"SEP=^"\n' + as_csv("^"), "delimited"),
        ("t.csv.gz", gzip.compress(as_csv(), mtime=0), "delimited"),
        ("t.csv.bz2", bz2.compress(as_csv()), "delimited"),
        ("t.csv.zst", pa.compress(as_csv(), "zstd", asbytes=True), "delimited"),
        ("packed-without-saying-so.csv", gzip.compress(as_csv(), mtime=0), "delimited"),
        (
            "two-members.csv.gz",
            gzip.compress(as_csv()[:20], mtime=0) + gzip.compress(as_csv()[20:], mtime=0),
            "delimited",
        ),
        ("t.jsonl", JSON, "jsonlines"),
        ("t.ndjson.gz", gzip.compress(JSON.encode(), mtime=0), "jsonlines"),
        ("t.parquet", parquet(TABLE), "parquet"),
        ("t.pq", parquet(TABLE, row_group_size=1), "parquet"),
        ("t.feather", feather(TABLE), "arrow"),
        ("t.arrow", feather(TABLE, "uncompressed"), "arrow"),
        ("t.ipc", ipc_stream(TABLE), "arrow"),
    ],
)
def test_every_kind_holds_the_same(name, content, kind, written):
    file = open_table(written(name, content))
    assert (file.kind, file.names) == (kind, ["n", "x", "text"])
    assert file.read().equals(TABLE)
    assert file.schema == TABLE.schema
    assert file.read(["text", "n"]).equals(TABLE.select(["text", "n"]))
    assert pa.Table.from_batches(file.batches(["x"])).equals(TABLE.select(["x"]))


def test_kinds_are_recognised_by_content_where_the_name_says_nothing_or_another(written):
    assert set(FORMATS.values()) == {"delimited", "jsonlines", "parquet", "arrow"}
    for content, kind, words in [
        (as_csv(), "delimited", None),
        (JSON.encode(), "jsonlines", "JSON lines"),
        (parquet(TABLE), "parquet", "Parquet"),
        (feather(TABLE), "arrow", "Arrow"),
    ]:
        assert (open_table(written("table", content)).kind, open_table(written("table", content)).note) == (kind, None)
        file = open_table(written("table.csv", content))
        assert (file.kind, file.note) == (kind, words and f"{words} by its content")
    assert open_table(written("t.csv", "PAR1,ORC\n1,2\n")).names == ["PAR1", "ORC"]  # letters of other formats


FRENCH = "name,n\nCafé,1\nÉlodie à Orléans,2\n"


@pytest.mark.parametrize(
    ("encoding", "text", "note"),
    [
        ("utf-8", FRENCH, None),
        ("utf-8-sig", FRENCH, None),
        ("utf-16", FRENCH, "encoding utf-16"),
        ("utf-16-le", FRENCH, "encoding utf-16-le"),
        ("utf-16-be", FRENCH, "encoding utf-16-be"),
        ("cp1252", FRENCH, "encoding cp1252"),
        ("cp1252", "name,n\nit’s,1\n5 €,2\n", "encoding cp1252"),
        ("cp1250", "name,n\nŁódź i Kraków są piękne,1\nGdańsk leży nad morzem,2\n", "encoding cp1250"),
        ("cp1251", "name,n\nМосква,1\nСанкт-Петербург,2\n", "encoding cp1251"),
        ("cp932", "name,n\n東京,1\n名古屋市の中,2\n", "encoding cp932"),
    ],
)
def test_encodings_are_recognised(encoding, text, note, written):
    file = open_table(written("t.csv", text.encode(encoding)))
    assert file.note == note
    table = file.read()
    assert table.column_names == ["name", "n"]
    assert table["name"].to_pylist() == [line.rpartition(",")[0] for line in text.splitlines()[1:]]
    assert table["n"].to_pylist() == [1, 2]


def test_an_encoding_that_shows_late_is_recognised_then(written, monkeypatch):
    monkeypatch.setattr("batchnorm.tables.files.sources.SAMPLE_BYTES", 1 << 12)
    content = b"name,n\n" + b"plain,1\n" * 2000 + "Café,2\nÉlodie à Orléans,2\n".encode("cp1252")
    file = open_table(written("t.csv", content))
    assert file.note is None
    assert file.read()["name"].to_pylist()[-2:] == ["Café", "Élodie à Orléans"]
    assert file.note == "encoding cp1252"


@pytest.mark.parametrize(
    ("text", "note", "expected"),
    [
        ("a;b\n1,5;x\n-2;y\n", "delimiter ';', decimal comma", {"a": [1.5, -2.0], "b": ["x", "y"]}),
        ("a;b\n1.5;x\n-2;y\n", "delimiter ';'", {"a": [1.5, -2.0], "b": ["x", "y"]}),
        ("a;b\n1.5;1,5\n", "delimiter ';'", {"a": [1.5], "b": ["1,5"]}),
        ("a|b\n1|2\n", "delimiter '|'", {"a": [1], "b": [2]}),
        ("a\n1\n2\n", None, {"a": [1, 2]}),
        ("a b,c\n1;2;3,4\n", None, {"a b": ["1;2;3"], "c": [4]}),
        (" a ,,b\n1,2,3\n", None, {"a": [1], "Unnamed: 1": [2], "b": [3]}),
        ("a,b\r1,2\r3,4\r", None, {"a": [1, 3], "b": [2, 4]}),
        ("\n\na,b\n\n1,2\n\n", None, {"a": [1], "b": [2]}),
        ('"a\nb",c\n1,2\n', None, {"a\nb": [1], "c": [2]}),
        ('a,b\n5" pipe,1\n', None, {"a": ['5" pipe'], "b": [1]}),
        ("1,2\n3,4\n", "its first row, which is read as column names, holds numbers alone", {"1": [3], "2": [4]}),
    ],
)
def test_how_a_text_is_written_is_recognised(text, note, expected, written):
    file = open_table(written("t.csv", text))
    assert file.note == note
    assert file.read().to_pydict() == expected


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (["1", "-2", ""], "int64", [1, -2, None]),
        (["1", "2.5", "1e3", " 4 "], "double", [1.0, 2.5, 1000.0, 4.0]),
        (["true", "False", "TRUE"], "bool", [True, False, True]),
        (["1", "true"], "string", ["1", "true"]),
        (['"1,234"', '"5,678,910"'], "string", ["1,234", "5,678,910"]),
        (["x", "NA", "N/A", "?", "-", "None", " ?"], "string", ["x", *[None] * 6]),
        (["1", "NaN", "null", "?", "-"], "int64", [1, *[None] * 4]),
        (["1", "   ", " NA ", "? "], "int64", [1, None, None, None]),
        (["none", "mild", "", "  "], "string", ["none", "mild", None, None]),
        (["", "NA"], "double", [None, None]),
        (["2020-12-31", "2021-01-01"], "date32[day]", [DAY(2020, 12, 31), DAY(2021, 1, 1)]),
        (["2020-12-31 10:30", "2020-12-31"], "timestamp[s]", [TIME(2020, 12, 31, 10, 30), TIME(2020, 12, 31)]),
        (["31.12.2020", "1.2.2020"], "timestamp[s]", [TIME(2020, 12, 31), TIME(2020, 2, 1)]),
        (["2020/12/31"], "timestamp[s]", [TIME(2020, 12, 31)]),
        (["31/12/2020", "1/2/2020"], "timestamp[s]", [TIME(2020, 12, 31), TIME(2020, 2, 1)]),
        (["12/31/2020", "1/2/2020"], "timestamp[s]", [TIME(2020, 12, 31), TIME(2020, 1, 2)]),
        (["2020-12-31T10:00:00Z"], "timestamp[s, tz=UTC]", [TIME(2020, 12, 31, 10, tzinfo=datetime.UTC)]),
        (["01:30", "23:59"], "duration[s]", [datetime.timedelta(minutes=of_day) for of_day in (90, 1439)]),
        (["99999999999999999999", "1"], "double", [1e20, 1.0]),
    ],
)  # fmt: skip
def test_types_of_cells(cells, kind, values, written):
    table = open_table(written("t.csv", "a,b\n" + "".join(f"{cell},1\n" for cell in cells))).read(["a"])
    assert types(table) == [kind]
    assert table["a"].to_pylist() == values


def test_dates_that_may_be_read_in_two_ways_stay_texts_and_that_is_told(written):
    file = open_table(written("t.csv", "a,b\n01/02/2020,1\n"))
    assert file.note.startswith("dates such as 01/02/2020 stay texts, as either number may be the month")
    assert file.read()["a"].to_pylist() == ["01/02/2020"]


@pytest.mark.parametrize(
    ("early", "late", "kind", "first", "last"),
    [
        ("1", "2.5", "double", 1.0, 2.5),
        ("1", "x", "string", "1", "x"),
        ("", "7", "int64", None, 7),
        ("", "x", "string", None, "x"),
        ("true", "maybe", "string", "true", "maybe"),
        ("2020-01-01", "2020-01-02 03:00", "timestamp[s]", TIME(2020, 1, 1), TIME(2020, 1, 2, 3)),
        ("2020-01-01", "soon", "string", "2020-01-01", "soon"),
        ("0.5", '"two\nlines, ""quoted"""', "string", "0.5", 'two\nlines, "quoted"'),
    ],
)  # fmt: skip
def test_a_type_fits_every_row_not_the_first_block_alone(early, late, kind, first, last, written, monkeypatch):
    monkeypatch.setattr("batchnorm.tables.files.delimited._BLOCK_BYTES", 1 << 12)
    rows = [f"{early},{i}" for i in range(3000)]
    table = open_table(written("t.csv", "\n".join(["a,b", *rows, f"{late},-1"]))).read()
    assert types(table) == [kind, "int64"]
    assert (table["a"][0].as_py(), table["a"][-1].as_py()) == (first, last)
    assert table["b"].to_pylist() == [*range(3000), -1]


def test_types_that_the_input_stage_lacks_are_converted(written):
    time = datetime.time(1, 30)
    table = pa.table(
        {
            "decimal": pa.array([decimal.Decimal("1.50"), None]),
            "levels": pa.array(["a", "b"], pa.large_string()).dictionary_encode(),
            "numbers": pa.array([5, 6]).dictionary_encode(),
            "large": pa.array(["u", None], pa.large_string()),
            "time": pa.array([time, None], pa.time32("ms")),
            "time64": pa.array([time, None], pa.time64("ns")),
            "nothing": pa.nulls(2),
            "half": pa.array(np.array([0.5, 1.5], np.float16)),
            "day": pa.array([DAY(2020, 1, 2), None], pa.date64()),
            "small": pa.array([1, 2], pa.uint8()),
        }
    )
    for content in (parquet(table), feather(table)):
        read = open_table(written("t.arrow", content)).read()
        assert types(read)[0] == "double"
        assert types(read)[1].startswith("dictionary<values=string, indices=int32")
        assert types(read)[2:4] == ["int64", "string"]
        assert types(read)[6:] == ["double", "float" if content[:1] == b"A" else types(read)[7], "date32[day]", "uint8"]
        hours = datetime.timedelta(hours=1, minutes=30)
        assert read.to_pylist() == [
            {"decimal": 1.5, "levels": "a", "numbers": 5, "large": "u", "time": hours, "time64": hours, "nothing": None,
             "half": 0.5, "day": DAY(2020, 1, 2), "small": 1},
            {"decimal": None, "levels": "b", "numbers": 6, "large": None, "time": None, "time64": None, "nothing": None,
             "half": 1.5, "day": None, "small": 2},
        ]  # fmt: skip
        assert open_frame(read).names == table.column_names


def test_columns_of_other_types_are_named_and_may_be_left_out(written, refused):
    for column, kind in [([[1], [2]], "list"), ([{"u": 1}, None], "struct"), ([b"x", b"y"], "binary")]:
        table = pa.table({"n": [1, 2], "odd": column})
        said = refused("t.parquet", parquet(table))
        assert said.startswith(f"t.parquet: column 'odd' is of type {kind}")
        assert said.endswith("make numbers, truth values, texts or dates of it, or leave it out")
        assert open_table(written("t.parquet", parquet(table))).read(["n"])["n"].to_pylist() == [1, 2]


BOOK = io.BytesIO()
with zipfile.ZipFile(BOOK, "w") as archive:
    archive.writestr("xl/workbook.xml", "<workbook/>")
WIDE = "\n".join(["a,b", *["1,2"] * 3000])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "t.csv is empty, expected a table"),
        ("t.csv.gz", gzip.compress(b"", mtime=0), "t.csv.gz is empty, expected a table"),
        ("t.parquet", "", "t.parquet is empty, expected a table"),
        ("t.csv", "\n\n", "t.csv holds blank lines alone, expected a row of column names and rows of values"),
        ("t.csv", "a,b", "t.csv has column names but no rows"),
        ("t.csv", "a,b\n\n", "t.csv has column names but no rows"),
        ("t.csv", "a,b,a,c,b\n1,2,3,4,5\n", "t.csv: the column name 'a', 'b' is there more than once: give"),
        ("t.csv", "a, a\n1,2\n", "t.csv: the column name 'a' is there more than once: give"),
        ("t.csv", "a,b\n1,2\n3\n", "t.csv: the row in line 3 has 1 cell, expected 2 as in the first"),
        ("t.csv", "sep=;\na;b\n1;2\n3\n", "t.csv: the row in line 4 has 1 cell, expected 2 as in the first"),
        ("t.csv", 'a,b\n"x\ny",2\n\n3,4,5\n', "t.csv: the row in line 5 has 3 cells, expected 2 as in the first"),
        ("t.csv", f"{WIDE}\n1,2,3", "t.csv: the row in line 3002 has 3 cells, expected 2"),
        ("t.csv", f'{WIDE}\n"1,2\n' + "3,4\n" * 400_000, "t.csv: the row in line 3002 is too long: is a quote"),
        ("t.csv", b"a,b\n1\0,2\n", "t.csv holds NUL bytes: it is damaged, or no text"),
        ("t.csv", bytes(100), "t.csv holds NUL bytes: it is damaged, or no text"),
        ("t.csv", "<!DOCTYPE html><p>", "t.csv is a page or document of XML or HTML: save the table as CSV"),
        ("t.npz", npz(x_train=[1]), "t.npz is a file of numpy arrays: train on it without --target"),
        ("t.csv", BOOK.getvalue(), "t.csv is a zip archive, as Excel's .xlsx is: unpack it, or save the table as CSV"),
        ("t.csv", b"\xd0\xcf\x11\xe0\xa1", "t.csv is an old Excel or Word file: save the table as CSV"),
        ("t.csv.gz", gzip.compress(as_csv(), mtime=0)[:-9], "t.csv.gz cannot be read: Truncated compressed stream"),
        ("t.csv.zst", pa.compress(WIDE.encode(), "zstd", asbytes=True)[:-9], "t.csv.zst cannot be read: Truncated"),
        ("t.csv.bz2", bz2.compress(as_csv())[:-9], "t.csv.bz2 cannot be read: Truncated compressed stream"),
        ("t.parquet", as_csv(), "t.parquet is no Parquet file, whatever its name says, or it is damaged"),
        ("t.parquet", parquet(TABLE)[:-9], "t.parquet is truncated or damaged: Parquet magic bytes not found"),
        ("t.parquet.gz", gzip.compress(parquet(TABLE), mtime=0), "t.parquet.gz holds Parquet, which is not read"),
        ("t.parquet", parquet(TABLE.slice(0, 0)), "t.parquet has columns but no rows"),
        ("t.parquet", parquet(pa.table({})), "t.parquet has no columns"),
        ("t.arrow", feather(TABLE)[:-9], "t.arrow is truncated or damaged: Not an Arrow file"),
        ("t.arrow", ipc_stream(TABLE)[:-60], "t.arrow is truncated or damaged: Expected to be able to read"),
        ("t.arrow", feather(pa.table({"a": pa.array([2**40], pa.timestamp("s"))})),
         "t.arrow: column 'a' of type timestamp[s] cannot be read as timestamp[s] (a date is not of"),
        ("t.jsonl", "[1]\n", "t.jsonl begins with '[', expected one JSON object a line"),
        ("t.jsonl", "null\n", "t.jsonl: line 1 holds no JSON object, expected one such as"),
        ("t.jsonl", '{"a":1}\n\n{"a":\n', "t.jsonl: line 3 is no JSON: Expecting value"),
        ("t.jsonl", '{"a":1}\n' * 9 + '{"a":2}{"a":3}', "t.jsonl: line 10 is no JSON: Extra data"),
        ("t.jsonl", '{"a":1}\n\n{"a":"x"}\n', "t.jsonl: column 'a' in line 3 is a string, and a number before"),
        ("t.jsonl", '{"a":1,"a":2}\n', "t.jsonl: column 'a' in line 1 is there twice"),
        ("t.jsonl", '{"a":[1]}\n', "t.jsonl: column 'a' is of type list<"),
        ("t.jsonl", '{"a":' + "[" * 10_000 + "]" * 10_000 + "}", "t.jsonl: line 1 is nested more than"),
        ("t.jsonl", '{"a":' + "[" * 100 + "]" * 100 + "}", "t.jsonl: line 1 is nested more than 64 deep: write its"),
        ("t.jsonl", "{}\n", "t.jsonl has no columns"),
        ("t.jsonl", "\n \n", "t.jsonl has no rows"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 and value.isascii() else type(value).__name__,
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_in_one_line(name, content, message, refused):
    assert refused(name, content).startswith(message)


def test_json_lines_whose_types_differ_far_apart(written, refused, monkeypatch):
    monkeypatch.setattr("batchnorm.tables.files.jsonlines._BLOCK_BYTES", 1 << 12)
    many = '{"a":1}\n' * 2000
    table = open_table(written("t.jsonl", many + '{"a":1.5,"b":"x"}\n')).read()
    assert types(table) == ["double", "string"]
    assert table.slice(1999).to_pylist() == [{"a": 1.0, "b": None}, {"a": 1.5, "b": "x"}]
    said = refused("t.jsonl", many + '{"a":"x"}\n' * 1000)
    assert said.startswith("t.jsonl: column 'a' in line 2001 is a string, and a number before")
    said = refused("t.jsonl", '{"a":null}\n' * 2000 + '{"a":true}\n' * 2000 + '{"a":1}\n' * 2000)
    assert "column 'a'" in said


def test_texts_of_json_that_look_like_times_at_first_are_texts_however_far_apart(written, monkeypatch):
    monkeypatch.setattr("batchnorm.tables.files.jsonlines._BLOCK_BYTES", 1 << 12)
    lines = ['{"a":"2020-01-01"}\n'] * 2000
    for content in ([*lines, '{"a":"soon"}\n'], ['{"a":"soon"}\n', *lines]):
        table = open_table(written("t.jsonl", "".join(content))).read()
        assert types(table) == ["string"]
        assert set(table["a"].to_pylist()) == {"2020-01-01", "soon"}


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("t.csv", "a , b\n007,1\n010,2\n", ["007", "010"]),
        ("t.csv", "a,b\n1.10,1\n1.1,2\n", ["1.10", "1.1"]),
        ("t.csv", "a,b\nTrue,1\n,2\n", ["True", None]),
        ("t.csv", "a,b\n2020-01-01,1\n2020-01-02,2\n", ["2020-01-01", "2020-01-02"]),
        ("t.csv", "a,b\n,1\n,2\n", [None, None]),
        ("t.jsonl", '{"a":"2020-01-01","b":1}\n{"a":"2020-01-02","b":2}\n', ["2020-01-01", "2020-01-02"]),
    ],
)
def test_texts_may_look_like_anything_where_they_are_known_to_be_texts(name, content, texts, written, monkeypatch):
    path = written(name, content)
    assert types(open_table(path).read())[0] != "string"
    table = open_table(path, texts=["a", "other"]).read()
    assert types(table) == ["string", "int64"]
    assert table["a"].to_pylist() == texts
    if name == "t.csv":  # one whose types differ far apart
        monkeypatch.setattr("batchnorm.tables.files.delimited._BLOCK_BYTES", 1 << 6)
        table = open_table(written(name, content + "7,1\n" * 100 + "8,1.5\n"), texts=["a"]).read()
        assert types(table) == ["string", "double"]
        assert table["a"].to_pylist()[:2] == texts


def test_what_is_no_file_is_refused(tmp_path, written):
    os.mkfifo(tmp_path / "pipe.csv")
    for path, message in [
        (tmp_path, "is a folder, expected a file"),
        (tmp_path / "none.csv", "is missing"),
        (tmp_path / "pipe.csv", "is a pipe, expected a file"),
    ]:
        with pytest.raises(InputError, match=message):
            open_table(path)
    (tmp_path / "link.csv").symlink_to(written("t.csv", "a\n1\n"))
    assert open_table(tmp_path / "link.csv").read()["a"].to_pylist() == [1]


def test_columns_that_are_not_there_are_named(written):
    file = open_table(written("t.csv", "a,b\n1,2\n"))
    with pytest.raises(InputError, match=r"t.csv has no column 'c', 'd': it has 'a', 'b'"):
        file.read(["c", "a", "d"])


@pytest.mark.parametrize(("name", "content"), [("t.csv", WIDE.encode()), ("t.parquet", parquet(TABLE))])
def test_a_file_that_changes_is_refused(name, content, written):
    file = open_table(written(name, content))
    assert len(file.read())
    written(name, content + b"\n")
    for use in (file.read, file.fingerprint):
        with pytest.raises(InputError, match=r"has changed while it was read: try again when nobody writes to it"):
            use()


def test_a_file_that_changes_within_the_reading_is_refused(written):
    path = written("t.csv", "\n".join(["a,b", *["1,2"] * 600_000]))
    batches = open_table(path).batches()
    assert len(next(batches))
    with path.open("ab") as file:
        file.write(b"3,4\n")
    with pytest.raises(InputError, match="has changed while it was read"):
        list(batches)


def test_a_fingerprint_is_of_name_size_and_content(written):
    content = as_csv()
    assert open_table(written("t.csv", content)).fingerprint() == {
        "name": "t.csv",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


@pytest.fixture
def standard_input(monkeypatch):
    def give(content):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        return open_table(Path("-"))

    return give


def test_standard_input_is_read_once(standard_input, monkeypatch):
    for content in (as_csv(), gzip.compress(as_csv(), mtime=0), JSON.encode()):
        file = standard_input(content)
        assert file.names == ["n", "x", "text"]
        assert file.read().equals(TABLE)
        with pytest.raises(InputError, match="standard input can be read once"):
            file.read()
        with pytest.raises(InputError, match="standard input has no fingerprint"):
            file.fingerprint()
    with pytest.raises(InputError, match="standard input holds Parquet, which is not read from standard input"):
        standard_input(parquet(TABLE))
    with pytest.raises(InputError, match="standard input is empty"):
        standard_input(b"")


def test_standard_input_of_json_beyond_the_sample(standard_input, monkeypatch):
    monkeypatch.setattr("batchnorm.tables.files.sources.SAMPLE_BYTES", 1 << 10)
    table = standard_input(('{"a":1,"b":null}\n' * 500 + '{"a":2,"b":"late"}').encode()).read()
    assert table["b"].to_pylist() == [*[None] * 500, "late"]


def test_standard_input_beyond_the_sample(standard_input, monkeypatch):
    monkeypatch.setattr("batchnorm.tables.files.sources.SAMPLE_BYTES", 1 << 10)
    rows = [f"{i},,x" for i in range(3000)]
    table = standard_input("\n".join(["a,b,c", *rows, "1,late,y"]).encode()).read()
    assert table["a"].to_pylist() == [*range(3000), 1]
    assert table["b"].to_pylist()[-2:] == [None, "late"]
    with pytest.raises(InputError, match=r"column 'a': .*to int64: invalid value 'q': write it to a file first"):
        standard_input("\n".join(["a,b,c", *rows, "q,late,y"]).encode()).read()


def test_several_files_one_under_the_other(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "1.csv").write_text("a,b\n1,x\n")
    (folder / "2.jsonl").write_text('{"b":"y","a":2.5}\n')
    pa.parquet.write_table(pa.table({"a": pa.nulls(1), "b": pa.array(["z"]).dictionary_encode()}), folder / "3.parquet")
    (folder / "notes.md").write_text("not a table")
    (folder / ".hidden.csv").write_text("c\n1\n")
    assert [path.name for path in table_paths([folder])] == ["1.csv", "2.jsonl", "3.parquet"]
    assert read_tables([folder]).to_pydict() == {"a": [1.0, 2.5, None], "b": ["x", "y", "z"]}
    assert read_tables([folder / "1.csv", folder / "1.csv"]).to_pydict() == {"a": [1, 1], "b": ["x", "x"]}


def test_files_of_other_columns_are_named(tmp_path, written):
    first = written("1.csv", "a,b\n1,x\n")
    with pytest.raises(InputError, match=r"2.csv lacks 'b' and has 'c' besides, expected the columns of .*1.csv"):
        read_tables([first, written("2.csv", "a,c\n1,x\n")])
    message = r"2.csv: column 'a' is of type string, and of type int64 in .*1.csv: write both alike"
    with pytest.raises(InputError, match=message):
        read_tables([first, written("2.csv", "a,b\nq,x\n")])
    with pytest.raises(InputError, match="there is no file to read"):
        read_tables([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no tables: expected files such as .csv"):
        read_tables([tmp_path / "empty"])
    (tmp_path / "empty" / "out.csv").symlink_to(first)
    with pytest.raises(InputError, match=r"out.csv is a link out of its folder: give the file that it leads to"):
        read_tables([tmp_path / "empty"])


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".parquet", ".arrow"])
def test_memory_does_not_grow_with_the_file(suffix, tmp_path, monkeypatch):
    for module in ("delimited", "jsonlines"):
        monkeypatch.setattr(f"batchnorm.tables.files.{module}._BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr("batchnorm.tables.files.columnar.MOST_ROWS", 1000)
    rng = random.Random(0)
    batch = pa.record_batch({f"x{i}": pa.array([rng.random() for _ in range(1000)]) for i in range(10)})
    peaks = []
    for n_batches in (10, 40):
        path = tmp_path / f"{n_batches}{suffix}"
        with write_predictions(path) as writer:
            for _ in range(n_batches):
                writer.write(batch)
        before, n_rows, most = pa.total_allocated_bytes(), 0, 0
        for part in open_table(path).batches():
            most = max(most, pa.total_allocated_bytes() - before)
            n_rows += len(part)
        assert n_rows == n_batches * len(batch)
        peaks.append(most)
    assert peaks[1] - peaks[0] < 10 * batch.nbytes  # of 30 more


def test_without_pyarrow_reading_says_what_is_missing(tmp_path):
    code = "from batchnorm import tables\ntry: tables.open_table\nexcept ImportError as error: print(error)\n"
    printed, _ = run_afresh(code, tmp_path, missing=["pyarrow"])
    assert printed == (
        "tables of your own, and files of predictions, need pyarrow, charset-normalizer and scikit-learn: "
        "pip install 'batchnorm[tables]'\n"
    )


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl", "t.parquet", "t.arrow"])
def test_a_long_file_is_read_beside_a_bar(name, monkeypatch, tmp_path):
    path = write(pd.DataFrame({"a": range(500), "b": ["x", "y"] * 250}), tmp_path / name)
    plain = open_table(path).read()
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", screen)
    shown = open_table(path, show_progress=True)
    assert shown.read().equals(plain)
    assert not screen.getvalue()  # it is short
    monkeypatch.setattr("batchnorm.progress._LONG_FILE", 0)
    assert shown.read().equals(plain)
    assert shown.fingerprint() == open_table(path).fingerprint()
    assert f"reading {name}" in screen.getvalue()


def test_the_process_waits_for_what_pyarrows_threads_hold(written):
    """Else, now and then, a thread that lets go of a text after Python's end ends the process by a signal."""
    with pytest.raises(InputError, match="the row in line 3 has 1 cell"):
        open_table(written("t.csv", "a,b\n1,2\n3\n")).read()
    sources._wait_for_threads()
    assert not sources._given_up
    let_go = threading.Event()

    def hold(native):
        time.sleep(0.1)
        let_go.set()

    with sources.lent(io.BytesIO()) as native:
        threading.Thread(target=hold, args=(native,)).start()
    del native
    sources._wait_for_threads()
    assert let_go.is_set()
