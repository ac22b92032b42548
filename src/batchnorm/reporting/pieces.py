"""What a page is made of: sections of sentences, figures, pictures and tables, which the template lays out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Parameters
    ----------
    name : str
        Of its file.
    title, description : str
        What it is, and what is to be seen in it, in words.
    draw : callable
        Draws it.
    caption : str
        What a reader has to know besides.
    """

    name: str
    title: str
    description: str
    draw: "Callable[[], Figure]"
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """A table; what stands in it is text, whatever it is.

    Parameters
    ----------
    caption : str
    columns : sequence of str
    rows : sequence of sequence of str
    numbers : collection of int
        Which columns hold numbers.
    folded : bool, default False
        Whether a reader has to open it.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """An example that is an image: as a ``data:`` address, with its size on the page and what is said of it."""

    address: str
    width: int
    height: int
    alternative: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own."""

    anchor: str
    title: str
    lines: Sequence[str] = ()
    notices: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    pictures: Sequence[Picture] = ()
    about_pictures: str = ""
    tables: Sequence[Table] = ()
    command: str | None = None
    after: Sequence[str] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.lines or self.notices or self.drawings or self.pictures or self.tables or self.command)


@dataclass(frozen=True)
class Story:
    """All that a page tells of a run.

    Parameters
    ----------
    title : str
    summary : sequence of str
        Sentences.
    sections : sequence of Section
    notices : sequence of str
        What a reader must know before believing the rest.
    headline : dict
        The figures that say most, for whoever wrote the page.
    """

    title: str
    summary: Sequence[str]
    sections: Sequence[Section]
    notices: Sequence[str] = ()
    headline: dict[str, Any] = field(default_factory=dict)


def listed(words: Iterable[str], last: str = "and") -> str:
    """Return words as a sentence lists them."""
    *first, final = words
    return f"{', '.join(first)} {last} {final}" if first else final


def percent(share: float, digits: int = 1) -> str:
    """Return a share as a sentence has it."""
    return f"{100 * share:.{digits}f} %"


def number(value: Any) -> str:
    """Return a number as a table has it; one that is not there, or several, too."""
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(number, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def plural(n: int, one: str, several: str | None = None) -> str:
    """Return a count with its noun."""
    return f"{n:,} {one if n == 1 else several or f'{one}s'}"
