"""Delimited text, CSV above all: a stream of batches whose types fit every row."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc

from batchnorm.errors import InputError
from batchnorm.tables.files.conversion import joined, open_ended
from batchnorm.tables.files.dialect import dialect_of, lines_of
from batchnorm.tables.files.encoding import encoding_with
from batchnorm.tables.files.sources import Source, UndecodableError, Unexpected, as_utf8, lent, told_of

_MISSING = [
    "", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "-NaN", "null", "NULL", "Null", "None", "?", "-", "#N/A",
    "#NA", "<NA>", "NaT",
]  # fmt: skip  # not "none", which is a class in many a table
_LONGEST_BLANK = 32  # a cell of as many spaces is missing, as one that is padded to a width
_TRUE, _FALSE = ["true", "True", "TRUE"], ["false", "False", "FALSE"]  # 1 and 0 are numbers
_BLOCK_BYTES = 1 << 20
_LARGEST_BLOCK = 1 << 26
_ROWS_IN_BLOCK = 4  # at least, of rows as long as those looked at
_Types = Mapping[str, pa.DataType]
_Open = Callable[[], AbstractContextManager[Any]]


class _MisfitError(Unexpected):
    """A value is not of the type that was recognised in the first block."""


class DelimitedText:
    """A delimited text.

    Parameters
    ----------
    source : Source
    encoding : str
    prefers_tab : bool, default False
        Whether the file's name says so.
    texts : collection of str
        Columns that are texts, whatever their cells look like: 007 is then not 7.
    day_first : bool, optional
        What 01/02/2020 means where the file's own dates do not tell.
    """

    kind = "delimited"

    def __init__(
        self,
        source: Source,
        encoding: str,
        *,
        prefers_tab: bool = False,
        texts: Collection[str] = (),
        day_first: bool | None = None,
    ):
        self._source, self._encoding = source, encoding
        text = as_utf8(io.BytesIO(source.sample), self._encoding, source.name)
        start = text_of(text, is_whole=source.is_whole)
        self._dialect = dialect_of(
            start, source.name, is_whole=source.is_whole, prefers_tab=prefers_tab, day_first=day_first
        )
        self._block = min(max(_BLOCK_BYTES, _ROWS_IN_BLOCK * self._dialect.row_length), _LARGEST_BLOCK)
        self._original = self._header(start)
        self._texts = [name for name, clean in zip(self._original, self.names, strict=True) if clean in texts]

    def _header(self, start: str) -> list[str]:
        lines = islice(lines_of(start), self._dialect.lines_above, None)
        row = next(row for row in csv.reader(lines, delimiter=self._dialect.delimiter) if row)
        check_names(_clean(row), self._source.name)
        return row

    @cached_property
    def names(self) -> list[str]:
        """The columns' names."""
        return _clean(self._original)

    @property
    def day_first(self) -> bool | None:
        """Whether 01/02/2020 is in February; None where nothing tells."""
        return self._dialect.day_first

    @property
    def note(self) -> str | None:
        """What was not as usual."""
        unusual = [] if self._encoding.startswith("utf-8") else [f"encoding {self._encoding}"]
        return ", ".join([*unusual, *self._dialect.notes]) or None

    @cached_property
    def schema(self) -> pa.Schema:
        """The types that every row fits; of a stream, those that its beginning fits."""
        try:
            return self._infer()
        except UndecodableError as error:
            if not self._encoding.startswith("utf-8"):
                raise self._undecodable() from error
            self._encoding = encoding_with(error.piece, self._source.name)
        try:
            return self._infer()
        except UndecodableError as error:
            raise self._undecodable() from error

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """Yield all rows."""
        originals = dict(zip(self.names, self._original, strict=True))
        types = {originals[field.name]: field.type for field in self.schema}
        chosen = None if columns is None else [originals[name] for name in columns]
        try:
            for batch in self._stream(self._open, types, chosen):
                yield batch.rename_columns(self.names if columns is None else list(columns))
        except _MisfitError as error:
            remedy = ": write it to a file first, of which all rows are looked at" if self._source.is_stream else ""
            raise InputError(f"{self._source.name}: {error}{remedy}") from error
        except UndecodableError as error:
            raise self._undecodable() from error

    def _open(self) -> AbstractContextManager[Any]:
        return self._source.text(self._encoding)

    def _infer(self) -> pa.Schema:
        opened = self._open_sample if self._source.is_stream else self._open
        names, types, n_rows = self._original, {}, 0
        try:
            for batch in self._stream(opened, dict.fromkeys(self._texts, pa.string())):
                n_rows += len(batch)
                types = dict(zip(batch.schema.names, batch.schema.types, strict=True))
        except _MisfitError:
            types = self._infer_by_block(opened)
        else:
            if not n_rows:
                raise InputError(f"{self._source.name} has column names but no rows")
        schema = pa.schema([(clean, types[name]) for clean, name in zip(self.names, names, strict=True)])
        return open_ended(schema) if self._source.is_stream else schema

    def _open_sample(self) -> AbstractContextManager[Any]:
        sample = self._source.sample
        if not self._source.is_whole:  # to the end of a row, in all likelihood
            sample = sample[: sample.rfind("\n".encode(self._encoding.removesuffix("-sig")).strip(b"\xff\xfe")) + 1]
        return nullcontext(as_utf8(io.BytesIO(sample), self._encoding, self._source.name))

    def _infer_by_block(self, opened: _Open) -> dict[str, pa.DataType]:
        """Read all as texts; have the types of each block recognised, and join them."""
        types = dict.fromkeys(self._original, pa.null()) | dict.fromkeys(self._texts, pa.string())
        for batch in self._stream(opened, dict.fromkeys(self._original, pa.string())):
            undecided = [name for name, found in types.items() if found != pa.string()]
            if not undecided:
                break
            again = io.BytesIO()
            pc.write_csv(batch.select(undecided), again)
            table = pc.read_csv(
                io.BytesIO(again.getvalue()),
                read_options=pc.ReadOptions(block_size=len(again.getvalue()) + 1),
                parse_options=pc.ParseOptions(newlines_in_values=True),
                convert_options=self._conversion({}),
            )
            for name in undecided:
                types[name] = joined(types[name], table.schema.field(name).type) or pa.string()
        return types

    def _conversion(self, types: _Types, columns: Sequence[str] | None = None) -> pc.ConvertOptions:
        return pc.ConvertOptions(
            check_utf8=False,  # the source has
            column_types=dict(types),
            null_values=_padded_marks(),
            true_values=_TRUE,
            false_values=_FALSE,
            decimal_point=self._dialect.decimal_point,
            strings_can_be_null=True,
            include_columns=None if columns is None else list(columns),
            timestamp_parsers=[pc.ISO8601, *self._dialect.time_formats],
        )

    def _stream(self, opened: _Open, types: _Types, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        name = self._source.name
        with told_of(name), opened() as text, lent(text) as native:
            try:
                reader = pc.open_csv(
                    native,
                    read_options=pc.ReadOptions(block_size=self._block, skip_rows=self._dialect.lines_above),
                    parse_options=pc.ParseOptions(delimiter=self._dialect.delimiter, newlines_in_values=True),
                    convert_options=self._conversion(types, columns),
                )
                if reader.schema.names != (self._original if columns is None else list(columns)):
                    raise InputError(f"{name}: its first row cannot be told from the others: write it anew, as CSV")
                yield from reader
            except pa.ArrowInvalid as error:
                raise self._in_words(error) from error

    def _in_words(self, error: Exception) -> Exception:
        said = str(error)
        if match := re.search(r"CSV column #(\d+): .*conversion error", said):
            return _MisfitError(f"column {self._original[int(match[1])]!r}: {said.partition(': ')[2]}")
        if not re.search(r"Expected \d+ columns|straddles", said) or self._source.is_stream:
            return error
        return InputError(f"{self._source.name}: {self._where() or said.splitlines()[0]}")

    def _where(self) -> str | None:
        """Say in which line the first row begins that has too many or too few cells."""
        expected, above = len(self._original), self._dialect.lines_above
        line = 1 + above
        with self._open() as text:
            lines = islice(io.TextIOWrapper(text, "utf-8", newline=""), above, None)
            rows = csv.reader(lines, delimiter=self._dialect.delimiter)
            try:
                for row in rows:
                    if row and len(row) != expected:
                        cells = "1 cell" if len(row) == 1 else f"{len(row)} cells"
                        return f"the row in line {line} has {cells}, expected {expected} as in the first"
                    line = rows.line_num + 1 + above
            except csv.Error:
                return f"the row in line {line} is too long: is a quote in it not closed?"
        return None

    def _undecodable(self) -> InputError:
        return InputError(f"{self._source.name} is {self._encoding} at first, and later not: save it as UTF-8")


def _padded_marks() -> list[str]:
    """Return what stands for missing, with the spaces that may stand around it."""
    marks = [before + mark + behind for mark in _MISSING for before in ("", " ") for behind in ("", " ") if mark]
    return [*marks, *(" " * n for n in range(_LONGEST_BLANK + 1))]


def text_of(sample: Any, *, is_whole: bool) -> str:
    """Return the text of a sample, whose last sign may be cut."""
    content = bytearray()
    try:
        while piece := sample.read1(1 << 18):
            content += piece
    except UndecodableError:
        if is_whole:
            raise
    return content.decode(errors="ignore")


def check_names(names: Sequence[str], of: str) -> None:
    """Check that no two columns have the same name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        listed = ", ".join(map(repr, twice[:5])) + (", …" if len(twice) > 5 else "")
        raise InputError(f"{of}: the column name {listed} is there more than once: give each column a name of its own")


def _clean(row: list[str]) -> list[str]:
    """Return names without space around them; nameless columns, such as an index, as pandas names them."""
    return [name.strip() or f"Unnamed: {place}" for place, name in enumerate(row)]
