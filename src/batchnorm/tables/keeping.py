"""Where the rows of a training are kept: in memory or, if they are too many for it, in a scratch file."""

import os
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchnorm.data import scratch_file
from batchnorm.inputs import StoredFrame, store_frame
from batchnorm.memory import bytes_in_words
from batchnorm.tables.files import rows_of
from batchnorm.tables.splitting import Rows

IN_MEMORY = 2**29  # bytes of rows, as pyarrow has them
BLOCK_BYTES = 2**24  # of the file that are read at once


class InMemory:
    """Rows in memory.

    Parameters
    ----------
    table : pyarrow.Table
    """

    def __init__(self, table: pa.Table):
        self._table, self.schema = table, table.schema
        self.names, self.n_rows = table.column_names, table.num_rows

    def column(self, name: str, rows: Rows) -> pa.ChunkedArray:
        """Return some rows of a column."""
        return self.frame([name], rows)[name]

    def frame(self, names: Sequence[str], rows: Rows) -> pa.Table:
        """Return some rows of some columns."""
        columns = self._table.select(list(names))
        return columns if len(rows) == self.n_rows else columns.take(pa.array(rows))


class OnDisk:
    """Rows in a scratch file.

    Parameters
    ----------
    schema : pyarrow.Schema
    batches : iterator of pyarrow.RecordBatch
        Of that schema.
    folder : Path
        Where the file is made.
    """

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch], folder: Path):
        self.names, self.folder, self.schema = schema.names, folder, schema
        self._gaps = dict.fromkeys(schema.names, 0)
        self._starts = [0]
        # A file of Arrow's has one dictionary of categories, and that of all rows is not known yet.
        self._stored = pa.schema([(field.name, _plain(field.type)) for field in schema])
        self._file = scratch_file(folder, lambda file: self._write(file, batches))
        weakref.finalize(self, self._file.close)

    def _write(self, file: BinaryIO, batches: Iterator[pa.RecordBatch]) -> None:
        with _again(file, "wb") as native, pa.ipc.new_file(native, self._stored) as writer:
            for batch in _blocks(self._stored, batches):
                writer.write_batch(batch)
                self._starts.append(self._starts[-1] + batch.num_rows)
                for name, column in zip(self.names, batch.columns, strict=True):
                    self._gaps[name] += column.null_count

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self._starts[-1]

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return self._file.seek(0, 2)

    def column(self, name: str, rows: Rows) -> pa.ChunkedArray:
        """Return some rows of a column, in their order in the table."""
        chunks = [batch.column(0) for batch in self.batches([name], rows)]
        column = pa.chunked_array(chunks, self._stored.field(name).type)
        kind = self.schema.field(name).type
        return column.dictionary_encode() if pa.types.is_dictionary(kind) else column

    def frame(self, names: Sequence[str], rows: Rows) -> StoredFrame:
        """Return some rows of some columns, in their order in the table."""
        return store_frame(_SomeRows(self, list(names), rows))

    def outline(self, names: Sequence[str]) -> pa.Table:
        """Return some columns without rows."""
        return pa.schema([self.schema.field(name) for name in names]).empty_table()

    def has_gaps(self, name: str, rows: Rows) -> bool:
        """Tell whether a cell of some rows of a column is missing."""
        return self._gaps[name] > 0 and self.column(name, rows).null_count > 0

    def batches(self, names: Sequence[str], rows: Rows) -> Iterator[pa.RecordBatch]:
        """Yield some rows of some columns, categories as texts, in their order in the table."""
        places = sorted(self.names.index(name) for name in names)
        options = pa.ipc.IpcReadOptions(included_fields=places)
        with _again(self._file, "rb") as native, pa.ipc.open_file(native, options=options) as reader:
            for i, (start, stop) in enumerate(pairwise(self._starts)):
                inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)] - start
                if len(inside):  # a copy, or a column would keep the memory of all
                    yield reader.get_batch(i).select(list(names)).take(pa.array(inside))


class _SomeRows:
    """What a `StoredFrame` reads: some rows of some columns."""

    def __init__(self, kept: OnDisk, names: list[str], rows: Rows):
        self._kept, self._names, self._rows = kept, names, rows
        self.n_rows, self.folder, self.outline = len(rows), kept.folder, kept.outline(names)

    @cached_property
    def has_gaps(self) -> bool:
        return any(self._kept.has_gaps(name, self._rows) for name in self._names)

    def column(self, place: int) -> pa.Table:
        name = self._names[place]
        return pa.table({name: self._kept.column(name, self._rows)})

    def blocks(self) -> Iterator[pa.Table]:
        for batch in self._kept.batches(self._names, self._rows):
            yield pa.Table.from_batches([batch])


@dataclass(frozen=True)
class Reading:
    """How tables are read.

    Parameters
    ----------
    folder : Path
        Where a scratch file is made for rows that take more than `IN_MEMORY`.
    tell : callable
        Is told of that file.
    day_first : bool, optional
        What 01/02/2020 means in a file whose own dates do not tell.
    show_progress : bool
        Whether to show a bar for each long file.
    """

    folder: Path
    tell: Callable[[str], None] = lambda _: None
    day_first: bool | None = None
    show_progress: bool = False


def keep_rows(
    paths: Sequence[Path], drop: Sequence[str], how: Reading, texts: Collection[str] = ()
) -> InMemory | OnDisk:
    """Read the rows of files, and keep them where there is room.

    Parameters
    ----------
    paths : sequence of Path
        Tables of the same columns, or a folder of such.
    drop : sequence of str
        Columns to leave out.
    how : Reading
    texts : collection of str
        Columns that are read as texts, whatever these look like.

    Raises
    ------
    InputError
        If a file is not what it should be, or they have different columns.
    """
    schema, batches = rows_of(paths, drop, texts=texts, day_first=how.day_first, show_progress=how.show_progress)
    known = (_with_gaps(batch) for batch in batches)
    begun, n_bytes = deque[pa.RecordBatch](), 0
    for batch in known:
        begun.append(batch)
        n_bytes += batch.nbytes
        if n_bytes > IN_MEMORY:
            break
    else:
        return InMemory(pa.Table.from_batches(list(begun), schema).unify_dictionaries())
    where = f"a scratch file in {how.folder}, which is removed in the end"
    how.tell(f"the rows take more than {bytes_in_words(IN_MEMORY)} of memory: they go to {where}")
    drained = (begun.popleft() for _ in range(len(begun)))
    kept = OnDisk(schema, chain(drained, known), how.folder)
    pa.default_memory_pool().release_unused()
    how.tell(f"the scratch file has {kept.n_rows:,} rows in {bytes_in_words(kept.n_bytes)}")
    return kept


def _with_gaps(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows in which NaN is a missing number, in whatever file it stood."""
    columns = [
        pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _blocks(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield batches of some size: those of a reader may be small."""
    begun: list[pa.RecordBatch] = []
    n_bytes = 0
    for batch in batches:
        plain = [
            column.cast(field.type) if pa.types.is_dictionary(column.type) else column
            for column, field in zip(batch.columns, schema, strict=True)
        ]
        begun.append(pa.RecordBatch.from_arrays(plain, schema=schema))
        n_bytes += begun[-1].nbytes
        if n_bytes > BLOCK_BYTES:
            yield from pa.Table.from_batches(begun, schema).combine_chunks().to_batches()
            begun, n_bytes = [], 0
    if begun:
        yield from pa.Table.from_batches(begun, schema).combine_chunks().to_batches()


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


@contextmanager
def _again(file: BinaryIO, mode: str) -> Iterator[pa.PythonFile]:
    """Open a file once more: pyarrow closes what it is given as it pleases."""
    with os.fdopen(os.dup(file.fileno()), mode) as other:
        yield pa.PythonFile(other, mode=mode[0])
