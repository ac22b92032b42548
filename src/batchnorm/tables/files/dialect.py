"""How a delimited text is written: delimiter, decimal point and dates, recognised in its first rows."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from batchnorm.errors import InputError

DELIMITERS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
_ROWS = 1000
_COMMA_NUMBER = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*")
_POINT_NUMBER = re.compile(r"\s*[+-]?\d*\.\d+([eE][+-]?\d+)?\s*")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_DAY_AND_MONTH = re.compile(r"(\d{1,2})([/-])(\d{1,2})\2\d{4}(?:[ T]\d{1,2}:\d\d(?::\d\d)?)?")
_DECLARED = re.compile(r'"?sep=([^\w"])"?\r?\n', re.IGNORECASE)  # a line above the names, for spreadsheets
_CLOCKS = ("", " %H:%M", " %H:%M:%S")


@dataclass(frozen=True)
class Dialect:
    """How a delimited text is written.

    Parameters
    ----------
    delimiter, decimal_point : str
    time_formats : tuple of str
        Those of dates that are not ISO 8601.
    day_first : bool or None
        Whether 01/02/2020 is in February; None where nothing tells.
    lines_above : int
        Lines above that of the column names.
    row_length : int
        Characters of the longest row that was looked at.
    notes : tuple of str
        What a user should know of it.
    """

    delimiter: str
    decimal_point: str
    time_formats: tuple[str, ...]
    day_first: bool | None
    lines_above: int
    row_length: int
    notes: tuple[str, ...]


def dialect_of(text: str, name: str, *, is_whole: bool, prefers_tab: bool, day_first: bool | None = None) -> Dialect:
    """Recognise how a text is written.

    Parameters
    ----------
    text : str
        Its beginning, or all of it.
    name : str
        Of the file, for errors.
    is_whole : bool
        Whether it is all.
    prefers_tab : bool
        Whether the file's name says so.
    day_first : bool, optional
        What 01/02/2020 means where its own dates do not tell.

    Raises
    ------
    InputError
        If it has no rows, or a first row that cannot be one of names.
    """
    declared = _DECLARED.match(text)
    text = text[declared.end() :] if declared else text
    delimiter = declared[1] if declared else _delimiter(text, is_whole, prefers_tab)
    rows, ends = _rows(text, delimiter, is_whole)
    if not rows:
        what = "holds blank lines alone" if ends else "begins with a row that is too long: is a quote not closed? It"
        raise InputError(f"{name} {what}, expected a row of column names and rows of values")
    if ends and len(rows) == 1:
        raise InputError(f"{name} has column names but no rows")
    names, cells = rows[0], [cell for row in rows[1:] for cell in row]
    decimal_comma = delimiter != "," and _has_decimal_commas(cells)
    formats, day_first, note = _time_formats(cells, day_first)
    notes = [f"delimiter {DELIMITERS.get(delimiter, repr(delimiter))}"] if delimiter not in (",", "\t") else []
    notes += ["decimal comma"] if decimal_comma else []
    notes += [note] if note else []
    if all(_NUMBER.fullmatch(cell) for cell in names):
        notes.append("its first row, which is read as column names, holds numbers alone")
    return Dialect(
        delimiter=delimiter,
        decimal_point="," if decimal_comma else ".",
        time_formats=formats,
        day_first=day_first,
        lines_above=1 if declared else 0,
        row_length=max(sum(map(len, row)) + len(row) for row in rows),
        notes=tuple(notes),
    )


def _rows(text: str, delimiter: str, is_whole: bool) -> tuple[list[list[str]], bool]:
    """Return the first rows that are not blank, without one that the sample cuts, and whether they are all."""
    rows: list[list[str]] = []
    try:
        for row in csv.reader(lines_of(text), delimiter=delimiter):
            if len(rows) > _ROWS:
                return rows[:-1], False
            if row:
                rows.append(row)
    except csv.Error:  # a cell that never ends: found, with its line, where the file is read
        return rows, False
    return (rows, True) if is_whole else (rows[:-1], False)


def lines_of(text: str) -> Iterator[str]:
    """Yield lines as `csv.reader` needs them, whichever sign ends them."""
    return iter(io.StringIO(text, newline=""))


def _delimiter(text: str, is_whole: bool, prefers_tab: bool) -> str:
    """Return the delimiter by which most of the rows have as many cells as the first, two at least."""
    best, best_score = "\t" if prefers_tab else ",", (0.0, 0)
    for delimiter in ("\t", ",", ";", "|") if prefers_tab else DELIMITERS:
        sizes = [len(row) for row in _rows(text, delimiter, is_whole)[0]]
        if not sizes or sizes[0] < 2:
            continue
        score = (round(Counter(sizes)[sizes[0]] / len(sizes), 1), sizes[0])
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _has_decimal_commas(cells: list[str]) -> bool:
    commas = sum(bool(_COMMA_NUMBER.fullmatch(cell)) for cell in cells if "," in cell)
    return commas > 0 and not any(_POINT_NUMBER.fullmatch(cell) for cell in cells if "." in cell)


def _time_formats(cells: list[str], day_first: bool | None) -> tuple[tuple[str, ...], bool | None, str | None]:
    """Return the formats of dates in a text, which number of 01/02/2020 is the day, and what to say if none tells."""
    found = [match for cell in cells if (match := _DAY_AND_MONTH.fullmatch(cell.strip()))]
    first, second = (max((int(match[group]) for match in found), default=0) for group in (1, 3))
    both = first > 12 and second > 12
    if found and (first > 12 or second > 12):
        day_first = None if both else first > 12
    dates, note = ["%Y/%m/%d", "%d.%m.%Y"], None
    if day_first is not None:
        dates += [f"%d{sign}%m{sign}%Y" if day_first else f"%m{sign}%d{sign}%Y" for sign in "-/"]
    elif found and not both:
        note = f"dates such as {found[0][0]} stay texts, as either number may be the month: write them as 2020-12-31"
    return tuple(date + clock for date in dates for clock in _CLOCKS), day_first, note
