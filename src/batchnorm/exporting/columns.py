"""What the columns of a frame become, as torch modules: `Columns.transform` without its reading.

Columns come in groups, each a matrix (batch, columns), so that the graph of a hundred of them is as short as that of
one: numbers, texts, and times of each zone. Texts come as numbers; what turns them into such is in `graphs`, as torch
has none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from batchnorm.exporting.calendar import DAY, days_of, month_of, zone_offsets
from batchnorm.inputs import PARTS, Column, Columns, Numbers, Texts, Times

MISSING_TIME = -(2**63)  # numpy's NaT
_YEAR = 365.2425 * DAY
_HOUR = 3_600_000_000
Place = tuple[int, int] | None  # which column of a frame, and which of those that it becomes; None: it is not needed


def used(columns: Columns) -> list[Any]:
    """Return what was learnt of those columns that become something."""
    return [learnt for learnt in columns.learnt if learnt.names()]


def keys_of(learnt: Texts) -> list[str]:
    """Return the texts that are told apart."""
    return list(dict.fromkeys([*learnt.values, *learnt.known]))


@dataclass(frozen=True)
class Group:
    """Columns that are read together.

    Parameters
    ----------
    kind : type
        `Numbers`, `Texts` or `Times`.
    zone : str or None
        Of times.
    places : list of int
        Where they are among the columns that are used.
    """

    kind: type
    zone: str | None
    places: list[int]


def groups(columns: Columns) -> list[Group]:
    """Return the groups of a frame's columns."""
    found: dict[tuple[type, str | None], list[int]] = {}
    for i, learnt in enumerate(used(columns)):
        found.setdefault((type(learnt), getattr(learnt, "zone", None)), []).append(i)
    return [Group(kind, zone, places) for (kind, zone), places in found.items()]


class FromColumns(nn.Module):
    """The groups of a frame's columns (batch, columns), each as its reader takes it, as one table of numbers."""

    order: Tensor

    def __init__(self, columns: Columns):
        super().__init__()
        learnt, made = used(columns), {Numbers: FromNumbers, Texts: FromTexts, Times: FromTimes}
        readers = [made[group.kind]({i: learnt[i] for i in group.places}) for group in groups(columns)]
        self.readers = nn.ModuleList(readers)
        self.dtype = torch.float64 if columns.double else torch.float32
        at = {place: i for i, place in enumerate(place for reader in readers for place in reader.makes)}
        wanted = [at[i, j] for i, each in enumerate(learnt) for j in range(len(each.names()))]
        self.register_buffer("order", torch.tensor(wanted))

    def forward(self, matrices: Sequence[Tensor]) -> Tensor:
        """Return numbers (batch, columns)."""
        found = [part for reader, matrix in zip(self.readers, matrices, strict=True) for part in reader(matrix)]
        return torch.cat(found, 1).index_select(1, self.order).to(self.dtype)


class FromTable(nn.Module):
    """A table of numbers (batch, columns), of which some become something."""

    places: Tensor

    def __init__(self, columns: Columns):
        super().__init__()
        self.reader = FromColumns(columns)
        self.register_buffer("places", torch.tensor([i for i, learnt in enumerate(columns.learnt) if learnt.names()]))

    def forward(self, table: Tensor) -> Tensor:
        """Return numbers (batch, columns)."""
        read: Tensor = self.reader([table.index_select(1, self.places)])
        return read


class FromNumbers(nn.Module):
    """Columns of numbers, NaN where one is missing."""

    medians: Tensor

    def __init__(self, learnt: dict[int, Numbers]):
        super().__init__()
        self.makes: list[Place] = [(i, 0) if each.varies else None for i, each in learnt.items()]
        self.makes += [(i, int(each.varies)) if each.missing else None for i, each in learnt.items()]
        self.register_buffer("medians", _double([each.median for each in learnt.values()]))

    def forward(self, numbers: Tensor) -> list[Tensor]:
        """Return the numbers, filled, and which of them were missing."""
        gaps = numbers.isnan()
        return [torch.where(gaps, self.medians, numbers.double()), gaps.double()]


class FromTimes(nn.Module):
    """Columns of microseconds since 1970, in UTC or, where there is no zone, of the clock."""

    center: Tensor
    year: Tensor
    hour: Tensor
    instants: Tensor
    offsets: Tensor
    medians: Tensor

    def __init__(self, learnt: dict[int, Times]):
        super().__init__()
        times = list(learnt.values())
        self.parts = [part for part in PARTS if any(part in each.parts for each in times)]
        self.makes: list[Place] = [
            (i, each.parts.index(part)) if part in each.parts else None
            for part in self.parts
            for i, each in learnt.items()
        ]
        self.makes += [(i, len(each.parts)) if each.missing else None for i, each in learnt.items()]
        instants, offsets = zone_offsets(times[0].zone)
        self.register_buffer("center", torch.tensor([each.center for each in times]))
        self.register_buffer("instants", torch.tensor(instants, dtype=torch.int64))
        self.register_buffer("offsets", torch.tensor(offsets)[:, None])
        for part in self.parts:
            medians = (dict(zip(each.parts, each.medians, strict=True)).get(part, 0.0) for each in times)
            self.register_buffer(f"median_{part}", _double(list(medians)))
        self.register_buffer("year", _double(_YEAR))
        self.register_buffer("hour", _double(_HOUR))

    def forward(self, times: Tensor) -> list[Tensor]:
        """Return each part that one of them becomes, and which of them were missing."""
        gaps = times == MISSING_TIME
        utc = torch.where(gaps, self.center, times)
        parts = [torch.where(gaps, getattr(self, f"median_{part}"), self._part(part, utc)) for part in self.parts]
        return [*parts, gaps.double()]

    def _part(self, part: str, utc: Tensor) -> Tensor:
        if part == "years":
            return (utc - self.center).double() / self.year
        clock = self._clock(utc)
        if part == "hour":
            return (clock % DAY).double() / self.hour
        days = days_of(clock)
        return month_of(days) if part == "month" else days + 3 - 7 * ((days + 3) / 7).floor()

    def _clock(self, utc: Tensor) -> Tensor:
        passed = (utc[:, :, None] >= self.instants).long().sum(2)
        return utc + embedding(passed, self.offsets)[:, :, 0]


class FromTexts(nn.Module):
    """Columns of numbers of texts: those of `keys_of`, then that of a missing one, then that of any other."""

    rows: Tensor
    places: Tensor
    owners: Tensor
    columns: Tensor
    statistics: Tensor
    statistics_rows: Tensor
    statistics_owners: Tensor

    def __init__(self, learnt: dict[int, Texts]):
        super().__init__()
        tables = [_table(each) for each in learnt.values()]
        widths = [len(each.values) + each.others + each.missing for each in learnt.values()]
        begins = np.cumsum([0, *widths])
        places = [_places(table[:, :width], begin) for table, width, begin in zip(tables, widths, begins, strict=False)]
        self.register_buffer("rows", torch.tensor(np.cumsum([0, *map(len, tables)])[:-1]))
        self.register_buffer("places", torch.from_numpy(np.concatenate(places))[:, None])
        self.register_buffer("owners", torch.tensor(np.repeat(np.arange(len(tables)), widths)))
        self.register_buffer("columns", torch.arange(begins[-1]))
        self.makes: list[Place] = [(i, j) for i, width in zip(learnt, widths, strict=True) for j in range(width)]

        columns = list(_statistics(tables, widths))
        of = [owner for owner, _, _ in columns]
        self.makes += [(list(learnt)[owner], place) for owner, place, _ in columns]
        self.has_statistics = bool(columns)
        values = np.concatenate([column for *_, column in columns] or [np.empty(0)])
        begins = np.cumsum([0, *(len(column) for *_, column in columns)])
        self.register_buffer("statistics", torch.from_numpy(values)[:, None])
        self.register_buffer("statistics_rows", torch.tensor(begins[:-1]))
        self.register_buffer("statistics_owners", torch.tensor(of, dtype=torch.int64))

    def forward(self, codes: Tensor) -> list[Tensor]:
        """Return 0/1 columns and, of many texts, the statistics of targets."""
        places = embedding(codes + self.rows, self.places)[:, :, 0]
        found = [(places.index_select(1, self.owners) == self.columns).double()]
        if self.has_statistics:
            rows = codes.index_select(1, self.statistics_owners) + self.statistics_rows
            found.append(embedding(rows, self.statistics)[:, :, 0])
        return found


def _table(learnt: Texts) -> Any:
    """Return what each text becomes, then a missing one, then any other."""
    keys, unseen = keys_of(learnt), "?"
    while unseen in keys:
        unseen += "?"
    return learnt.transform(Column(learnt.name, np.array([*keys, None, unseen], dtype=object)))


def _places(taken: Any, begin: int) -> Any:
    """Return which column, counted from `begin`, is 1 in each row; −1 for none."""
    if not taken.shape[1]:
        return np.full(len(taken), -1)
    return np.where(taken.any(1), taken.argmax(1) + begin, -1)


def _statistics(tables: list[Any], widths: list[int]) -> Iterator[tuple[int, int, Any]]:
    """Yield the number of a column of texts, the place in what it becomes, and the values there."""
    for owner, (table, width) in enumerate(zip(tables, widths, strict=True)):
        for place in range(width, table.shape[1]):
            yield owner, place, table[:, place]


def _double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
