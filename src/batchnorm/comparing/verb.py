"""The verb: from a data set and what is to be varied to a comparison."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchnorm.comparing.cells import Record, read_record
from batchnorm.comparing.plan import ComparisonFolder, ComparisonPlan
from batchnorm.comparing.result import Comparison
from batchnorm.comparing.summary import summarize
from batchnorm.comparing.training import ShowLine, jobs_for, train_cells
from batchnorm.comparing.variations import DEFAULT_VARIATIONS
from batchnorm.comparing.words import describe
from batchnorm.config import COMPARED, N_COMPARED_SEEDS, TrainingConfig
from batchnorm.data import Dataset
from batchnorm.errors import BatchnormWarning, MissingPackageError, check_kind
from batchnorm.files import as_path, to_json


def compare(
    dataset: Dataset,
    config: TrainingConfig | None = None,
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = 3,
    out: str | Path | None = None,
    jobs: int | None = None,
    tell: ShowLine | None = None,
    show_progress: bool = False,
) -> Comparison:
    """Train the same network with and without batch norm, or with whatever else is varied, and compare.

    Every combination of the varied values is an arm, and is trained from the same seeds; each training is a run with a
    folder of its own, which `batchnorm.load_run` reads. A training that diverges is a result, and no error. What was
    trained stays: where this is interrupted, or the process killed, the same call goes on.

    Parameters
    ----------
    dataset : Dataset
    config : TrainingConfig, optional
        What is not varied, with the first seed; by default the recipe "classic" with 10 epochs, each evaluated.
    vary : mapping of str to sequence, optional
        By name the values: of a field of the configuration, of "depth" (the last hidden layer is repeated until there
        are so many) or of "initial_scale" (what the weights are multiplied with, once they are drawn). By default
        "normalization" over "batch" and "none" and "learning_rate" over 0.01, 0.1, 1, 10 and 100.
    seeds : int, default 3
        From how many seeds each arm is trained: ``config.seed`` and those after it.
    out : str or Path, optional
        The folder; by default one in "comparisons" whose name follows from all of the above.
    jobs : int, optional
        How many trainings run at the same time, each in a process with one thread; by default as many as there are
        cores, if memory allows it. 1 trains in this process. Results do not depend on it.
    tell : callable, optional
        Is called with lines for a person: how many trainings there are, and how long they will take.
    show_progress : bool, default False
        Whether to show a bar at a terminal.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If what is varied is unknown or makes no network, or `out` holds something else.
    KeyboardInterrupt
        On Ctrl-C, once what was trained is saved.

    Examples
    --------
    >>> import batchnorm as bn, tempfile
    >>> config = bn.TrainingConfig(epochs=1, hidden_layer_sizes=(16,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     vary, out = {"normalization": ["batch", "none"]}, f"{folder}/first"
    ...     found = bn.compare(bn.load_dataset("digits"), config, vary=vary, seeds=1, out=out, jobs=1)
    >>> len(found.rows)
    2
    """
    check_kind("dataset", dataset, Dataset, "make one by batchnorm.Dataset.from_arrays or batchnorm.load_dataset")
    config = COMPARED if config is None else config
    check_kind("config", config, TrainingConfig, "batchnorm.TrainingConfig(epochs=1), for example")
    vary = DEFAULT_VARIATIONS if vary is None else vary
    check_kind("vary", vary, Mapping, 'such as {"normalization": ["batch", "none"]}')
    plan = ComparisonPlan(dataset, config, dict(vary), int(N_COMPARED_SEEDS.check("seeds", seeds)))
    jobs = jobs_for(plan, jobs)
    path = plan.default_out if out is None else as_path("out", out)
    folder = ComparisonFolder.begin(path, plan)
    with folder.locked():
        train_cells(plan, folder, jobs, tell or _nobody, show_bar=show_progress)
        summary = summarize(plan, _read(plan, folder))
        folder.save("comparison.json", to_json({**summary, "sentences": describe(summary)}))
        comparison = Comparison(summary, path)
        try:
            from batchnorm.comparing.page import write_page
        except MissingPackageError as error:
            warnings.warn(f"there is no page: {error}", BatchnormWarning, stacklevel=2)
        else:
            write_page(plan, comparison, folder)
    return comparison


def _read(plan: ComparisonPlan, folder: ComparisonFolder) -> dict[str, list[Record]]:
    diverged = folder.load_diverged()
    cells = {arm.name: [plan.cell(arm, seed) for seed in plan.seeds] for arm in plan.arms}
    return {
        name: [read_record(cell, folder.cells, diverged.get(cell.name)) for cell in of_arm]
        for name, of_arm in cells.items()
    }


def _nobody(line: str) -> None:
    """Show nothing."""
