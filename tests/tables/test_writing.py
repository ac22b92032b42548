"""Predictions are written wholly or not at all, in every format, to files and to standard output."""

import datetime
import gc
import io
import json
import os
import stat

import pyarrow as pa
import pytest

from batchnorm.errors import InputError
from batchnorm.tables import open_table, write_predictions

BATCHES = [
    pa.record_batch(
        {
            "class": pa.array(classes).dictionary_encode(),
            "probability": pa.array([0.75, float("nan")]),
            "text": ['one, "two"', "three\nlines"],
        }
    )
    for classes in (["a", None], ["b", "a"])
]


def write(path, kind=None):
    with write_predictions(path, kind) as writer:
        for batch in BATCHES:
            writer.write(batch)


@pytest.mark.parametrize(
    "name", ["p.csv", "p.tsv", "p.txt.bz2", "p.csv.gz", "p.csv.zst", "p.jsonl", "p.ndjson.gz", "p.parquet", "p.feather"]
)
def test_what_was_written_is_read(name, tmp_path):
    write(tmp_path / name)
    read = open_table(tmp_path / name).read().to_pydict()
    assert read["class"] == ["a", None, "b", "a"]
    assert read["text"] == ['one, "two"', "three\nlines"] * 2
    assert [value if value == value else None for value in read["probability"]] == [0.75, None] * 2
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_the_text_of_csv_and_json_lines(tmp_path):
    batch = pa.record_batch({"n": [1, None], "day": [datetime.date(2020, 1, 2), None], "x": [float("inf"), 0.5]})
    for name in ("p.csv", "p.jsonl"):
        with write_predictions(tmp_path / name) as writer:
            writer.write(batch)
    assert (tmp_path / "p.csv").read_text() == '"n","day","x"\n1,2020-01-02,inf\n,,0.5\n'
    assert (tmp_path / "p.jsonl").read_text() == (
        '{"n": 1, "day": "2020-01-02", "x": null}\n{"n": null, "day": null, "x": 0.5}\n'
    )


def write_and_fail(path):
    there = path.exists()
    with write_predictions(path) as writer:
        writer.write(BATCHES[0])
        assert len(list(path.parent.iterdir())) == 1 + there
        raise ZeroDivisionError


@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz", "p.jsonl", "p.parquet", "p.arrow"])
def test_an_error_leaves_what_was_there(name, tmp_path):
    path = tmp_path / name
    for before in (None, b"earlier"):
        if before:
            path.write_bytes(before)
        with pytest.raises(ZeroDivisionError):
            write_and_fail(path)
        assert [file.read_bytes() for file in tmp_path.iterdir()] == ([before] if before else [])


def test_a_file_is_replaced_with_its_mode_and_links_are_followed(tmp_path):
    path, link = tmp_path / "p.csv", tmp_path / "link.csv"
    path.write_text("earlier")
    path.chmod(0o600)
    link.symlink_to(path)
    write(link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith('"class"')


def test_where_nothing_can_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for name, message in [
        ("p.xlsx", r"p.xlsx does not say by its suffix how to write it, expected one of .csv, .jsonl, .parquet"),
        ("p", "does not say by its suffix"),
        ("p.parquet.gz", r"a parquet file is compressed within: leave .gz out"),
        ("none/p.csv", "there is no folder"),
        ("folder.csv", "is a folder, expected the name of a file to write"),
    ]:
        with pytest.raises(InputError, match=message), write_predictions(tmp_path / name):
            pytest.fail("opened")
    write(tmp_path / "p", "jsonlines")
    assert open_table(tmp_path / "p").kind == "jsonlines"


@pytest.mark.parametrize("kind", [None, "jsonlines"])
def test_standard_output(kind, monkeypatch):
    output = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr("sys.stdout", output)
    write(None, kind)
    gc.collect()
    lines = output.buffer.getvalue().decode()
    if kind:
        assert [json.loads(line)["class"] for line in lines.splitlines()] == ["a", None, "b", "a"]
    else:
        assert lines.startswith('"class","probability","text"\n"a",0.75,"one, ""two"""\n')


def test_a_pipe_that_ends_is_an_error_of_pipes(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as broken:  # noqa: PTH123
        monkeypatch.setattr("sys.stdout", broken)
        try:
            with pytest.raises(BrokenPipeError):
                write(None)
        finally:  # as its end writes too
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, writing)
            os.close(null)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write(tmp_path / "p.csv")
    assert caught.value.filename == str(tmp_path / "p.csv")
    assert not list(tmp_path.iterdir())


def test_rows_of_other_columns_are_refused(tmp_path):
    with write_predictions(tmp_path / "p.csv") as writer:
        writer.write(BATCHES[0])
        with pytest.raises(InputError, match=r"rows with the columns 'class' \(string\) do not go under 'class'"):
            writer.write(BATCHES[0].select(["class"]))
