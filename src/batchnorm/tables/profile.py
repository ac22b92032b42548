"""What is in a table, seen before anything is learnt from it."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.inputs import kind_of, open_frame
from batchnorm.printing import printable
from batchnorm.results import Result

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_CLASSES_SHOWN = 12
_LONGEST_SHOWN = 40
_LOOKED_AT = 10_000  # different texts
_FEWEST_NUMBERS = 10  # different ones, beside which a text is a misfit; fewer are codes, as are those that begin with 0
_AS_NUMBER = re.compile(
    r"\W*(?!0\d)(\d{1,3}([,.' ]\d{3})*|\d+)([.,]\d+)?(e[+-]?\d+)?\W*|\W*\.\d+(e[+-]?\d+)?\W*", re.IGNORECASE
)


@dataclass(frozen=True)
class ColumnProfile:
    """One column.

    Parameters
    ----------
    name : str
    kind : str
        What it holds.
    missing, distinct : int
        How many cells are missing, and how many different values it has.
    role : str
        What it is for.
    misfit : str, optional
        Of texts most of which look like numbers: one that is none.
    """

    name: str
    kind: str
    missing: int
    distinct: int
    role: str
    misfit: str | None


@dataclass(frozen=True)
class Profile(Result):
    """A table before the training.

    Parameters
    ----------
    rows : int
    columns : tuple of ColumnProfile
    classes : dict of str to int, or None
        How many rows each class has, the most frequent first.
    dropped : tuple of str
        Columns that were not looked at.
    """

    rows: int
    columns: tuple[ColumnProfile, ...]
    classes: dict[str, int] | None
    dropped: tuple[str, ...]

    def notices(self) -> Iterator[str]:
        """Yield what the user should know."""
        for column in self.columns:
            if column.kind == "empty" and column.role == "input":
                yield f"column {column.name!r} is missing in every row: nothing is learnt from it"
            if column.misfit is not None:
                yield (
                    f"column {column.name!r} is read as texts, though most of its values look like numbers: "
                    f"{_shortened(column.misfit)} is none; leave such cells empty, or write them as 1234.5"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON knows."""
        columns = [asdict(column) for column in self.columns]
        return {"rows": self.rows, "columns": columns, "classes": self.classes, "dropped": list(self.dropped)}

    def __str__(self) -> str:
        width = max(len(printable(column.name)) for column in self.columns)
        lines = [f"{self.rows:,} rows, {len(self.columns)} columns"]
        for column in self.columns:
            missing = f", {column.missing:,} missing" if column.missing else ""
            role = "" if column.role == "input" else f"  ({column.role})"
            name = printable(column.name).ljust(width)
            lines.append(f"  {name}  {column.kind}, {column.distinct:,} different{missing}{role}")
        if self.dropped:
            lines.append(f"dropped: {', '.join(map(printable, self.dropped))}")
        if self.classes is not None:
            shown = [f"{printable(name)} {n / self.rows:.1%}" for name, n in self.classes.items()]
            more = len(shown) - _MOST_CLASSES_SHOWN
            rest = [f"{more} more"] if more > 0 else []
            lines.append(f"classes: {', '.join(shown[:_MOST_CLASSES_SHOWN] + rest)}")
        return "\n".join(lines)


def profile_of(
    names: Sequence[str],
    column_named: "Callable[[str], pa.ChunkedArray]",
    roles: Mapping[str, str],
    classes: NDArray[Any] | None,
    dropped: Sequence[str],
) -> Profile:
    """Look a table over, a column at a time.

    Parameters
    ----------
    names : sequence of str
        The columns' names.
    column_named : callable
        Returns one of them.
    roles : mapping of str to str
        What columns are that are no inputs, such as the target.
    classes : array, optional
        The class of each row, shape (rows,), or labels, shape (rows, labels), which are not counted.
    dropped : sequence of str
        What was not read.
    """
    profiles, n_rows = [], 0
    for name in names:
        cells = column_named(name)
        n_rows = len(cells)
        profiles.append(_profile_of(name, cells, roles.get(name, "input")))
    counts = None
    if classes is not None and classes.ndim == 1:
        values, sizes = np.unique(classes, return_counts=True)
        named = zip(map(str, values.tolist()), sizes.tolist(), strict=True)
        counts = dict(sorted(named, key=lambda item: (-item[1], item[0])))
    return Profile(n_rows, tuple(profiles), counts, tuple(dropped))


def _profile_of(name: str, cells: "pa.ChunkedArray", role: str) -> ColumnProfile:
    import pyarrow as pa

    from batchnorm.tables.files import distinct

    frame = open_frame(pa.table({name: cells}))
    assert frame is not None
    kind, values = kind_of(frame.columns[0]), distinct(cells)
    misfit = _misfit(values) if kind == "text" else None
    return ColumnProfile(name, kind, cells.null_count, len(values), role, misfit)


def _misfit(texts: NDArray[Any]) -> str | None:
    """Return a text that is no number, if most of them look like numbers."""
    some = texts[:_LOOKED_AT]
    if sum(map(_looks_like_number, some)) < max(_FEWEST_NUMBERS, len(some) / 2):
        return None
    wrong = next((text for text in texts if not _looks_like_number(text)), None)  # rather than what is 1,234 or 5 %
    return next((text for text in texts if not _is_number(text)), None) if wrong is None else wrong


def _looks_like_number(text: str) -> bool:
    return _AS_NUMBER.fullmatch(text) is not None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _shortened(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…")
