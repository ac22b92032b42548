"""The run that a page is about, as far as it is, and the data that it was trained on, if they are still there."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from batchnorm.data import Dataset, Examples, Signature, data_dir_of, load_again, load_dataset
from batchnorm.errors import BatchnormError, InputError
from batchnorm.network import DenseNetwork
from batchnorm.printing import without_folders
from batchnorm.reporting.inside import Inside
from batchnorm.training import Run, check_dataset, load_run, load_stopped
from batchnorm.training.runs import RunFolder, load_plan, load_plan_of_one


@dataclass(frozen=True, eq=False)
class Subject:
    """A run and its data.

    Parameters
    ----------
    run : Run
        One that is not finished has no figures of the test set.
    settings : dict
        What its folder says of it; empty of a run without one.
    sessions : list of dict
        The environments that it ran in.
    data : Dataset or None
    without : str or None
        Why there are no data.
    """

    run: Run
    settings: dict[str, Any]
    sessions: list[dict[str, Any]]
    data: Dataset | None
    without: str | None

    @property
    def is_finished(self) -> bool:
        """Whether it was tested."""
        return bool(self.run.results["test"])

    @cached_property
    def inside(self) -> Inside:
        """What is known of the layers of its network."""
        run, note = self.run, ""
        if self.is_finished and not run.population:
            why = f": {run.results['note']}" if "note" in run.results else ""
            note = f"The population statistics are not known{why}."
        is_dense = isinstance(run.network, DenseNetwork)
        return Inside(run.network.state_dict(), run.layers, is_dense, run.population or {}, note)

    @property
    def part(self) -> str:
        """The part of the data that is looked at: what is not finished is none of the test's business."""
        return "test" if self.is_finished else "validation"

    @property
    def examples(self) -> Examples | None:
        """That part."""
        return None if self.data is None else self.data.parts[self.part]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each part, as far as it is known."""
        if self.data is not None:
            return {name: len(part) for name, part in self.data.parts.items()}
        return dict(self.settings.get("dataset", {}).get("examples", {}))

    @property
    def data_name(self) -> str:
        """What the data are called."""
        return self.data.name if self.data is not None else str(self.settings["dataset"]["name"])

    @property
    def names(self) -> list[str]:
        """The names of classes, labels or values."""
        if self.run.signature is not None:
            return list(self.run.signature.class_names)
        n = self.settings["dataset"]["n_classes"]
        return list(map(str, self.data.class_names)) if self.data is not None else [str(i) for i in range(n)]

    @property
    def signature(self) -> Signature | None:
        """What goes into the network, as the run or its data tell."""
        return self.run.signature or (None if self.data is None else Signature.of(self.data))


def open_subject(run: Run | Path, dataset: Dataset | None, network: nn.Module | None, data_dir: Path | None) -> Subject:
    """Return what a page is to be about.

    Raises
    ------
    InputError
        If there is no run, or it was trained on other data than those given, or in `data_dir`.
    """
    if isinstance(run, Run) and run.path is None:
        if dataset is None:
            raise InputError("the run has no folder, so that only its caller has its data: give dataset=")
        return Subject(run, {}, [], dataset, None)
    path = run.path if isinstance(run, Run) else run
    assert path is not None
    load_plan_of_one(path)
    folder = RunFolder.open(path)
    if not isinstance(run, Run):
        _check_network(folder, network)
        run = load_run(path, network=network) if folder.is_finished else load_stopped(path, network=network)
    without = None
    if dataset is not None:
        check_dataset(folder, dataset)
    else:
        try:
            dataset = _found(folder, data_dir)
        except BatchnormError as error:
            if data_dir is not None:
                raise
            without = without_folders(str(error))
    return Subject(run, folder.settings, folder.load_sessions(), dataset, without)


def _check_network(folder: RunFolder, network: nn.Module | None) -> None:
    begun = folder.settings["network"]
    if network is None and ("layers" in begun or begun["class"] != "DenseNetwork"):
        raise InputError(
            f"{folder.path} trains a {begun['class']}, which only a program can build: "
            "batchnorm.write_report(path, network=…) writes its page from Python"
        )


def _found(folder: RunFolder, data_dir: Path | None) -> Dataset:
    """Return the data that a run was trained on, from where they came then."""
    plan = load_plan(folder.path)
    if (origin := plan.session.get("origin")) is not None:
        dataset = load_again(origin, plan.dataset, data_dir=data_dir, split_seed=plan.split_seed or 0)
    else:
        place = data_dir or data_dir_of(plan.dataset, plan.session.get("data"))
        dataset = load_dataset(plan.dataset, data_dir=place, split_seed=plan.split_seed or 0)
    check_dataset(folder, dataset)
    return dataset
