"""What is in a table, seen before anything is learnt from it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

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
    table: "pa.Table", roles: dict[str, str], labels: Sequence[str] | None, dropped: Sequence[str]
) -> Profile:
    """Look a table over.

    Parameters
    ----------
    table : pyarrow.Table
    roles : dict of str to str
        What columns are that are no inputs, such as the target.
    labels : sequence of str, optional
        The class of each row.
    dropped : sequence of str
        What was not read.
    """
    import pyarrow.compute as pc

    frame = open_frame(table)
    assert frame is not None
    columns = []
    for column, name in zip(frame.columns, table.column_names, strict=True):
        cells = table[name]
        distinct = pc.count_distinct(cells.combine_chunks(), mode="only_valid").as_py()
        role = roles.get(name, "input")
        columns.append(ColumnProfile(name, kind_of(column), cells.null_count, distinct, role))
    classes = None
    if labels is not None:
        counts: dict[str, int] = {}
        for label in labels:
            counts[label] = counts.get(label, 0) + 1
        classes = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return Profile(table.num_rows, tuple(columns), classes, tuple(dropped))
