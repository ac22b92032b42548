"""Tables of users' own, of every kind that is read, behind one face."""

import hashlib
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from batchnorm.errors import InputError
from batchnorm.tables.files.columnar import ArrowTable, ParquetTable
from batchnorm.tables.files.conversion import convert, joined, shown, usable_schema
from batchnorm.tables.files.delimited import DelimitedText, check_names, text_of
from batchnorm.tables.files.encoding import encoding_of
from batchnorm.tables.files.jsonlines import JsonLines
from batchnorm.tables.files.recognition import IN_WORDS, TEXTUAL, kind_by_content, kind_by_name, kind_of_text
from batchnorm.tables.files.sources import Source, UndecodableError, as_utf8

_LOOKED_AT = 1 << 12


class _Reader(Protocol):
    kind: str

    @property
    def names(self) -> list[str]: ...

    @property
    def note(self) -> str | None: ...

    @property
    def day_first(self) -> bool | None: ...

    @property
    def schema(self) -> pa.Schema: ...

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]: ...


@dataclass(frozen=True)
class TableFile:
    """A table in a file, which `open_table` makes.

    Parameters
    ----------
    path : Path
        "-" is standard input, which can be read once.
    """

    path: Path
    _source: Source
    _reader: _Reader
    _by_name: str | None

    @property
    def kind(self) -> str:
        """What it is: "delimited", "jsonlines", "parquet" or "arrow"."""
        return self._reader.kind

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return self._reader.names

    @property
    def note(self) -> str | None:
        """What the user should know of how it was recognised, such as "encoding cp1252, delimiter ';'", or None."""
        renamed = self._by_name not in (None, self.kind)
        notes = [f"{IN_WORDS[self.kind]} by its content"] if renamed else []
        return ", ".join([*notes, *([self._reader.note] if self._reader.note else [])]) or None

    @property
    def day_first(self) -> bool | None:
        """Whether 01/02/2020 is in February; None where nothing tells."""
        return self._reader.day_first

    @cached_property
    def schema(self) -> pa.Schema:
        """The types that the columns are read as: of a text those that every row fits, for which all of it is read.

        A column of a type that is not read, such as a list, has it here, and may not be asked for.
        """
        return usable_schema(self._reader.schema)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the rows, some thousands at a time, in memory that does not grow with the file.

        Parameters
        ----------
        columns : sequence of str, optional
            Those to read, in this order; by default all.

        Raises
        ------
        InputError
            If it is damaged, changes while it is read, lacks a column, or has one of a type that is not read.
        """
        known = set(self.names)
        if columns is not None and (lacking := [name for name in columns if name not in known]):
            raise InputError(
                f"{self._source.name} has no column {', '.join(map(repr, lacking))}: it has {_listed(self.names)}"
            )
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        for batch in self._reader.batches(columns):
            yield convert(batch, schema, self._source.name)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows as one table; parameters and errors as of `batches`."""
        schema = self.schema if columns is None else None
        batches = list(self.batches(columns))
        return pa.Table.from_batches(batches, schema if not batches else None).unify_dictionaries()

    def fingerprint(self) -> dict[str, Any]:
        """Return by what the file is found again: its "name", how many "bytes" it has, and their "sha256"."""
        if self._source.is_stream:
            raise InputError("standard input has no fingerprint: write it to a file first")
        with self._source.raw() as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"name": self.path.name, "bytes": file.tell(), "sha256": digest}


def open_table(
    path: Path, *, texts: Collection[str] = (), day_first: bool | None = None, show_progress: bool = False
) -> TableFile:
    """Recognise what kind of table a file holds, and how it is written.

    Parameters
    ----------
    path : Path
        "-" is standard input, from which delimited text and JSON lines are read.
    texts : collection of str
        Columns that a file of text has texts in, whatever these look like: of a file that is to go with another one.
    day_first : bool, optional
        What 01/02/2020 means in a file whose own dates do not tell.
    show_progress : bool, default False
        Whether to show a bar when it is read.

    Raises
    ------
    InputError
        If it is no regular file, empty, or of no kind that is read.
    """
    source = Source(path, show_progress)
    by_name = None if source.is_stream else kind_by_name(path)
    kind = kind_by_content(source.sample, source.name)
    if kind is not None:
        if source.is_stream or source.compression is not None:
            where = "standard input" if source.is_stream else "a compressed file"
            raise InputError(
                f"{source.name} holds {IN_WORDS[kind]}, which is not read from {where}: "
                + ("give the file" if source.is_stream else "unpack it, as it is compressed within")
            )
        reader: _Reader = ParquetTable(source) if kind == "parquet" else ArrowTable(source)
    else:
        reader = _text_reader(source, path, by_name, texts, day_first)
    check_names(reader.names, source.name)
    return TableFile(path, source, reader, by_name)


def _text_reader(
    source: Source, path: Path, by_name: str | None, texts: Collection[str], day_first: bool | None
) -> _Reader:
    if by_name is not None and by_name not in TEXTUAL:
        raise InputError(f"{source.name} is no {IN_WORDS[by_name]} file, whatever its name says, or it is damaged")
    encoding = encoding_of(source.sample, source.name, is_whole=source.is_whole)
    start = as_utf8(io.BytesIO(source.sample[:_LOOKED_AT]), encoding, source.name)
    try:
        if kind_of_text(text_of(start, is_whole=False), by_name, source.name) == "jsonlines":
            return JsonLines(source, encoding, texts)
        return DelimitedText(source, encoding, prefers_tab=".tsv" in path.suffixes, texts=texts, day_first=day_first)
    except UndecodableError as error:
        raise InputError(f"{source.name} is not {encoding} throughout: save it as UTF-8") from error


def table_paths(paths: Sequence[Path]) -> list[Path]:
    """Return files as they are, and for a folder those of its files whose names are of tables, by name.

    Raises
    ------
    InputError
        If a folder has none, or a link of it leads out of it.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(file for file in path.iterdir() if file.name[0] not in "._" and kind_by_name(file))
        if not inside:
            raise InputError(f"{path} holds no tables: expected files such as .csv, .parquet or .jsonl")
        for file in inside:
            if not file.resolve().is_relative_to(path.resolve()):
                raise InputError(f"{file} is a link out of its folder: give the file that it leads to")
        found += inside
    return found


def read_tables(paths: Sequence[Path], drop: Sequence[str] = ()) -> pa.Table:
    """Return the rows of several files of the same columns, one under the other; parameters and errors as `rows_of`."""
    schema, batches = rows_of(paths, drop)
    return pa.Table.from_batches(batches, schema).unify_dictionaries()


def day_first_of(paths: Sequence[Path]) -> bool | None:
    """Return whether 01/02/2020 is in February by the dates of files; None where nothing tells, or they differ."""
    told = {open_table(path).day_first for path in paths} - {None}
    return told.pop() if len(told) == 1 else None


def rows_of(
    paths: Sequence[Path],
    drop: Sequence[str] = (),
    *,
    texts: Collection[str] = (),
    day_first: bool | None = None,
    show_progress: bool = False,
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the columns of several files that have the same ones, and their rows, one file's after the other's.

    Parameters
    ----------
    paths : sequence of Path
        Files, and folders of files.
    drop : sequence of str
        Columns that are not read, whatever they hold.
    texts : collection of str
        As of `open_table`.
    day_first : bool, optional
        As `open_table`.
    show_progress : bool, default False
        Whether to show a bar for each file.

    Raises
    ------
    InputError
        As `open_table`; or if one has other columns than the first, or values that do not go with those of another.
    """
    files = [
        open_table(path, texts=texts, day_first=day_first, show_progress=show_progress) for path in table_paths(paths)
    ]
    if not files:
        raise InputError("there is no file to read")
    schema = _common_schema(files, drop)
    return schema, (convert(batch, schema, str(file.path)) for file in files for batch in file.batches(schema.names))


def _common_schema(files: Sequence[TableFile], drop: Sequence[str]) -> pa.Schema:
    first, *others = files
    types = {field.name: field.type for field in first.schema if field.name not in drop}
    of = dict.fromkeys(types, first.path)
    for file in others:
        _check_same_columns(first, file)
        for field in (field for field in file.schema if field.name in types):
            both = joined(types[field.name], field.type)
            if both is None:
                here, there = shown(field.type), shown(types[field.name])
                raise InputError(
                    f"{file.path}: column {field.name!r} is of type {here}, and of type {there} in {of[field.name]}: "
                    "write both alike"
                )
            if both != types[field.name]:
                types[field.name], of[field.name] = both, file.path
    return pa.schema(list(types.items()))


def _check_same_columns(first: TableFile, file: TableFile) -> None:
    expected, found = set(first.names), set(file.names)
    lacking = [name for name in first.names if name not in found]
    surplus = [name for name in file.names if name not in expected]
    if lacking or surplus:
        parts = [f"lacks {_listed(lacking)}"] if lacking else []
        parts += [f"has {_listed(surplus)} besides"] if surplus else []
        raise InputError(f"{file.path} {' and '.join(parts)}, expected the columns of {first.path}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
