"""What `export` returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchnorm import markup
from batchnorm.results import Result


@dataclass(frozen=True)
class Exported(Result):
    """What `export` has written.

    Attributes
    ----------
    path : Path
    format : str
    size : int
        Of the file, in bytes.
    deviation : float
        The largest difference between an output of the file and that of what was exported, relative to the largest
        absolute value of that output.
    rows : int
        On how many examples that was measured.
    inputs, outputs : mapping of str to str
        By name, type and shape.
    notes : tuple of str
        What is not in the file, and what stayed in it that might have gone.
    usage : str
        Lines of Python that load the file.
    quantized : mapping or None
        Of a file of 8 bits: "accuracy" on the test part, "accuracy_before" and "size_before", in floating point.
    """

    path: Path
    format: str
    size: int
    deviation: float
    rows: int
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    notes: tuple[str, ...]
    usage: str
    quantized: Mapping[str, float] | None = None

    @property
    def _caption(self) -> str:
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        return f"{self.path}: {self.format}, {self.size:,} bytes; deviates by {self.deviation:.1g} on {rows}"

    def __str__(self) -> str:
        lines = [self._caption]
        lines += [f"  {way}  {name}: {kind}" for way, name, kind in self._table()]
        lines += [f"  {remark}" for remark in self._remarks()]
        return "\n".join([*lines, *(f"    {line}" for line in self.usage.splitlines())])

    def _remarks(self) -> list[str]:
        remarks = list(self.notes)
        if (figures := self.quantized) is not None:
            now, before = (f"{figures[name]:.6g}" for name in ("accuracy", "accuracy_before"))
            sizes = f"{self.size:,} bytes, {figures['size_before']:,} before"
            remarks.append(f"8 bits: test accuracy {now}, {before} before; {sizes}")
        return remarks

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON knows."""
        return {
            "path": str(self.path),
            "format": self.format,
            "size": self.size,
            "deviation": self.deviation,
            "rows": self.rows,
            "inputs": dict(self.inputs),
            "outputs": dict(self.outputs),
            "notes": list(self.notes),
            "usage": self.usage,
            "quantized": None if self.quantized is None else dict(self.quantized),
        }

    def _table(self) -> list[tuple[str, str, str]]:
        both = (("in", self.inputs), ("out", self.outputs))
        return [(way, name, kind) for way, named in both for name, kind in named.items()]

    def _repr_html_(self) -> str:
        signature = markup.table(("", "name", "type"), self._table(), words=("name", "type"))
        return markup.html(
            *markup.lines("\n".join([self._caption, *self._remarks()])), signature, markup.preformatted(self.usage)
        )
