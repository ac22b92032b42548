"""The commands that train: train, evaluate, datasets."""

import sys
from dataclasses import replace
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
    options = TableOptions(
        tuple(target or ()), task, tuple(test or ()), test_share, group, time, sample_weight, tuple(drop or ())
    )
    check_reporting(report)
    if resume is not None and holds_table(resume):
        began = {
            "a file": what or None, "--recipe": recipe, "--seeds": seeds, "--split-seed": split_seed,
            "--device": device, "--image-size": image_size, "--out": None if out == resume else out,
            "--tensorboard": tensorboard or None,
        }  # fmt: skip
        check_resumed_options(resume, options, overrides, began)
        _go_on_with_table(resume, data_dir, threads, quiet=quiet, as_json=as_json)
        report_on([resume], None, wanted=report, lines=not (quiet or as_json))
        return
    own = own_examples(what or (), options.target)
    if not own and is_table(what or (), options.target):
        refused = {
            "--recipe": recipe, "--seeds": seeds, "--resume": resume, "--data-dir": data_dir, "--device": device,
            "--image-size": image_size, "--tensorboard": tensorboard or None,
        }  # fmt: skip
        check_table_options(what or (), options, refused)
        out = _train_on_table(what or (), options, overrides, split_seed, out, threads, quiet=quiet, as_json=as_json)
        report_on([out], None, wanted=report, lines=not (quiet or as_json))
        return
    if options.given:
        raise InputError(f"{options.given[0]} is for tables of your own: name their files")
    dataset = what[0] if what and not own else None
    base = _recipe(recipe) if recipe is not None else None
    plan = None
    if resume is not None:
        from batchnorm.training.runs import check_same, load_plan

        plan = load_plan(resume)
        check_same(plan, resume, base, overrides, dataset=dataset, split_seed=split_seed, n_seeds=seeds)
        if out not in (None, resume):
            raise InputError(f"--out {out} and --resume {resume} name two folders: leave out --out")
        config, out, seeds, dataset, split_seed = plan.config, resume, plan.n_seeds, plan.dataset, plan.split_seed
        threads, device = threads or plan.session.get("threads"), device or plan.session.get("device")
    else:
        config = replace(base or _recipe(_DEFAULT_RECIPE), **overrides)
        check_new(out)
    check_own_options(plan, resume, own, image_size, task)
    start_torch(threads)
    device = "cpu" if device is None else device
    lines = not (quiet or as_json)

    from batchnorm.training import Monitors, ProgressMonitor, TensorBoardMonitor

    if own and plan is None:
        data = load_own_examples(own, data_dir, image_size, task, split_seed or 0, quiet=quiet)
    else:
        data = load_data(dataset, data_dir, split_seed or 0, begun=plan, quiet=quiet, paths=own)
    name = f"{data.name}-{recipe or _DEFAULT_RECIPE}-{f'seeds{seeds}' if seeds else f'seed{config.seed}'}"
    with new_folder(out, name) as out, told_how_to_go_on(out):
        if lines:
            _print_what_is_trained_on(data, out)
        monitor: Monitor = ProgressMonitor(lines=lines, bar=not quiet, seeds=seeds is not None)
        if tensorboard:
            events = TensorBoardMonitor(out / "tensorboard", seeds=seeds is not None)
            monitor = Monitors(monitor, events)
        if seeds is None:
            run = _train_one(data, config, out, resume is not None, device, monitor)
            results = {"run": str(out), "dataset": data.name, "history": run.history, **run.results}
            folders = [out]
        else:
            from batchnorm.training import fit_seeds, summarize

            runs = fit_seeds(data, config, seeds, out=out, resuming=resume is not None, device=device, monitor=monitor)
            results = {"run": str(out), "dataset": data.name, **summarize(runs)}
            folders = [run.path for run in runs if run.path is not None]
            if lines:
                print_summary(results)
        if as_json:
            print_json(results)
    report_on(folders, data, wanted=report, lines=lines)


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


def _train_on_table(
    files: "Sequence[str]",
    options: TableOptions,
    overrides: dict[str, Any],
    split_seed: int | None,
    out: Path | None,
    threads: int | None,
    *,
    quiet: bool,
    as_json: bool,
) -> Path:
    check_new(out)
    start_torch(threads)
    lines, verbose = not (quiet or as_json), not quiet and sys.stderr.isatty()
    name = f"{Path(files[0]).name.partition('.')[0] or 'table'}-{'-'.join(options.target)}"
    with new_folder(out, name) as out, told_how_to_go_on(out):
        run = train_on_table(files, options, overrides, split_seed, out, lines=lines, verbose=verbose)
        print_run(run, lines=lines, as_json=as_json)
    return out


def _go_on_with_table(folder: Path, data_dir: Path | None, threads: int | None, *, quiet: bool, as_json: bool) -> None:
    start_torch(threads or threads_of(folder))
    lines, verbose = not (quiet or as_json), not quiet and sys.stderr.isatty()
    with told_how_to_go_on(folder):
        print_run(resume_on_table(folder, data_dir, lines=lines, verbose=verbose), lines=lines, as_json=as_json)


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
