"""Parquet and Arrow (Feather) files: typed already, and read in pieces."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchnorm.errors import InputError
from batchnorm.tables.files.sources import Source, told_of

_MOST_CELLS = 1 << 22  # of a batch
MOST_ROWS = 1 << 16
_DAMAGED = "is truncated or damaged"


class ParquetTable:
    """A Parquet file."""

    kind = "parquet"
    note = None
    day_first = None

    def __init__(self, source: Source):
        self._source = source
        with told_of(source.name, _DAMAGED), source.raw() as file:
            opened = self._opened(file)
            self.schema, n_rows = opened.schema_arrow, opened.metadata.num_rows
            self.names = [str(name) for name in self.schema.names]
        _check_size(source, self.schema, n_rows)

    def _opened(self, file: Any) -> pq.ParquetFile:
        return pq.ParquetFile(file, page_checksum_verification=True)

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """Yield all rows."""
        names = self.names if columns is None else list(columns)
        size = min(MOST_ROWS, max(1, _MOST_CELLS // max(1, len(names))))
        with told_of(self._source.name, _DAMAGED), self._source.raw() as file:
            for batch in self._opened(file).iter_batches(size, columns=names):
                batch.validate(full=True)
                yield batch.select(names)


class ArrowTable:
    """An Arrow file, Feather of version 2 among them, or a stream of Arrow's that was written to a file."""

    kind = "arrow"
    note = None
    day_first = None

    def __init__(self, source: Source):
        self._source = source
        with told_of(source.name, _DAMAGED), source.raw() as file:
            reader, n_batches = self._opened(file)
            self.schema = reader.schema
            self.names = [str(name) for name in self.schema.names]
        _check_size(source, self.schema, n_batches)

    def _opened(self, file: Any) -> tuple[Any, int | None]:
        native = pa.PythonFile(file, mode="r")
        if self._source.sample.startswith(b"ARROW1"):
            reader = pa.ipc.open_file(native)
            return reader, reader.num_record_batches
        return pa.ipc.open_stream(native), None

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """Yield all rows."""
        names = self.names if columns is None else list(columns)
        with told_of(self._source.name, _DAMAGED), self._source.raw() as file:
            reader, n_batches = self._opened(file)
            every = reader if n_batches is None else (reader.get_batch(i) for i in range(n_batches))
            for batch in every:
                batch.validate(full=True)  # before anything else: what it claims of its memory may be wrong
                for start in range(0, len(batch), MOST_ROWS):
                    yield batch.select(names).slice(start, MOST_ROWS)


def _check_size(source: Source, schema: pa.Schema, n_rows: int | None) -> None:
    if not len(schema):
        raise InputError(f"{source.name} has no columns")
    if n_rows == 0:
        raise InputError(f"{source.name} has columns but no rows")
