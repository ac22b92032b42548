"""Text that a terminal can be given: what comes from files and names is shown, never obeyed."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from batchnorm.files import json_ready

# Of an absolute path, whose parts may hold spaces, all but the last part.
_FOLDERS = re.compile(r"""(?<![^\s'"(])(?:[A-Za-z]:)?[\\/](?=\S)(?:[^\\/\n:;,]*[^\s\\/:;,][\\/])*""")


def printable(text: object) -> str:
    r"""Return text on one line, with escapes for what a terminal would obey or hide.

    These are control characters (of colour, cursor and title), ends of lines, and what changes the direction of text:
    whatever `str.isprintable` excludes.

    Examples
    --------
    >>> print(printable("a\x1b[31m\nb"))
    a\x1b[31m\nb
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def printable_lines(text: object) -> str:
    """Return text with its ends of lines as they are, and the rest `printable`."""
    return "\n".join(map(printable, str(text).split("\n")))


def without_folders(text: str) -> str:
    """Return a message with only the last part of each absolute path in it: folders tell who somebody is.

    Examples
    --------
    >>> without_folders("trained on /home/me/my data/x.csv, which is not there")
    'trained on x.csv, which is not there'
    """
    return _FOLDERS.sub("", text)


def evenly_chosen(n: int, most: int) -> list[int]:
    """Return at most so many (2 or more) of n places, evenly, the first and the last among them: of what is too long.

    Examples
    --------
    >>> evenly_chosen(10, 4), evenly_chosen(3, 4)
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return [round(i * (n - 1) / (most - 1)) for i in range(most)] if n > most else list(range(n))


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines whose columns are below each other.

    Examples
    --------
    >>> aligned([("layer", "units"), ("0", "300")])
    ['layer  units', '0      300']
    """
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in cells]


def json_text(value: Any) -> str:
    """Return JSON for a terminal or a pipe: strict, and of ASCII alone, which every encoding has."""
    text = json.dumps(json_ready(value), indent=2, allow_nan=False)
    return text.replace("\x7f", "\\u007f")  # the one control character that json leaves
