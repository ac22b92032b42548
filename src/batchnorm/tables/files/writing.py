"""Predictions, written row by row as they come: wholly, or not at all."""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from batchnorm.errors import InputError
from batchnorm.files import json_ready, writing_atomically
from batchnorm.tables.files.recognition import COMPRESSIONS, kind_by_name

_SUFFIXES = {"delimited": ".csv", "jsonlines": ".jsonl", "parquet": ".parquet", "arrow": ".arrow"}


class Writer(Protocol):
    """What takes rows."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Write rows, of the same columns as those before."""

    def close(self) -> None:
        """Write what belongs at the end."""


@contextmanager
def write_predictions(path: Path | None, kind: str | None = None) -> Iterator[Writer]:
    """Open a file, or standard output, for rows; the file appears when the block ends, and not if it raises.

    Parameters
    ----------
    path : Path or None
        None, or "-", is standard output.
    kind : {"delimited", "jsonlines", "parquet", "arrow"}, optional
        By default what the suffix says: .csv, .tsv, .jsonl, .parquet, .arrow and those alike, texts also with .gz,
        .zst or .bz2 behind it; on standard output "delimited".

    Raises
    ------
    InputError
        If the suffix says nothing, or the file cannot be written there.
    """
    if path is None or str(path) == "-":
        yield from _written(_Lent(sys.stdout.buffer), kind or "delimited", ",")
        sys.stdout.buffer.flush()
        return
    kind = kind or kind_by_name(path)
    if kind is None:
        known = ", ".join(_SUFFIXES.values())
        raise InputError(f"{path} does not say by its suffix how to write it, expected one of {known}")
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is not None and kind in ("parquet", "arrow"):
        raise InputError(f"{path}: a {kind} file is compressed within: leave {path.suffix} out")
    with writing_atomically(path) as file:
        delimiter = "\t" if ".tsv" in path.suffixes else ","
        if compression is None:
            yield from _written(_Lent(file), kind, delimiter)
        else:
            with pa.CompressedOutputStream(pa.PythonFile(_Lent(file), mode="w"), compression) as packed:
                yield from _written(packed, kind, delimiter)


def _written(file: Any, kind: str, delimiter: str) -> Iterator[Writer]:
    writer: Writer = _JsonLines(file) if kind == "jsonlines" else _Columns(file, kind, delimiter)
    try:
        yield writer
    except BaseException:
        with suppress(Exception):  # what is written of it is removed
            writer.close()
        raise
    writer.close()


class _Lent(io.RawIOBase):
    """A file that pyarrow may close without closing it."""

    def __init__(self, file: Any):
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._file.write(content)
        return len(content)


class _Columns:
    """Rows for one of pyarrow's writers, which is made when the columns are known."""

    def __init__(self, file: Any, kind: str, delimiter: str):
        self._file, self._kind, self._delimiter = file, kind, delimiter
        self._writer: Any = None
        self._schema: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        batch = batch if self._kind == "parquet" else _without_levels(batch)
        if self._writer is None:
            self._writer, self._schema = self._make(batch.schema), batch.schema
        if batch.schema != self._schema:  # which ends the process in pyarrow's writer of CSV
            raise InputError(f"rows with the columns {_listed(batch.schema)} do not go under {_listed(self._schema)}")
        self._writer.write_batch(batch)

    def _make(self, schema: pa.Schema) -> Any:
        if self._kind == "parquet":
            return pa.parquet.ParquetWriter(self._file, schema)
        if self._kind == "arrow":
            return pa.ipc.new_file(self._file, schema)
        options = pa.csv.WriteOptions(delimiter=self._delimiter, quoting_style="needed")
        return pa.csv.CSVWriter(self._file, schema, write_options=options)

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


class _JsonLines:
    """Rows as objects of JSON; what is missing, NaN or infinite is null."""

    def __init__(self, file: Any):
        self._file = file

    def write(self, batch: pa.RecordBatch) -> None:
        lines = [json.dumps(json_ready(row), ensure_ascii=False, default=str) for row in batch.to_pylist()]
        self._file.write("".join(f"{line}\n" for line in lines).encode())

    def close(self) -> None:
        pass


def _listed(schema: pa.Schema) -> str:
    return ", ".join(f"{name!r} ({kind})" for name, kind in zip(schema.names, schema.types, strict=True))


def _without_levels(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch with categories as the texts that they are: CSV has none, Arrow files none that grow."""
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
