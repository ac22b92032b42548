"""What a run, or a folder of runs from several seeds, was begun with: all that going on with it needs to know."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from batchnorm.config import TrainingConfig
from batchnorm.errors import InputError
from batchnorm.files import check_format, make_folder, to_json
from batchnorm.training.runs.folder import RunFolder, read_json

_SEEDS_FILE, _FORMAT = "seeds.json", 1  # raised when a folder written before can no longer be read


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
        make_folder(path, {_SEEDS_FILE: to_json({"format": _FORMAT, **asdict(self)})})

    @staticmethod
    def discard(path: Path) -> None:
        """Remove a new folder of several runs if there is none in it yet."""
        if {file.name for file in path.iterdir()} == {_SEEDS_FILE}:
            (path / _SEEDS_FILE).unlink()
            path.rmdir()


def load_plan(path: str | Path) -> Plan:
    """Read what a folder was begun with.

    Raises
    ------
    InputError
        If it is neither a run folder nor one of several seeds, or is one of a later version of this package.
    """
    path = Path(path)
    if not (path / _SEEDS_FILE).is_file():
        folder = RunFolder.open(path)
        data, sessions = folder.settings["dataset"], folder.load_sessions()
        return Plan(folder.config, data["name"], data["split_seed"], session=sessions[0] if sessions else {})
    values = read_json(path / _SEEDS_FILE, {"config"})
    check_format(path, values.pop("format", 1), _FORMAT)  # the first were written without it
    try:
        return Plan(**{**values, "config": TrainingConfig.from_dict(values["config"])})
    except (ValueError, TypeError) as error:
        raise InputError(f"{path / _SEEDS_FILE} is not the plan of several runs: {error}") from error


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
