"""What is compared, and the folder that holds it.

::

    plan.json          what is compared: data, configuration, variations, seeds
    cells/             a run folder per arm and seed
    diverged.json      which of them diverged, and after how many steps
    comparison.json    what came of it  }
    comparison.html    the same to read } written at the end
    figures/           its pictures     }

None holds a time or a place: equal comparisons have equal files, but for `environment.json` in the run folders.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from batchnorm.comparing.cells import Cell, Outcome
from batchnorm.comparing.variations import Arm, arms_of
from batchnorm.config import TrainingConfig
from batchnorm.data import Dataset
from batchnorm.errors import InputError
from batchnorm.files import canonical_json, check_new_folder, checksum, is_there, make_folder, parse_json, read_regular
from batchnorm.files import to_json as json_bytes
from batchnorm.training.runs import HeldFolder, Seal

FORMAT = 1
_PLAN, _DIVERGED, _CELLS = "plan.json", "diverged.json", "cells"


@dataclass(frozen=True)
class ComparisonPlan:
    """What is compared, on which data.

    Parameters
    ----------
    dataset : Dataset
    config : TrainingConfig
        What is not varied, with the first seed.
    variations : mapping of str to sequence
    n_seeds : int
    """

    dataset: Dataset
    config: TrainingConfig
    variations: Mapping[str, Sequence[Any]]
    n_seeds: int

    @cached_property
    def arms(self) -> list[Arm]:
        """What is trained from each seed."""
        return arms_of(self.config, self.variations)

    @property
    def seeds(self) -> list[int]:
        """From what each arm is trained."""
        return [self.config.seed + i for i in range(self.n_seeds)]

    def cell(self, arm: Arm, seed: int) -> Cell:
        """Return the training of an arm from a seed."""
        return Cell(f"{arm.folder_name},seed={seed}", replace(arm.config, seed=seed), arm.initial_scale)

    @property
    def cells(self) -> list[Cell]:
        """All trainings: each arm from the first seed, then from the next, so that what is stopped has all arms."""
        return [self.cell(arm, seed) for seed in self.seeds for arm in self.arms]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values, the data by their fingerprint."""
        names = list(self.variations)
        values = {name: list(dict.fromkeys(arm.values[name] for arm in self.arms)) for name in names}
        return {
            "format": FORMAT,
            "dataset": {
                "name": self.dataset.name,
                "fingerprint": self.dataset.fingerprint,
                "split_seed": self.dataset.split_seed,
            },
            "config": self.config.to_dict(),
            "variations": values,
            "seeds": self.seeds,
        }

    @property
    def default_out(self) -> Path:
        """A folder for it alone: the same command goes on in it."""
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in self.dataset.name)[:50]
        varied = "-".join(sorted(self.variations))[:50]
        return Path("comparisons") / f"{name}-{varied}-{checksum(canonical_json(self.to_dict()))[:8]}"


class ComparisonFolder(HeldFolder):
    """The folder of a comparison."""

    @classmethod
    def begin(cls, path: Path, plan: ComparisonPlan) -> "ComparisonFolder":
        """Make the folder, or open it again to go on in it.

        Raises
        ------
        InputError
            If there is something else at `path`, or another comparison.
        """
        said = json_bytes(plan.to_dict())
        asked = parse_json(said, "the plan")
        file = path / _PLAN
        if not is_there(file):
            _check_new(path)
            try:
                make_folder(path, {_PLAN: said})
            except InputError:
                if not is_there(file):  # else another process has made it meanwhile
                    raise
        if (begun := parse_json(read_regular(file), str(file))) != asked:
            what = f"{path} holds another comparison, of {_difference(begun, asked)}: choose another"
            raise InputError(f"{what} out=", on_command_line=f"{what} --out")
        return cls(path, asked, Seal(FORMAT))

    @property
    def cells(self) -> Path:
        """The folder with a run folder per arm and seed."""
        return self._place / _CELLS

    def has_finished(self, cell: Cell) -> bool:
        """Tell whether a training went to its end."""
        return os.path.lexists(self.cells / cell.name / "results.json")

    def load_diverged(self) -> dict[str, Outcome]:
        """Return how trainings diverged, by the names of their cells."""
        file = self._place / _DIVERGED
        if not os.path.lexists(file):
            return {}
        outcomes = parse_json(read_regular(file), str(file))
        if not isinstance(outcomes, dict) or not all(map(_is_outcome, outcomes.values())):
            raise InputError(f"{file} is damaged: remove it, and what diverged is trained again")
        return outcomes

    def save(self, name: str, content: bytes) -> None:
        """Write one of its files."""
        self._write(name, content)

    def save_diverged(self, outcomes: Mapping[str, Outcome]) -> None:
        """Take note of what diverged so far."""
        self._write(_DIVERGED, json_bytes(dict(sorted(outcomes.items()))))

    def _with_how_to_go_on(self, what: str) -> tuple[str, str]:
        return f"{what} the same call", f"{what} the same command"


def cell_folders(path: Path) -> list[Path]:
    """Return where the runs are of the comparison that a folder is, or of those that it holds."""
    places = [folder / _CELLS for folder in (path, *sorted(path.iterdir())) if os.path.lexists(folder / _PLAN)]
    return [cells for cells in places if cells.is_dir()]


def _check_new(path: Path) -> None:
    try:
        check_new_folder(path)
    except InputError as error:
        if not is_there(path):
            raise
        what = f"{path} exists already, and is no comparison: choose another"
        raise InputError(f"{what} out=", on_command_line=f"{what} --out") from error


def _is_outcome(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("step"), int) and isinstance(value.get("why"), str)


def _difference(begun: Any, asked: dict[str, Any]) -> str:
    """Say in what two plans differ."""
    if not isinstance(begun, dict) or begun.keys() != asked.keys():
        return "a later version"
    name = next(name for name in asked if begun[name] != asked[name])
    if not isinstance(begun[name], dict) or not isinstance(asked[name], dict):
        return f"{name} {str(begun[name])[:80]}, not {asked[name]}"
    was, now = begun[name], asked[name]
    part = next(part for part in {**now, **was} if was.get(part) != now.get(part))
    return f"{part} {str(was.get(part, 'as it is'))[:80]}, not {now.get(part, 'as it is')}"
