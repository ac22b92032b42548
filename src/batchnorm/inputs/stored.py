"""`StoredFrame`: a frame that is larger than memory, of which a column, or a block of rows, is read at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from batchnorm.data import MappedRows
from batchnorm.inputs.columns import Columns, OutOfFold
from batchnorm.inputs.frames import INFINITY, Column, Frame, open_frame


class Store(Protocol):
    """What keeps the rows of a frame."""

    @property
    def n_rows(self) -> int:
        """How many there are."""

    @property
    def has_gaps(self) -> bool:
        """Whether a cell is missing."""

    @property
    def folder(self) -> Path:
        """Where scratch files may be."""

    @property
    def outline(self) -> Any:
        """A frame of the same columns without rows."""

    def column(self, place: int) -> Any:
        """Return one column, as a frame that has no other."""

    def blocks(self) -> Iterator[Any]:
        """Yield the rows as frames, one under the other."""


@dataclass(frozen=True)
class StoredFrame(Frame):
    """A frame in a store: `store_frame` makes it."""

    store: Store

    def to_numbers(self, columns: Columns | None, out_of_fold: OutOfFold) -> MappedRows:
        """Return what the rows become (examples, columns), in a scratch file.

        Parameters
        ----------
        columns : Columns or None
            What its columns become; None: they are numbers, and stay what they are.
        out_of_fold : OutOfFold
            As `Columns.transform` takes it.

        Raises
        ------
        ValueError
            If a number is infinite, or a column does not hold what it did.
        """
        width = len(self.columns) if columns is None else len(columns.names)
        dtype = np.asarray(self.store.outline).dtype if columns is None else columns.dtype
        return MappedRows(self._blocks(columns, out_of_fold), (self.n_rows, width), dtype, self.store.folder)

    def _blocks(self, columns: Columns | None, out_of_fold: OutOfFold) -> Iterator[NDArray[Any]]:
        at = 0
        for block in self.store.blocks():
            if columns is None:
                yield self._finite(np.asarray(block))
                continue
            frame = open_frame(block)
            assert frame is not None
            yield columns.transform(frame, {i: rows[at : at + frame.n_rows] for i, rows in out_of_fold.items()})
            at += frame.n_rows

    def _finite(self, cells: NDArray[Any]) -> NDArray[Any]:
        infinite = ~np.isfinite(cells).all(0)
        if infinite.any():
            raise ValueError(INFINITY.format(self.names[int(infinite.argmax())]))
        return cells


class _LoadedColumns(Sequence[Column]):
    """The columns, each read anew when it is asked for."""

    def __init__(self, store: Store, n_columns: int):
        self._store, self._n = store, n_columns

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, place: int) -> Column: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Column]: ...
    def __getitem__(self, place: int | slice) -> Column | Sequence[Column]:
        if isinstance(place, slice):
            return [self[i] for i in range(self._n)[place]]
        if not 0 <= place < self._n:
            raise IndexError(place)
        frame = open_frame(self._store.column(place))
        assert frame is not None
        return frame.columns[0]


def store_frame(store: Store) -> StoredFrame:
    """Return the frame that a store keeps."""
    outline = open_frame(store.outline)
    assert outline is not None
    columns = _LoadedColumns(store, len(outline.columns))
    return StoredFrame(columns, store.n_rows, outline.is_plain and not store.has_gaps, outline.names, store)
