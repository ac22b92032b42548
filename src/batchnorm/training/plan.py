"""What a run, or a folder of runs from several seeds, was begun with: all that going on with it needs to know."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from batchnorm.errors import InputError
from batchnorm.files import to_json, write_atomically
from batchnorm.training.config import TrainingConfig
from batchnorm.training.run_folder import RunFolder

_SEEDS_FILE = "seeds.json"


@dataclass(frozen=True)
class Plan:
    """A run's configuration and data, or those of several runs that differ in the seed.

    Parameters
    ----------
    config : TrainingConfig
        With the first seed.
    dataset : str
        Name of the data set.
    split_seed : int or None
        What its parts were drawn with.
    n_seeds : int or None
        Number of runs, if the folder holds one per seed.
    """

    config: TrainingConfig
    dataset: str
    split_seed: int | None
    n_seeds: int | None = None

    def save(self, path: Path) -> None:
        """Make the folder of several runs."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} exists already: choose another --out, or go on with it by --resume {path}")
        path.mkdir(parents=True, exist_ok=True)
        values = {"config": self.config.to_dict(), "dataset": self.dataset, "split_seed": self.split_seed}
        write_atomically(path / _SEEDS_FILE, to_json({**values, "n_seeds": self.n_seeds}))


def load_plan(path: str | Path) -> Plan:
    """Read what a folder was begun with.

    Raises
    ------
    InputError
        If it is neither a run folder nor one of several seeds.
    """
    path = Path(path)
    if not (path / _SEEDS_FILE).is_file():
        settings = RunFolder.open(path).settings
        data = settings["dataset"]
        return Plan(TrainingConfig.from_dict(settings["config"]), data["name"], data["split_seed"])
    try:
        values = json.loads((path / _SEEDS_FILE).read_text())
        return Plan(**{**values, "config": TrainingConfig.from_dict(values["config"])})
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path / _SEEDS_FILE} is not the plan of several runs: {error}") from error


def first_session(path: str | Path) -> dict[str, Any]:
    """Return the environment in which a run, or the first of several, was begun; empty if none was recorded."""
    path = Path(path)
    folders = sorted(path.glob("seed-*/config.json")) if (path / _SEEDS_FILE).is_file() else [path / "config.json"]
    sessions = RunFolder.open(folders[0].parent).load_sessions() if folders else []
    return sessions[0] if sessions else {}


def check_same(plan: Plan, path: Path, base: TrainingConfig | None, overrides: dict[str, Any], **rest: Any) -> None:
    """Check that a command which goes on with a run asks for the run that was begun.

    Parameters
    ----------
    plan : Plan
    path : Path
        The run's folder.
    base : TrainingConfig or None
        The recipe that was asked for; without one, only the overrides are compared.
    overrides : dict
        Fields of the configuration.
    **rest
        Fields of the plan; None means that they were not asked for.
    """
    asked = replace(base or plan.config, **overrides).to_dict()
    begun = plan.config.to_dict()
    for name, value in rest.items():
        if value is not None:
            asked[name], begun[name] = value, getattr(plan, name)
    differing = [f"{name} {begun[name]!r}, not {asked[name]!r}" for name in asked if asked[name] != begun[name]]
    if differing:
        raise InputError(f"{path} was begun with {', '.join(differing)}: leave these options away, or begin a new run")
