"""The runs below a folder: read, verified, compared."""

import errno
import os
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from batchnorm.config import TrainingConfig
from batchnorm.errors import InputError, UncheckedRunWarning
from batchnorm.files import as_path, is_there, write_atomically
from batchnorm.training.runs.folder import RUN_FILES, RunFolder
from batchnorm.training.runs.plan import (
    SEEDS_FILE,
    Plan,
    format_of_seeds,
    holds_seeds,
    load_plan,
    load_summary,
    save_summary,
)

TABLE_FILE = "table.json"  # of a run on a table


def list_runs(path: str | Path) -> list[dict[str, Any]]:
    """Read and verify the runs of a folder.

    Parameters
    ----------
    path : str or Path
        A run folder, one of several seeds, or one that holds such folders.

    Returns
    -------
    list of dict
        One per run folder and per folder of several seeds, in order of their names, and of links to other ones behind
        these: "run", "state" ("finished", "running", "stopped", "damaged" or "unreadable"), "why" it is one of the last
        two, how the last session of a stopped one "ended" if it could say so, whether it is "checked" (has checksums),
        "dataset", "epoch" (how many are complete), "test" (the figures) and "config"; what could not be read is None.

    Raises
    ------
    InputError
        If there is no such folder, or it may not be read.
    """
    path = as_path("path", path)
    if not is_there(path) or not path.is_dir():
        raise InputError(f"there is no folder {path}: name one that holds run folders")
    if not os.access(path, os.R_OK | os.X_OK):
        raise InputError(f"{path} cannot be read: {os.strerror(errno.EACCES)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncheckedRunWarning)  # "checked" says it
        found = [path] if _is_one(path) else [folder for folder in path.iterdir() if _is_one(folder)]
        rows: dict[str, dict[str, Any]] = {}
        for folder in sorted(found, key=lambda folder: (folder.is_symlink(), folder)):
            for row in _rows(folder):
                rows.setdefault(os.path.realpath(row["run"]), row)
        return list(rows.values())


def differing_fields(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the fields of the configuration that are not the same in all runs."""
    configs = [row["config"] for row in rows if row["config"] is not None]
    return [name for name in TrainingConfig().to_dict() if len({str(config[name]) for config in configs}) > 1]


def accept_edits(path: str | Path) -> None:
    """Give the files of a run folder, or of one of several seeds, the checksums of what they hold now.

    Raises
    ------
    InputError
        If a file does not hold what it may.
    """
    path = as_path("path", path)
    if not _is_one(path):
        raise InputError(f"{path} is not a run folder: name the one that you have edited")
    if not holds_seeds(path):
        RunFolder.open(path, trusting=True).reseal()
        return
    plan, summary = load_plan(path, trusting=True), load_summary(path, trusting=True)
    for run in _runs_of(path, plan):
        accept_edits(run)
    write_atomically(path / SEEDS_FILE, plan.to_bytes())
    if summary is not None:
        save_summary(path, summary)


def _is_one(path: Path) -> bool:
    """Tell whether a folder is a run's, or of several seeds: by any file, as each may be lost.

    One that nobody may look into counts as one, so that it is told of. One that holds a run on a table is another
    room's.
    """
    try:
        return not os.path.lexists(path / TABLE_FILE) and any(
            is_there(path / name) for name in (*RUN_FILES, SEEDS_FILE)
        )
    except InputError:
        return True


def holds_run(path: Path) -> bool:
    """Tell whether a folder is surely a run's, or of several seeds: others may have a config.json, too."""
    runs_own = ("config.json", TABLE_FILE, "environment.json", "checkpoint.safetensors")
    return os.path.lexists(path / SEEDS_FILE) or sum(os.path.lexists(path / name) for name in runs_own) > 1


def _rows(path: Path) -> list[dict[str, Any]]:
    row = _nothing_known(path)
    try:
        if not holds_seeds(path):
            return [_row(path)]
        plan = load_plan(path)
        load_summary(path)
    except InputError as error:
        return [row | _unusable(error)]
    runs = [_row_of_a_seed(run, plan) for run in _runs_of(path, plan)]
    tests = [run["test"] for run in runs if run["test"] is not None]
    row |= {"dataset": plan.dataset, "n_seeds": plan.n_seeds, "n_finished": len(tests)}
    row["state"] = "finished" if len(tests) == plan.n_seeds else "stopped"
    row["checked"] = format_of_seeds(path) > 1 and all(run["checked"] for run in runs)
    kinds = [kind for kind in ("running", "population") if tests and all(kind in test for test in tests)]
    row["test"] = {kind: _mean([test[kind] for test in tests]) for kind in kinds} or None
    return [row, *runs]


def _mean(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of the figure that says most of a run."""
    name = "accuracy" if "accuracy" in figures[0] else "r2"
    values = [of_run[name] for of_run in figures]
    return {name: None if None in values else statistics.fmean(values)}


def _runs_of(path: Path, plan: Plan) -> list[Path]:
    seeds = range(plan.config.seed, plan.config.seed + (plan.n_seeds or 0))
    return [run for seed in seeds if os.path.lexists(run := path / f"seed-{seed}")]


def _row_of_a_seed(path: Path, plan: Plan) -> dict[str, Any]:
    row = _row(path)
    expected = replace(plan.config, seed=int(path.name.removeprefix("seed-"))).to_dict()
    if row["config"] not in (None, expected):
        row |= {"state": "damaged", "why": f"{path} holds another run than the one of its seed", "test": None}
    return row


def _row(path: Path) -> dict[str, Any]:
    row = _nothing_known(path)
    try:
        folder = RunFolder.open(path)
        row |= {"dataset": folder.settings["dataset"]["name"], "config": folder.config.to_dict()}
        row["checked"] = folder.settings["format"] > 1
        folder.verify()
        row["epoch"] = folder.load_checkpoint().state["epoch"]
        row["state"] = "finished" if folder.is_finished else "running" if folder.is_in_use else "stopped"
        if row["state"] == "stopped":
            row["ended"] = (folder.load_sessions() or [{}])[-1].get("ended")
        if folder.is_finished:
            results = folder.load_results()[2]
            row |= {"epoch": results["epochs"], "test": results["test"]}
    except InputError as error:
        row |= _unusable(error)
    return row


def _unusable(error: InputError) -> dict[str, str]:
    return {"state": "unreadable" if isinstance(error.__cause__, PermissionError) else "damaged", "why": str(error)}


def _nothing_known(path: Path) -> dict[str, Any]:
    return dict.fromkeys(("state", "why", "ended", "checked", "dataset", "epoch", "test", "config")) | {
        "run": str(path)
    }
