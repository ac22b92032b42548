"""Going on with a training on a table: its files are found, read and prepared again, and it ends with the same bits."""

from collections.abc import Callable
from pathlib import Path

from batchnorm.errors import InputError, with_class
from batchnorm.estimator import parameters_from_json
from batchnorm.tables.finding import find_files
from batchnorm.tables.fitting import train_table
from batchnorm.tables.folder import TableFolder
from batchnorm.tables.parts import Notify, Split
from batchnorm.tables.profile import Profile
from batchnorm.tables.runs import TableRun


def resume_table(
    path: Path,
    data_dir: Path | None = None,
    *,
    tell: Notify = lambda _: None,
    show_profile: Callable[[Profile], None] = lambda _: None,
    interrupted: Callable[[], None] = lambda: None,
    verbose: bool = False,
) -> TableRun:
    """Go on with a run that was stopped or killed; it ends as if it had never been. A finished one is loaded.

    Parameters
    ----------
    path : Path
        The run folder.
    data_dir : Path, optional
        Where its files are now; by default where they were.
    tell, show_profile, interrupted, verbose
        As for `train_table`.

    Warns
    -----
    BatchnormWarning
        If versions, processor or threads are others than those that it was begun with: its last bits may differ.

    Raises
    ------
    InputError
        If it is no run on a table, is damaged, or another process works on it; or if a file is not there any more, or
        is another one now.
    TrainingInterrupted
        As `train_table`.
    """
    folder = TableFolder.open(path)
    if not folder.is_finished:
        with folder.locked():
            if not folder.is_finished:  # by another process, meanwhile
                return _gone_on(folder, data_dir, tell, show_profile, interrupted, verbose)
    folder.remove_leftovers()
    run = TableRun.load(path)
    for notice in run.results["notices"]:
        tell(str(notice))
    return run


def _gone_on(
    folder: TableFolder,
    data_dir: Path | None,
    tell: Notify,
    show_profile: Callable[[Profile], None],
    interrupted: Callable[[], None],
    verbose: bool,
) -> TableRun:
    settings = folder.settings
    files, test_files = find_files(settings, folder.load_sessions()[-1], data_dir, tell)
    try:
        parameters = parameters_from_json(settings["parameters"])
    except Exception as error:  # whatever a file may hold
        raise InputError(f"{folder.path} is damaged: its parameters are none ({with_class(error)})") from error
    return train_table(
        files,
        settings["target"],
        task=None if settings["task_is_recognized"] else settings["task"],
        test=test_files,
        split=settings["split"] and Split(**settings["split"]),
        sample_weight=settings["sample_weight"],
        drop=settings["dropped"],
        parameters=parameters,
        begun=folder,
        tell=tell,
        show_profile=show_profile,
        interrupted=interrupted,
        verbose=verbose,
    )
