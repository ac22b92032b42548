"""What a run, or a folder of runs from several seeds, was begun with: all that going on with it needs to know."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from batchnorm.config import TrainingConfig
from batchnorm.errors import InputError
from batchnorm.files import check_format, is_there, make_folder, write_atomically
from batchnorm.training.runs import schema
from batchnorm.training.runs.folder import RunFolder
from batchnorm.training.runs.sealing import FORMATS, Seal, warn_of_format_1

SEEDS_FILE, _SUMMARY_FILE = "seeds.json", "summary.json"


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
    session : dict
        The environment in which it was begun; empty if that is not known.
    """

    config: TrainingConfig
    dataset: str
    split_seed: int | None
    n_seeds: int | None = None
    session: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Make the folder of several runs."""
        make_folder(path, {SEEDS_FILE: self.to_bytes()})

    def to_bytes(self) -> bytes:
        """Return the content of its file."""
        return Seal(FORMATS[-1]).to_json(SEEDS_FILE, {"format": FORMATS[-1], **asdict(self)})

    @staticmethod
    def discard(path: Path) -> None:
        """Remove a new folder of several runs if there is none in it yet."""
        if {file.name for file in path.iterdir()} == {SEEDS_FILE}:
            (path / SEEDS_FILE).unlink()
            path.rmdir()


def load_plan(path: str | Path, *, trusting: bool = False) -> Plan:
    """Read what a folder was begun with.

    Parameters
    ----------
    path : str or Path
    trusting : bool, default False
        Whether to read what has no right checksum, too.

    Raises
    ------
    InputError
        If it is neither a run folder nor one of several seeds, is damaged, or is one of a later version of this
        package.
    """
    path = Path(path)
    if not holds_seeds(path):
        folder = RunFolder.open(path, trusting=trusting)
        data, sessions = folder.settings["dataset"], folder.load_sessions()
        return Plan(folder.config, data["name"], data["split_seed"], session=sessions[0] if sessions else {})
    file = path / SEEDS_FILE
    values = {"format": 1} | Seal(format_of_seeds(path), trusting=trusting).read_json(file)
    plan = schema.PLAN(values, str(file))
    if plan.pop("format") == 1 and not trusting:
        warn_of_format_1(path)
    return Plan(**plan)


def load_plan_of_one(path: str | Path) -> Plan:
    """Read what a run was begun with; the folder of several is refused, with an `InputError` that names one of them."""
    plan = load_plan(path)
    if plan.n_seeds is not None:
        one = Path(path) / f"seed-{plan.config.seed}"
        raise InputError(f"{path} holds {plan.n_seeds} runs: name one of them, such as {one}")
    return plan


def holds_seeds(path: Path) -> bool:
    """Tell whether a folder is one of several seeds."""
    return is_there(path / SEEDS_FILE)


def format_of_seeds(path: Path) -> int:
    """Return the format of the folder of several runs; the first were written without it."""
    found = Seal(1, trusting=True).read_json(path / SEEDS_FILE).get("format", 1)
    check_format(path, found, *FORMATS)
    return int(found)


def save_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the summary of the folder of several runs."""
    write_atomically(path / _SUMMARY_FILE, _seal_of_summary(path).to_json(_SUMMARY_FILE, summary))


def load_summary(path: Path, *, trusting: bool = False) -> dict[str, Any] | None:
    """Read the summary of the folder of several runs; None if there is none yet."""
    file = path / _SUMMARY_FILE
    if not os.path.lexists(file):
        return None
    try:
        return _seal_of_summary(path, trusting=trusting).read_json(file)
    except InputError:  # the first ones of format 2 were not bound to their folder
        return Seal(format_of_seeds(path), trusting=trusting).read_json(file)


def _seal_of_summary(path: Path, *, trusting: bool = False) -> Seal:
    """Return a seal that a summary of other runs does not have; where and when these began does not count."""
    format = format_of_seeds(path)
    plan = Seal(format, trusting=True).read_json(path / SEEDS_FILE)
    begun = {name: value for name, value in plan.items() if name != "session"}
    return Seal(format, Seal(format).sum_of(SEEDS_FILE, begun), trusting=trusting)


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
        Fields of the plan; None means that they were not asked for. A seed for the split says nothing of a data set
        that comes with its parts.
    """
    asked = replace(base or plan.config, **overrides).to_dict()
    begun = plan.config.to_dict()
    for name, value in rest.items():
        given_and_used = value is not None and not (name == "split_seed" and plan.split_seed is None)
        if given_and_used:
            asked[name], begun[name] = value, getattr(plan, name)
    differing = [f"{name} {begun[name]!r}, not {asked[name]!r}" for name in asked if asked[name] != begun[name]]
    if differing:
        raise InputError(f"{path} was begun with {', '.join(differing)}: leave these options out, or begin a new run")
