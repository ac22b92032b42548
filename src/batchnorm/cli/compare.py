"""The command that compares: the same network in several ways."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchnorm.cli.app import (
    INTERRUPTED,
    PATH,
    DataDir,
    Json,
    app,
    fail,
    load_data,
    print_json,
    print_table,
    start_torch,
)
from batchnorm.cli.configuration import configured
from batchnorm.cli.own import ImageSize, check_own_options, load_own_examples, own_examples
from batchnorm.cli.tables import TaskName, is_table, looks_like_path
from batchnorm.config import COMPARED, N_COMPARED_SEEDS, N_JOBS
from batchnorm.errors import InputError
from batchnorm.files import is_there
from batchnorm.printing import printable

if TYPE_CHECKING:
    from batchnorm.comparing import Comparison
    from batchnorm.data import Dataset

_DEFAULT_DATASET = "mnist5k"  # it comes with a package, and is learnt in seconds


@app.command()
@configured(COMPARED)
def compare(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATASET | FOLDER | FILE...]",
            help="A data set (see 'batchnorm datasets'); of your own a folder with a sub-folder of images per class, "
            f"an .npz file, or inputs and labels in two .npy or IDX files. [default: {_DEFAULT_DATASET}]",
        ),
    ] = None,
    *,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="What to vary, any of the options below by its name, depth (so many hidden layers, the last one "
            "repeated) or initial_scale (of the initial weights); once for each name. Layers are joined by -, as in "
            "hidden_layer_sizes=300-100,64. [default: normalization=batch,none and learning_rate=0.01,0.1,1,10,100]",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            min=N_COMPARED_SEEDS.low, max=N_COMPARED_SEEDS.high, help="From how many seeds each choice is trained."
        ),
    ] = 3,
    out: Annotated[
        Path | None,
        typer.Option(
            **PATH, help="Folder to make, or to go on in. [default: one in comparisons/, by what is compared]"
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=N_JOBS.low,
            max=N_JOBS.high,
            help="Trainings at the same time; results do not depend on it. [default: cores]",
        ),
    ] = None,
    overrides: Any,
    data_dir: DataDir = None,
    split_seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="For sets without a test part.")] = 0,
    image_size: ImageSize = None,
    task: TaskName = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    as_json: Json = False,
) -> None:
    """Train a network with and without batch norm, or with whatever else you vary, and compare.

    Every combination is trained from several seeds. What was trained is kept: after Ctrl-C the same command goes on.
    """
    words = what or [_DEFAULT_DATASET]
    own = own_examples(words, ())
    if not own and is_table(words, target=()):
        if missing := [word for word in words if looks_like_path(word) and not is_there(Path(word))]:
            raise InputError(f"there is no file or folder {missing[0]}")
        raise InputError(
            f"{words[0]} is no data set of examples, and tables are not compared: train on them one by one"
        )
    check_own_options(None, None, own, image_size, task)
    config = replace(COMPARED, **overrides)
    start_torch(None)
    variations = _variations(vary, overrides)

    from batchnorm.comparing import compare as compare_arms

    if own:
        data = load_own_examples(own, data_dir, image_size, task, split_seed, quiet=quiet)
    else:
        data = load_data(words[0], data_dir, split_seed, begun=None, quiet=quiet)
    lines = not (quiet or as_json)
    if lines:
        _print_what_is_compared(data, variations, seeds)
    with _told_how_to_go_on():
        comparison = compare_arms(
            data,
            config,
            vary=variations,
            seeds=seeds,
            out=out,
            jobs=jobs,
            tell=_print_line if lines else None,
            show_progress=not quiet,
        )
    if as_json:
        print_json(comparison.to_dict())
    elif lines:
        _print_comparison(comparison)


def _variations(texts: Sequence[str] | None, overrides: dict[str, Any]) -> dict[str, Sequence[Any]]:
    """Return what is varied: by default what no option has set."""
    from batchnorm.comparing import DEFAULT_VARIATIONS, parse_variations

    if texts is None:
        return {name: values for name, values in DEFAULT_VARIATIONS.items() if name not in overrides}
    variations = parse_variations(texts)
    if both := [name for name in variations if name in overrides]:
        option = f"--{both[0].replace('_', '-')}"
        raise InputError(f"{both[0]} is varied, and {option} gives it one value: leave {option} out")
    return dict(variations)


def _print_what_is_compared(data: "Dataset", variations: dict[str, Sequence[Any]], seeds: int) -> None:
    varied = ", ".join(f"{len(values)} of {name}" for name, values in variations.items())
    print(printable(data.summary))
    print(f"compared: {varied}; from {seeds} seed{'s' if seeds > 1 else ''} each", flush=True)


def _print_line(line: str) -> None:
    print(printable(line), flush=True)


def _print_comparison(comparison: "Comparison") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in comparison.columns:
        table.add_column(column, justify="left" if column in comparison.summary["variations"] else "right")
    best = comparison.best_row
    for number, row in enumerate(comparison.rows):
        table.add_row(*(Text(cell, "bold" if number == best else "") for cell in row))
    print_table(table)
    for sentence in comparison.sentences:
        _print_line(sentence)
    _print_line(f"comparison {comparison.page or comparison.path}")


@contextmanager
def _told_how_to_go_on() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted, and what was trained is kept: the same command goes on", INTERRUPTED)
