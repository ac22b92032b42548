"""JSON lines: one object a line, in batches of types that every line fits."""

import io
import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.json as pj

from batchnorm.errors import InputError
from batchnorm.tables.files.conversion import joined, open_ended, shown
from batchnorm.tables.files.sources import Source, UndecodableError, as_utf8, told_of

_BLOCK_BYTES = 1 << 20
_LONGEST_LINE = 1 << 26
_MOST_NESTED = 64  # levels: at some thousands pyarrow ends the process
_LINE = re.compile(rb"^.*\S", re.MULTILINE)
# A line that is neither blank nor looks like an object: at some of these pyarrow ends the process too.
_NO_OBJECT = re.compile(rb"^(?![ \t\r]*(?:\{.*\}[ \t\r]*)?$)", re.MULTILINE)
_NESTED = re.compile(rb"(?:[\[{][^\[\]{}\n]*){%d}" % _MOST_NESTED)


class JsonLines:
    """A file of JSON lines.

    Parameters
    ----------
    source : Source
    encoding : str
    texts : collection of str
        Columns whose texts stay texts, though all of them look like times.
    """

    kind = "jsonlines"
    day_first = None  # texts of such dates stay texts

    def __init__(self, source: Source, encoding: str, texts: Collection[str] = ()):
        self._source, self._encoding, self._texts = source, encoding, texts

    @property
    def names(self) -> list[str]:
        """The names of all columns: not every line must have each."""
        return list(self.schema.names)

    @property
    def note(self) -> str | None:
        """What was not as usual."""
        return None if self._encoding.startswith("utf-8") else f"encoding {self._encoding}"

    @cached_property
    def schema(self) -> pa.Schema:
        """The types that every line fits; of a stream, those that its beginning fits."""
        types: dict[str, pa.DataType] = {}
        n_rows = 0
        for line, block in self._blocks(self._open_sample() if self._source.is_stream else self._open()):
            table = self._table(line, block, pj.ParseOptions())
            n_rows += len(table)
            for field in table.schema:
                looks_like_times = pa.types.is_timestamp(field.type)
                kind = pa.string() if looks_like_times and field.name in self._texts else field.type
                both = _joined(types.get(field.name, pa.null()), kind)
                if both is None:
                    raise InputError(
                        f"{self._source.name}: column {field.name!r} holds {shown(types[field.name])} at first, and "
                        f"{shown(field.type)} from line {line} on or shortly after: write all its values alike"
                    )
                types[field.name] = both
        if not n_rows or not types:
            raise InputError(f"{self._source.name} has no {'columns' if n_rows else 'rows'}")
        schema = pa.schema(list(types.items()))
        return open_ended(schema) if self._source.is_stream else schema

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """Yield all rows."""
        names = self.names if columns is None else list(columns)
        explicit = pa.schema([self.schema.field(name) for name in names])
        options = pj.ParseOptions(explicit_schema=explicit, unexpected_field_behavior="ignore")
        for line, block in self._blocks(self._open()):
            table = self._table(line, block, options)
            yield from table.select(names).to_batches()

    def _open(self) -> AbstractContextManager[Any]:
        return self._source.text(self._encoding)

    def _open_sample(self) -> AbstractContextManager[Any]:
        text = as_utf8(io.BytesIO(self._source.sample), self._encoding, self._source.name)
        if self._source.is_whole:
            return nullcontext(text)
        content = text.read()
        return nullcontext(io.BytesIO(content[: content.rfind(b"\n") + 1]))

    def _blocks(self, opened: AbstractContextManager[Any]) -> Iterator[tuple[int, bytes]]:
        """Yield pieces of whole lines, each with the number of its first."""
        line, rest = 1, b""
        try:
            with told_of(self._source.name), opened as text:
                while piece := text.read(_BLOCK_BYTES):
                    end = piece.rfind(b"\n") + 1
                    if not end:
                        rest += piece
                        if len(rest) > _LONGEST_LINE:
                            raise InputError(f"{self._source.name}: line {line} is longer than 64 MB")
                        continue
                    block, rest = rest + piece[:end], piece[end:]
                    if not block.isspace():
                        yield line, block
                    line += block.count(b"\n")
                if rest.strip():
                    yield line, rest
        except UndecodableError as error:
            raise InputError(f"{self._source.name} is not {self._encoding} throughout: save it as UTF-8") from error

    def _table(self, line: int, block: bytes, options: pj.ParseOptions) -> pa.Table:
        with told_of(self._source.name):
            looks_sound, n_rows = _look_at(block)
            if not looks_sound:
                _check_lines(line, block, self._source.name)
            try:
                table = pj.read_json(
                    pa.BufferReader(block),
                    read_options=pj.ReadOptions(block_size=len(block) + 1),
                    parse_options=options,
                )
                if len(table) != n_rows:  # two in a line, or a null behind one
                    _check_lines(line, block, self._source.name)
                return table
            except pa.ArrowInvalid as error:
                _check_lines(line, block, self._source.name)
                raise InputError(f"{self._source.name}: {_where(line, block, str(error))}") from error


def _joined(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both: texts that look like times are texts, beside others."""
    quoted = [pa.types.is_string(kind) or pa.types.is_timestamp(kind) for kind in (one, other)]
    return joined(one, other) or (pa.string() if all(quoted) else None)


def _look_at(block: bytes) -> tuple[bool, int]:
    """Return whether each line looks like an object that is not nested deeply, and how many are not blank."""
    n_lines = block.count(b"\n") + (not block.endswith(b"\n"))
    n_begun = block.startswith(b"{") + block.count(b"\n{")
    n_ended = block.endswith(b"}") + block.count(b"}\n")
    if n_lines == n_begun == n_ended:  # as programs write them
        is_flat = b"[" not in block and block.count(b"{") == n_lines
        return is_flat or not _NESTED.search(block), n_lines
    return not (_NO_OBJECT.search(block) or _NESTED.search(block)), len(_LINE.findall(block))


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        inner = [list(part.values()) if isinstance(part, dict) else part for part in level]
        level = [one for part in inner if isinstance(part, list) for one in part if isinstance(one, dict | list)]
    return depth


def _check_lines(line: int, block: bytes, name: str) -> None:
    """Check with Python's own reader, which is slower, that each line is an object."""
    for number, text in enumerate(block.decode().split("\n"), line):
        if not text or text.isspace():
            continue
        too_deep = f"{name}: line {number} is nested more than {_MOST_NESTED} deep: write its values flat"
        try:
            found = json.loads(text)
        except ValueError as error:
            raise InputError(f"{name}: line {number} is no JSON: {error}") from error
        except RecursionError as error:
            raise InputError(too_deep) from error
        if _depth(found) > _MOST_NESTED:
            raise InputError(too_deep)
        if not isinstance(found, dict):
            raise InputError(f'{name}: line {number} holds no JSON object, expected one such as {{"column": 1}}')


def _where(line: int, block: bytes, said: str) -> str:
    """Say in which line, and of which column, is what pyarrow does not read."""
    numbers = [number for number, text in enumerate(block.split(b"\n"), line) if text.strip()]
    match = re.search(r"Column\(/(.*)\) (?:changed from (\w+) to (\w+)|was specified (twice)) in row (\d+)", said)
    if match is None or int(match[5]) >= len(numbers):
        return said.removeprefix("JSON parse error: ")
    where = f"column {match[1]!r} in line {numbers[int(match[5])]}"
    return (
        f"{where} is there twice" if match[4] else f"{where} is a {match[3]}, and a {match[2]} before: write all alike"
    )
