"""What `train` and `evaluate` do with tables of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchnorm.cli.app import PATH, given, print_confusion, print_json
from batchnorm.config import Task
from batchnorm.errors import InputError
from batchnorm.printing import printable, printable_lines

if TYPE_CHECKING:
    from batchnorm.tables import TableRun

Target = Annotated[
    list[str] | None,
    typer.Option(help="Column of your table to predict; several ones of 0 and 1 are labels, others values."),
]
TaskName = Annotated[
    Task | None,
    typer.Option(help="Of your table or arrays; labels of arrays alone. [default: as the target's values suggest]"),
]
TestFiles = Annotated[
    list[Path] | None, typer.Option(**PATH, help="Table to test on, in place of a part of the others.")
]
TestShare = Annotated[
    float | None, typer.Option(min=0, max=1, help="Share of your table's rows to test on. [default: 0.2]")
]
Group = Annotated[str | None, typer.Option(help="Column of which no value is in both parts.")]
Time = Annotated[str | None, typer.Option(help="Column by which the latest rows are tested on.")]
SampleWeight = Annotated[str | None, typer.Option(help="Column that says how often each row counts.")]
Drop = Annotated[list[str] | None, typer.Option(help="Column to leave out.")]

# Fields of a configuration by the estimators' names; those that are None have no such parameter.
_PARAMETERS = {
    "learning_rate": "learning_rate_init",
    "adam_eps": "epsilon",
    "nesterov": "nesterovs_momentum",
    "seed": "random_state",
    "early_stopping_patience": "n_iter_no_change",
    "normalization": None,
    "bn_variance": None,
    "weight_decay": None,
    "evaluate_every": None,
}


@dataclass(frozen=True)
class TableOptions:
    """What `train` was told about a table."""

    target: Sequence[str]
    task: Task | None
    test: Sequence[Path]
    test_share: float | None
    group: str | None
    time: str | None
    sample_weight: str | None
    drop: Sequence[str]

    @property
    def given(self) -> list[str]:
        """The options that were given and are for tables alone."""
        given = [name for name, value in vars(self).items() if value not in (None, ()) and name != "task"]
        return [f"--{name.replace('_', '-')}" for name in given]


def is_table(arguments: Sequence[str], target: Sequence[str]) -> bool:
    """Tell whether tables are named, rather than a data set that has a name; examples of one's own are told before."""
    return bool(target) or len(arguments) > 1 or any(map(looks_like_path, arguments))


def looks_like_path(text: str) -> bool:
    """Tell whether a word names a file or folder, rather than a data set."""
    return "/" in text or "." in text


def train_on_table(
    paths: Sequence[str],
    options: TableOptions,
    overrides: dict[str, Any],
    split_seed: int | None,
    out: Path,
    *,
    lines: bool,
    verbose: bool,
) -> "TableRun":
    """Train an estimator on files, telling what is in them on the way."""
    from batchnorm.tables import Split, train_table

    assert options.task != "labels"  # which `check_table_options` refuses
    return train_table(
        [Path(given(path, "a path")) for path in paths],
        options.target,
        task=options.task,
        test=options.test,
        split=Split(
            0.2 if options.test_share is None else options.test_share, split_seed or 0, options.group, options.time
        ),
        sample_weight=options.sample_weight,
        drop=options.drop,
        parameters=_parameters(overrides),
        out=out,
        **_telling(lines=lines, verbose=verbose),
    )


def resume_on_table(run: Path, data_dir: Path | None, *, lines: bool, verbose: bool) -> "TableRun":
    """Go on with a run on a table, telling what is in its files on the way."""
    from batchnorm.tables import resume_table

    return resume_table(run, data_dir, **_telling(lines=lines, verbose=verbose))


def threads_of(run: Path) -> int | None:
    """Return with how many threads a run on a table was begun."""
    from batchnorm.tables import TableFolder

    threads: int | None = TableFolder.open(run).load_sessions()[0].get("threads")
    return threads


def _telling(*, lines: bool, verbose: bool) -> dict[str, Any]:
    """Return what is told on the way, as arguments of a training."""
    from batchnorm.training import ProgressMonitor

    def show(text: object) -> None:
        if lines:
            print(printable_lines(text), flush=True)

    return {
        "tell": lambda text: show(printable(text)),
        "show_profile": show,
        "interrupted": ProgressMonitor(lines=False, bar=False).interrupted,
        "verbose": verbose,
    }


def _parameters(overrides: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration's options as an estimator's parameters."""
    for name in overrides:
        if _PARAMETERS.get(name, name) is None:
            raise InputError(f"--{name.replace('_', '-')} is for data sets of examples, not for a table: leave it out")
    parameters = {str(_PARAMETERS.get(name, name)): value for name, value in overrides.items()}
    parameters.setdefault("random_state", 0)
    if "n_iter_no_change" in parameters:
        parameters["early_stopping"] = True
    return parameters


def check_table_options(paths: Sequence[str], options: TableOptions, refused: dict[str, Any]) -> None:
    """Refuse what makes no sense with a table, before anything heavy is imported."""
    if not paths:
        raise InputError("--target names a column of a table: name the file too, as in batchnorm train table.csv")
    if "-" in (*paths, *map(str, options.test)):
        raise InputError("a training reads its table more than once, and standard input cannot: name a file")
    if not options.target:
        raise InputError(f"which column of {paths[0]} is to be predicted? Name it by --target")
    if wrong := [name for name, value in refused.items() if value is not None]:
        raise InputError(f"{wrong[0]} is for data sets that have a name, not for a table: leave it out")
    if options.task == "labels":
        raise InputError("labels of a table are several --target columns of 0 and 1: leave out --task labels")
    if options.test and (options.test_share is not None or options.group or options.time):
        raise InputError("--test names the rows to test on: leave out --test-share, --group and --time")
    if options.group and options.time:
        raise InputError("--group and --time split in two ways: leave one out")
    if options.test_share is not None and not 0 < options.test_share < 1:
        raise InputError(f"--test-share is {options.test_share:g}, expected a number between 0 and 1")


def check_resumed_options(run: Path, options: TableOptions, overrides: dict[str, Any], others: dict[str, Any]) -> None:
    """Refuse what a run on a table was begun with, and goes on with whatever is given."""
    given = [name for name, value in others.items() if value is not None]
    if given := [*given, *options.given, *(f"--{name.replace('_', '-')}" for name in overrides)]:
        raise InputError(f"{run} goes on as it was begun: leave {given[0]} out")


def print_run(run: "TableRun", *, lines: bool, as_json: bool) -> None:
    """Print what came of a training."""
    if as_json:
        print_json(run.to_dict())
    elif lines:
        print(printable_lines(run), f"run folder {printable(run.path)}", sep="\n")


def evaluate_on_table(path: Path, split: str, data_dir: Path | None, *, as_json: bool) -> None:
    """Print how good a run on a table is on the rows of a part."""
    from batchnorm.scores import score_lines
    from batchnorm.tables import TableRun, evaluate_table

    if split == "validation":
        raise InputError("a run on a table has no validation part: expected train or test")
    run = TableRun.load(path)
    scores = evaluate_table(run, split, data_dir, verbose=not as_json)
    if as_json:
        print_json({"run": str(path), "split": split, **scores})
        return
    for line in score_lines(scores, run.settings["target"], split):
        print(printable(line))
    if "confusion" in scores:
        print_confusion(scores["confusion"], [str(label) for label in run.estimator.classes_], f"{split} part")
