"""What results show in a notebook: pieces of HTML, built as a tree, which escapes whatever it is given.

They bring neither a style sheet nor colours: a notebook shows them as it shows all tables, light or dark.
Whatever is long is cut, and says so: who wants all of it prints it.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from xml.etree import ElementTree

from batchnorm.printing import printable

Element = ElementTree.Element

MOST_ROWS = 30  # of a table
_MOST_LINES = 30
_LEFT = {"style": "text-align: left"}  # notebooks have numbers in mind
_MARK = {"style": "background: rgba(255, 160, 0, 0.2)"}  # on light and on dark


def element(tag: str, *content: Element | str, **attributes: str) -> Element:
    """Return an element of HTML with texts and elements in it, in this order."""
    new = Element(tag, {name.replace("_", "-"): printable(value) for name, value in attributes.items()})
    for piece in content:
        if isinstance(piece, Element):
            new.append(piece)
        elif len(new):
            new[-1].tail = (new[-1].tail or "") + piece
        else:
            new.text = (new.text or "") + piece
    return new


def html(*content: Element) -> str:
    """Return elements as text, in one that scrolls to the side where they are wide."""
    whole = element("div", *content, style="overflow-x: auto")
    return ElementTree.tostring(whole, encoding="unicode", method="html")


def lines(text: str) -> list[Element]:
    """Return a text as an element per line, the first in bold."""
    first, *others = _cut_lines(text)
    return [element("div", element("b", first)), *(element("div", other) for other in others)]


def preformatted(text: str) -> Element:
    """Return a text as it would be printed."""
    return element("pre", "\n".join(_cut_lines(text)))


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    words: Collection[str] = (),
    marked: Sequence[bool] = (),
    most: int = MOST_ROWS,
) -> Element:
    """Return a table; of many rows the first and the last.

    Parameters
    ----------
    columns : sequence of str
    rows : iterable of sequences of str
        A cell per column.
    words : collection of str, optional
        The columns that hold words. They begin at the left, as does the first column, which names the rows.
    marked : sequence of bool, optional
        Which rows something is wrong with.
    most : int
        How many rows it has at most, besides one that says how many were left out.
    """
    styles = [_LEFT if i == 0 or column in words else {} for i, column in enumerate(columns)]
    head = (element("th", cut(column), **style) for column, style in zip(columns, styles, strict=True))
    cells = list(rows)
    body = [_row(row, styles, mark) for row, mark in zip(cells, marked or [False] * len(cells), strict=True)]
    if len(body) > most:
        n_last = most // 3
        left_out = f"… {len(body) - most:,} more …"
        between = element("tr", element("td", left_out, colspan=str(len(columns)), **_LEFT))
        body = [*body[: most - n_last], between, *body[len(body) - n_last :]]
    return element("table", element("thead", element("tr", *head)), element("tbody", *body))


def captioned_table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: Collection[str] = ()
) -> str:
    """Return the HTML of a `table` below a text."""
    return html(*lines(caption), table(columns, rows, words=words))


def cut(text: str, most: int = 300) -> str:
    """Return a text on one line, without its end if it has more letters."""
    return printable(text if len(text) <= most else f"{text[:most]}…")


def enumerated(names: Iterable[str], most: int = 10) -> str:
    """Return names with commas between them; of many the first.

    Examples
    --------
    >>> enumerated("abcde", most=3)
    'a, b, c, …'
    """
    there = iter(names)
    first = [cut(name) for name in islice(there, most)]
    return ", ".join([*first, "…"] if next(there, None) is not None else first)


def _row(cells: Sequence[str], styles: Sequence[dict[str, str]], marked: bool) -> Element:
    written = (element("td", cut(cell), **style) for cell, style in zip(cells, styles, strict=True))
    return element("tr", *written, **(_MARK if marked else {}))


def _cut_lines(text: str) -> list[str]:
    found = text.split("\n")
    more = [f"… {len(found) - _MOST_LINES:,} more lines: print it"] if len(found) > _MOST_LINES else []
    return [*map(cut, found[:_MOST_LINES]), *more]
