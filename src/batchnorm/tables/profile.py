"""What is in a table, seen before anything is learnt from it."""

from collections.abc import Callable, Mapping, Sequence
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


@dataclass(frozen=True)
class ColumnProfile:
    """One column: what it holds, how many cells are missing, how many different values it has, what it is for."""

    name: str
    kind: str
    missing: int
    distinct: int
    role: str


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
    return ColumnProfile(name, kind_of(frame.columns[0]), cells.null_count, len(distinct(cells)), role)
