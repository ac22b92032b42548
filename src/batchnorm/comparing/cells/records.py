"""What a trained cell has left in its run folder: its evaluations, and the looks into its layers."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchnorm.comparing.cells.cell import Cell, Outcome
from batchnorm.errors import InputError

MOMENTS = ("start", "middle", "end")


@dataclass(frozen=True)
class Record:
    """One training, as far as it went.

    Parameters
    ----------
    run : str
        Name of its run folder.
    seed : int
    history : list of dict
        Its evaluations.
    looks : list of dict
        Into its layers, in order; none where none were gathered.
    diverged : dict or None
        After how many steps, and why.
    """

    run: str
    seed: int
    history: list[dict[str, Any]]
    looks: list[dict[str, Any]]
    diverged: Outcome

    def score(self, measure: str) -> float | None:
        """Return the validation figure of the network that the run ended with; None if it diverged."""
        if self.diverged is not None:
            return None
        found: float | None = self.history[-1][f"validation_{measure}"]
        return found

    def look(self, moment: str) -> dict[str, Any] | None:
        """Return the look at the start, nearest to the middle of the steps, or the last one, if there are any."""
        if not self.looks:
            return None
        middle = self.looks[-1]["step"] / 2
        chosen = {
            "start": self.looks[0],
            "middle": min(self.looks, key=lambda look: abs(look["step"] - middle)),
            "end": self.looks[-1],
        }
        return chosen[moment]


def read_record(cell: Cell, folder: Path, diverged: Outcome) -> Record:
    """Read the run of a training that went to its end, or diverged, out of the folder of all.

    Raises
    ------
    InputError
        If it cannot be read, or is another one.
    """
    path = folder / cell.name
    try:
        run = cell.open(folder)
        history = run.load_history() if os.path.lexists(path / "metrics.jsonl") else []
        looks = run.load_looks() or []
    except InputError as error:
        raise InputError(f"{error}; or remove {path}, and do the same again: that one is then trained anew") from error
    return Record(path.name, cell.config.seed, history, looks, diverged)
