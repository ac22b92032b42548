"""Where a user's own examples came from, and how a run that was trained on them finds them again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchnorm.config import Task
from batchnorm.data.dataset import Dataset
from batchnorm.data.own.arrays import load_arrays
from batchnorm.data.own.folder import load_images
from batchnorm.data.targets import check_task
from batchnorm.errors import InputError
from batchnorm.files import is_there

_SHOWN = 3


def load_own(
    paths: Sequence[Path],
    *,
    task: Task | None = None,
    image_size: int | tuple[int, int] | None = None,
    split_seed: int = 0,
    name: str | None = None,
    show_progress: bool = False,
) -> Dataset:
    """Load examples from files of one's own.

    Parameters
    ----------
    paths : sequence of Path
        A folder with a sub-folder of images per class, an NPZ file, or inputs and labels, each in an NPY or IDX file.
    task : {"classification", "labels", "regression"}, optional
        What the labels of arrays are, by default what they look like: see `Dataset.from_arrays`.
    image_size : int or (width, height), optional
        That images get; by default the one that most of them have.
    split_seed : int, default 0
        Draws the parts that did not come.
    name : str, optional
        By default the folder's, or the first file's.
    show_progress : bool, default False
        Whether to show a bar where that is possible.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        If that cannot be read, or not be learnt.

    Warns
    -----
    BatchnormWarning
        Of images that were resized, or could not be read, and of what was passed over.
    """
    if not paths:
        raise InputError("there are no paths: name a folder of images, or files of arrays")
    check_task(task)
    if len(paths) == 1 and paths[0].is_dir():
        if task not in (None, "classification"):
            raise InputError(f"task is {task!r}, and a folder of images has classes: give their arrays to learn others")
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        return load_images(paths[0], image_size=size, split_seed=split_seed, name=name, show_progress=show_progress)
    if image_size is not None:
        raise InputError(f"an image size is for a folder of images, which {paths[0]} is not")
    return load_arrays(paths, task=task, split_seed=split_seed, name=name)


def load_again(
    origin: Mapping[str, Any],
    name: str,
    *,
    paths: Sequence[Path] = (),
    data_dir: Path | None = None,
    split_seed: int = 0,
    show_progress: bool = False,
) -> Dataset:
    """Load what a run was trained on.

    Parameters
    ----------
    origin : mapping
        Of the data set, as the run recorded it.
    name : str
        The data set's.
    paths : sequence of Path, optional
        Where the files are now.
    data_dir : Path, optional
        The folder that they are in now.
    split_seed, show_progress
        As for `load_own`.

    Raises
    ------
    InputError
        If something is not there any more.
    """
    size = origin["image_size"]
    found = list(paths) or _found([Path(path) for path in origin["paths"]], origin["kind"], data_dir)
    return load_own(
        found,
        task=origin.get("task"),
        image_size=tuple(size) if size else None,
        split_seed=split_seed,
        name=name,
        show_progress=show_progress,
    )


def _found(recorded: Sequence[Path], kind: str, data_dir: Path | None) -> list[Path]:
    if data_dir is None:
        for path in recorded:
            if not is_there(path):
                raise InputError(
                    f"the run was begun with {path}, which is not there now: say by --data-dir which folder holds "
                    f"{path.name} now"
                )
        return list(recorded)
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}, given as --data-dir, is not a folder")
    moved = [data_dir / path.name for path in recorded]
    for path in moved:
        if not is_there(path):
            if kind == "images":
                return [data_dir]  # the folder itself, under another name
            raise InputError(f"{data_dir} holds no {path.name}, which the run was begun with")
    return moved


def changes_of_files(was: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[str]:
    """Return in words how the files of one's own differ from those that a run was begun with."""
    if was is None or now is None:
        return []
    old, new = was["contents"], now["contents"]
    words = [f"{name} is not there" for name in old if name not in new]
    words += [f"{name} is new" for name in new if name not in old]
    for name in old:
        if name in new and old[name] != new[name]:
            sizes = old[name]["size"], new[name]["size"]
            unit = "images" if now["kind"] == "images" else "bytes"
            what = f"has {sizes[1]:,} {unit}, not {sizes[0]:,}" if sizes[0] != sizes[1] else "has another content"
            words.append(f"{name} {what}")
    more = [f"{len(words) - _SHOWN} more files or classes changed"] if len(words) > _SHOWN else []
    return [*words[:_SHOWN], *more]
