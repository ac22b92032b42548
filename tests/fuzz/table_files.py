"""Damaged tables of every kind are read or refused in one line: `cd tests && python -m fuzz.table_files`."""

import datetime
import gzip
import io
import random
import tempfile
import warnings
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet

from batchnorm.errors import InputError
from batchnorm.inputs import open_frame
from batchnorm.tables import open_table
from fuzz.mutations import main, mutate, one_line
from table_cases import TABLES

_MOST_ROWS = 2**20  # some hundred bytes of Parquet may claim any number of equal values
_WITHIN = 2**28  # bytes of a batch
_SIGNS = [b",", b";", b"\t", b"|", b'"', b"\n", b"\r", b"\r\n", b"{", b"[", b":", b"\xe9", b"\xff\xfe", b"'", b"1e999"]


def check(count: int, seed: int) -> dict[str, int]:
    """Read `count` damaged files; return how many were read and refused."""
    rng, ended = random.Random(seed), {"read": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            suffix, content = _damaged(rng)
            path = Path(folder) / f"table{i % 8}{suffix}"
            path.write_bytes(content)
            try:
                ended[_read(path)] += 1
            except BaseException:
                print(f"{path.name}: {content!r}")
                raise
            path.unlink()
    return ended


def _damaged(rng: random.Random) -> tuple[str, bytes]:
    make, suffix = rng.choice([(_delimited, ".csv"), (_json, ".jsonl"), (_parquet, ".parquet"), (_arrow, ".feather")])
    content = make(_table(rng), rng)
    if make in (_delimited, _json):
        for _ in range(rng.randint(0, 3)):
            place = rng.randint(0, len(content))
            content = content[:place] + rng.choice(_SIGNS) + content[place + rng.randint(0, 2) :]
        packed = rng.random()
        if packed < 0.15:
            return suffix + ".gz", mutate(gzip.compress(content, 1), rng)
        if packed < 0.3:
            return suffix + ".zst", mutate(pa.compress(content, "zstd", asbytes=True), rng)
    if rng.random() < 0.1:
        suffix = rng.choice([".csv", ".tsv", ".parquet", ".feather", ".jsonl", ".dat", ".csv.gz"])
    return suffix, mutate(content, rng) if rng.random() < 0.7 else content


@cache
def _real_tables() -> list[pa.Table]:
    """Return the first rows of the tables that other packages ship."""
    return [pa.Table.from_pandas(load().head(30), preserve_index=False) for load, *_ in TABLES.values()]


def _table(rng: random.Random) -> pa.Table:
    if rng.random() < 0.4:
        return rng.choice(_real_tables())
    n_rows = rng.choice([1, 2, 5, 30])
    texts = ["red", "green", "a, b", 'the "one"', "Zürich", "two\nlines", "", None, "?"]
    columns = {
        "n": pa.array([rng.choice([1, -5, 10**12, None]) for _ in range(n_rows)], pa.int64()),
        "x": pa.array([rng.choice([0.5, -1e300, float("nan"), None]) for _ in range(n_rows)], pa.float64()),
        "text": pa.array([rng.choice(texts) for _ in range(n_rows)], pa.string()),
        "day": pa.array([datetime.date(2020, 1, 1 + i) for i in range(n_rows)]),
        "when": pa.array([datetime.datetime(2020, 1, 1, i % 24) for i in range(n_rows)]),
        "flag": pa.array([rng.choice([True, False, None]) for _ in range(n_rows)]),
        "level": pa.array([rng.choice(["a", "b", None]) for _ in range(n_rows)], pa.string()).dictionary_encode(),
    }
    names = rng.sample(sorted(columns), rng.randint(1, len(columns)))
    return pa.table({name: columns[name] for name in names})


def _delimited(table: pa.Table, rng: random.Random) -> bytes:
    file = io.BytesIO()
    plain = pa.table([_plain(column) for column in table.columns], names=table.column_names)
    pa.csv.write_csv(plain, file, pa.csv.WriteOptions(delimiter=rng.choice(",;\t|"), quoting_style="needed"))
    text = file.getvalue().decode()
    return text.encode(rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"]))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _json(table: pa.Table, rng: random.Random) -> bytes:
    import json

    rows = [{key: value for key, value in row.items() if rng.random() < 0.9} for row in table.to_pylist()]
    return "".join(json.dumps(row, default=str) + "\n" for row in rows).encode()


def _parquet(table: pa.Table, rng: random.Random) -> bytes:
    file = io.BytesIO()
    pa.parquet.write_table(
        table,
        file,
        compression=rng.choice(["none", "snappy", "zstd", "gzip", "lz4"]),
        use_dictionary=rng.random() < 0.5,
        data_page_version=rng.choice(["1.0", "2.0"]),
        write_page_checksum=rng.random() < 0.2,
        row_group_size=rng.choice([3, 1000]),
    )
    return file.getvalue()


def _arrow(table: pa.Table, rng: random.Random) -> bytes:
    file = io.BytesIO()
    if rng.random() < 0.3:
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    else:
        pa.feather.write_feather(table, file, compression=rng.choice(["uncompressed", "lz4", "zstd"]))
    return file.getvalue()


def _read(path: Path) -> str:
    try:
        with warnings.catch_warnings(action="error"):
            file = open_table(path)
            assert (file.note or "").isprintable(), file.note
            n_rows = 0
            for batch in file.batches():
                assert batch.nbytes < _WITHIN
                assert batch.schema == file.schema
                n_rows += len(batch)
                open_frame(pa.table(batch))
                for column in batch.slice(0, 100).columns:
                    if not pa.types.is_duration(column.type):  # Python has none of a million years
                        column.to_pylist()
                if n_rows > _MOST_ROWS:
                    break
    except InputError as error:
        return one_line(error)
    return "read"


if __name__ == "__main__":
    main(check, __doc__)
