"""What comes of a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchnorm.comparing.variations import said
from batchnorm.comparing.words import describe, figure
from batchnorm.files import json_ready
from batchnorm.markup import captioned_table
from batchnorm.printing import aligned
from batchnorm.results import Result

PAGE = "comparison.html"


@dataclass(frozen=True, eq=False)
class Comparison(Result):
    """What `compare` found.

    Parameters
    ----------
    summary : dict
        All figures, as docs/compare.md describes them.
    path : Path
        The folder that holds the runs, the figures and the page.
    """

    summary: Mapping[str, Any]
    path: Path

    @property
    def page(self) -> Path | None:
        """What shows it in a browser; None where that could not be drawn."""
        file = self.path / PAGE
        return file if file.is_file() else None

    @property
    def columns(self) -> tuple[str, ...]:
        """What the table says of each arm: its values, and what came of it."""
        return (*self.summary["variations"], self.measure, "learns", "diverged")

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The table, a row for each arm."""
        n = len(self.summary["seeds"])
        return [
            (
                *(said(value) for value in arm["values"].values()),
                figure(arm["score"]),
                f"{arm['learnt']} of {n}",
                f"{arm['diverged']} of {n}" if arm["diverged"] else "–",
            )
            for arm in self.summary["arms"]
        ]

    @property
    def best_row(self) -> int | None:
        """Which row of the table has the best figure; None where all trainings diverged."""
        means = [arm["score"]["mean"] for arm in self.summary["arms"]]
        known = [mean for mean in means if mean is not None]
        return means.index(max(known)) if known else None

    @property
    def measure(self) -> str:
        """What is compared, of the validation part."""
        return {"accuracy": "val acc", "r2": "val R²"}[self.summary["measure"]]

    @property
    def sentences(self) -> Sequence[str]:
        """What the figures show, in words."""
        return describe(self.summary)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as what JSON knows. Infinite and NaN become None."""
        described: dict[str, Any] = json_ready(
            {"comparison": str(self.path), **self.summary, "sentences": list(self.sentences)}
        )
        return described

    def __str__(self) -> str:
        table = aligned([self.columns, *self.rows])
        return "\n".join((*table, *self.sentences, f"comparison {self.page or self.path}"))

    def _repr_html_(self) -> str:
        return captioned_table("\n".join(self.sentences), self.columns, self.rows)
