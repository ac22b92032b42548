"""The commands that train: train, evaluate, datasets."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from batchnorm.cli.app import (
    PATH,
    DataDir,
    Device,
    Json,
    Threads,
    app,
    holds_table,
    load_data,
    plan_of_one_run,
    print_json,
    print_table,
    start_torch,
)
from batchnorm.cli.configuration import configured
from batchnorm.cli.figures import print_evaluations, print_summary
from batchnorm.cli.folders import check_new, new_folder, told_how_to_go_on
from batchnorm.cli.own import ImageSize, check_own_options, described, load_own_examples, own_examples
from batchnorm.cli.report import WriteReport, check_reporting, report_on
from batchnorm.cli.tables import (
    Drop,
    Group,
    SampleWeight,
    TableOptions,
    Target,
    TaskName,
    TestFiles,
    TestShare,
    Time,
    check_resumed_options,
    check_table_options,
    evaluate_on_table,
    is_table,
    print_run,
    resume_on_table,
    threads_of,
    train_on_table,
)
from batchnorm.config import N_SEEDS, TrainingConfig, recipes
from batchnorm.errors import InputError
from batchnorm.memory import check_training_memory
from batchnorm.printing import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchnorm.data import Dataset
    from batchnorm.training import Monitor, Run
    from batchnorm.training.runs import Plan

_DEFAULT_RECIPE = "classic"


@app.command()
@configured(recipes[_DEFAULT_RECIPE])
def train(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATASET | FOLDER | FILE...]",
            help="A data set (see 'batchnorm datasets'; without a name mnist, or mnist5k where that is not available); "
            "of your own a folder with a sub-folder of images per class, an .npz file, or inputs and labels in two "
            ".npy or IDX files; or tables with --target.",
        ),
    ] = None,
    *,
    recipe: Annotated[
        str | None,
        typer.Option(
            help=f"Where the options below begin from: {', '.join(recipes)}. [default: {_DEFAULT_RECIPE}, whose values "
            "are shown]"
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=N_SEEDS.low, max=N_SEEDS.high, help="Train from so many seeds; print mean ± standard deviation."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(**PATH, help="Run folder to make. [default: a new one in runs/]")] = None,
    resume: Annotated[
        Path | None, typer.Option(**PATH, help="Run folder of a stopped run, to go on as if it had never stopped.")
    ] = None,
    overrides: Any,
    data_dir: DataDir = None,
    split_seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="For sets without a test part. [default: 0]")
    ] = None,
    image_size: ImageSize = None,
    device: Device = None,
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    as_json: Json = False,
    report: WriteReport = False,
    target: Target = None,
    task: TaskName = None,
    test: TestFiles = None,
    test_share: TestShare = None,
    group: Group = None,
    time: Time = None,
    sample_weight: SampleWeight = None,
    drop: Drop = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write event files for TensorBoard into the run folder.")
    ] = False,
) -> None:
    """Train a batch-normalised network, evaluate it on the way, test it at the end.

    Options that are not given have the recipe's value; of a table of your own those of the estimators.
    """
    words, output = what or (), _Output(quiet=quiet, as_json=as_json)
    options = TableOptions(
        tuple(target or ()), task, tuple(test or ()), test_share, group, time, sample_weight, tuple(drop or ())
    )
    check_reporting(report)
    place = _Place(out, resume, data_dir, split_seed)
    own = own_examples(words, options.target)
    folders: Sequence[Path]
    if (resume is not None and holds_table(resume)) or (not own and is_table(words, options.target)):
        not_of_tables = {
            "--recipe": recipe, "--seeds": seeds, "--device": device, "--image-size": image_size,
            "--tensorboard": tensorboard or None,
        }  # fmt: skip
        folders, data = [_train_on_table(words, options, overrides, not_of_tables, place, threads, output)], None
    else:
        if options.given:
            raise InputError(f"{options.given[0]} is for tables of your own: name their files")
        dataset = words[0] if words and not own else None
        job = _asked_for(recipe, overrides, dataset, seeds, place, threads, device)
        check_own_options(job.begun, resume, own, image_size, task)
        start_torch(job.threads)
        if own and job.begun is None:
            data = load_own_examples(own, data_dir, image_size, task, job.split_seed or 0, quiet=quiet)
        else:
            data = load_data(job.dataset, data_dir, job.split_seed or 0, begun=job.begun, quiet=quiet, paths=own)
        folders = _train_on_examples(data, job, output, tensorboard=tensorboard)
    report_on(folders, data, wanted=report, lines=output.lines)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(**PATH, help="Run folder of a finished run.")],
    *,
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Which part of its data.")] = "test",
    data_dir: DataDir = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Evaluate a trained network with its running averages and with its population statistics.

    A run on a table has population statistics alone.
    """
    if holds_table(run):
        start_torch(threads)
        evaluate_on_table(run, split, data_dir, as_json=as_json)
        return
    plan = plan_of_one_run(run)
    start_torch(threads or plan.session.get("threads"))

    from batchnorm.training import evaluate_run

    data = load_data(plan.dataset, data_dir, plan.split_seed or 0, begun=plan, quiet=as_json)
    evaluations = evaluate_run(run, data, split, device="cpu" if device is None else device)
    if as_json:
        figures = {kind: e.to_dict() for kind, e in evaluations.items()}
        print_json({"run": str(run), "split": split, **figures})
    else:
        print_evaluations(evaluations, split, data.class_names)


@app.command()
def datasets(*, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the data sets that are known by name: which are here, and how to get the others."""
    from batchnorm.data import availability

    found = availability(data_dir)
    if as_json:
        print_json(found)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "what", "licence", box=None, pad_edge=False)
    table.add_column("where", overflow="fold")
    for row in found:
        mark = ("✓", "green") if row["available"] else "–"
        where = Text.assemble(mark, " ", printable(row["where"]))
        table.add_row(row["name"], row["title"], row["licence"], where)
    print_table(table)


@dataclass(frozen=True)
class _Output:
    """What a training prints."""

    quiet: bool
    as_json: bool

    @property
    def lines(self) -> bool:
        """Whether it prints lines for a person."""
        return not (self.quiet or self.as_json)

    @property
    def verbose(self) -> bool:
        """Whether an estimator shows how far it is."""
        return not self.quiet and sys.stderr.isatty()


@dataclass(frozen=True)
class _Place:
    """Where a run is to be, or is, and where its data are and how they are split, as the options say."""

    out: Path | None
    resume: Path | None
    data_dir: Path | None
    split_seed: int | None


@dataclass(frozen=True)
class _Job:
    """A training on examples, as it is asked for or was begun."""

    config: TrainingConfig
    recipe: str
    dataset: str | None
    split_seed: int | None
    seeds: int | None
    out: Path | None
    threads: int | None
    device: str
    begun: "Plan | None"


def _train_on_table(
    files: "Sequence[str]",
    options: TableOptions,
    overrides: dict[str, Any],
    not_of_tables: dict[str, Any],
    place: _Place,
    threads: int | None,
    output: _Output,
) -> Path:
    """Train on a table, or go on with such a run; return its folder."""
    begun, out = place.resume, place.out
    if begun is not None and holds_table(begun):
        begun_with = {"a file": files or None, "--split-seed": place.split_seed, "--out": None if out == begun else out}
        check_resumed_options(begun, options, overrides, {**begun_with, **not_of_tables})
        start_torch(threads or threads_of(begun))
        with told_how_to_go_on(begun):
            run = resume_on_table(begun, place.data_dir, lines=output.lines, verbose=output.verbose)
            print_run(run, lines=output.lines, as_json=output.as_json)
        return begun
    check_table_options(files, options, {**not_of_tables, "--resume": begun, "--data-dir": place.data_dir})
    check_new(out)
    start_torch(threads)
    name = f"{Path(files[0]).name.partition('.')[0] or 'table'}-{'-'.join(options.target)}"
    with new_folder(out, name) as out, told_how_to_go_on(out):
        run = train_on_table(
            files, options, overrides, place.split_seed, out, lines=output.lines, verbose=output.verbose
        )
        print_run(run, lines=output.lines, as_json=output.as_json)
    return out


def _asked_for(
    recipe: str | None,
    overrides: dict[str, Any],
    dataset: str | None,
    seeds: int | None,
    place: _Place,
    threads: int | None,
    device: str | None,
) -> _Job:
    """Return what is to be trained: as the options say, or as it was begun, which they may repeat."""
    base = _recipe(recipe) if recipe is not None else None
    name = recipe or _DEFAULT_RECIPE
    if place.resume is None:
        config = replace(base or _recipe(name), **overrides)
        check_new(place.out)
        return _Job(
            config,
            name,
            dataset,
            place.split_seed,
            seeds,
            place.out,
            threads,
            "cpu" if device is None else device,
            None,
        )
    from batchnorm.training.runs import check_same, load_plan

    plan = load_plan(place.resume)
    check_same(plan, place.resume, base, overrides, dataset=dataset, split_seed=place.split_seed, n_seeds=seeds)
    if place.out not in (None, place.resume):
        raise InputError(f"--out {place.out} and --resume {place.resume} name two folders: leave out --out")
    threads, device = threads or plan.session.get("threads"), device or plan.session.get("device")
    return _Job(
        plan.config, name, plan.dataset, plan.split_seed, plan.n_seeds, place.resume, threads,
        "cpu" if device is None else device, plan,
    )  # fmt: skip


def _train_on_examples(data: "Dataset", job: _Job, output: _Output, *, tensorboard: bool) -> "Sequence[Path]":
    """Train, from one seed or several, and print what came of it; return the run folders."""
    from batchnorm.training import Monitors, ProgressMonitor, TensorBoardMonitor

    seeds = f"seeds{job.seeds}" if job.seeds else f"seed{job.config.seed}"
    with new_folder(job.out, f"{data.name}-{job.recipe}-{seeds}") as out, told_how_to_go_on(out):
        if output.lines:
            _print_what_is_trained_on(data, out)
        several = job.seeds is not None
        monitor: Monitor = ProgressMonitor(lines=output.lines, bar=not output.quiet, seeds=several)
        if tensorboard:
            monitor = Monitors(monitor, TensorBoardMonitor(out / "tensorboard", seeds=several))
        if job.seeds is None:
            run = _train_one(data, job.config, out, job.begun is not None, job.device, monitor)
            results = {"run": str(out), "dataset": data.name, "history": run.history, **run.results}
            folders = [out]
        else:
            results, folders = _train_several(data, job, job.seeds, out, monitor)
            if output.lines:
                print_summary(results)
        if output.as_json:
            print_json(results)
    return folders


def _train_several(
    data: "Dataset", job: _Job, seeds: int, out: Path, monitor: "Monitor"
) -> tuple[dict[str, Any], list[Path]]:
    from batchnorm.training import fit_seeds, summarize

    resuming = job.begun is not None
    runs = fit_seeds(data, job.config, seeds, out=out, resuming=resuming, device=job.device, monitor=monitor)
    results = {"run": str(out), "dataset": data.name, **summarize(runs)}
    return results, [run.path for run in runs if run.path is not None]


def _print_what_is_trained_on(data: "Dataset", out: Path) -> None:
    print(printable(f"{data.summary}; run folder {out}"), flush=True)
    if data.origin is not None:
        print(described(data), flush=True)


def _recipe(name: str) -> TrainingConfig:
    if name not in recipes:
        raise InputError(f"there is no recipe {name!r}: known are {', '.join(recipes)}")
    return recipes[name]


def _train_one(
    data: "Dataset", config: TrainingConfig, out: Path, resuming: bool, device: str, monitor: "Monitor"
) -> "Run":
    from batchnorm.network import DenseNetwork
    from batchnorm.training import fit, resume

    if resuming:
        return resume(out, data, device=device, monitor=monitor)
    check_training_memory(config, data.n_features, data.n_classes)
    network = DenseNetwork.from_config(config, data.n_features, data.n_classes)
    return fit(network, data, config, out=out, device=device, monitor=monitor)
