"""What `train` does with examples of the user's own: folders of images, and arrays in files."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchnorm.cli.app import start_torch
from batchnorm.config import Task
from batchnorm.errors import InputError

if TYPE_CHECKING:
    from batchnorm.data import Dataset
    from batchnorm.training.runs import Plan

ImageSize = Annotated[
    int | None,
    typer.Option(
        min=1, max=2**13, help="Width and height that your images are resized to. [default: what most of them have]"
    ),
]
_ARRAYS = re.compile(r".*(\.np[yz]|[.-]idx\d?(\.gz)?|-ubyte(\.gz)?)", re.IGNORECASE)  # names


def own_examples(arguments: Sequence[str], target: Sequence[str]) -> list[Path]:
    """Return the folder of images or the files of arrays that are named, or nothing for tables and known data sets."""
    if target or not all(arguments):
        return []
    paths = [Path(text) for text in arguments]
    if any(_ARRAYS.fullmatch(path.name) for path in paths):
        return paths
    return paths if len(paths) == 1 and _is_folder(arguments[0]) else []


def _is_folder(text: str) -> bool:
    """Tell whether a folder is meant, even if it is missing; a bare word is one unless a data set has that name."""
    path = Path(text)
    if "/" in text or not path.is_dir():
        return path.is_dir() or ("/" in text and not path.suffix and not path.exists())
    start_torch(None)
    from batchnorm.data import is_known

    return not is_known(text)


def load_own_examples(
    paths: Sequence[Path],
    data_dir: Path | None,
    image_size: int | None,
    task: Task | None,
    split_seed: int,
    *,
    quiet: bool,
) -> "Dataset":
    """Load examples that no run was begun with yet."""
    from batchnorm.data import load_own

    if data_dir is not None:
        raise InputError("--data-dir is for data sets that have a name, and for runs that were begun: leave it out")
    return load_own(paths, task=task, image_size=image_size, split_seed=split_seed, show_progress=not quiet)


def check_own_options(
    plan: "Plan | None", run: Path | None, paths: Sequence[Path], image_size: int | None, task: Task | None
) -> None:
    """Refuse what does not go with the data that is trained on, before it is loaded."""
    if plan is None:
        if task is not None and not paths:
            raise InputError("--task is for tables and arrays of your own: name their files")
        if image_size is not None and not (len(paths) == 1 and paths[0].is_dir()):
            raise InputError("--image-size is for a folder of images: name one")
        return
    origin: dict[str, Any] | None = plan.session.get("origin")
    if paths and origin is None:
        raise InputError(f"{run} was begun with {plan.dataset}, not with files of your own: leave {paths[0]} out")
    if task is not None and (origin or {}).get("task") != task:
        raise InputError(f"{run} was not begun with --task {task}: leave it out")
    begun = origin["image_size"] if origin else None
    if image_size is not None and begun != [image_size, image_size]:
        was = "no images" if begun is None else f"images of {begun[0]} × {begun[1]}"
        raise InputError(f"{run} was begun with {was}, not {image_size} × {image_size}: leave --image-size out")


def described(data: "Dataset") -> str:
    """Return in a line what examples of one's own are."""
    shape = " × ".join(map(str, data.feature_shape))
    n_bytes = sum(part.inputs.numel() * part.inputs.element_size() for part in data.parts.values())
    kind = str(data.train.inputs.dtype).removeprefix("torch.")
    return f"{_outputs(data)}, inputs of {shape} {kind}, {n_bytes / 2**20:,.1f} MiB in memory"


def _outputs(data: "Dataset") -> str:
    from batchnorm.data import OUTPUTS

    what = OUTPUTS[data.task]
    return f"{data.n_classes} {what if data.n_classes > 1 else what.removesuffix('s')}"
