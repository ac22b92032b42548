"""The commands that train: train, evaluate, datasets."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from batchnorm.cli.app import (
    INTERRUPTED,
    DataDir,
    Device,
    Json,
    Threads,
    app,
    fail,
    load_data,
    print_table,
    start_torch,
)
from batchnorm.config import (
    Activation,
    EngineName,
    Normalization,
    Optimizer,
    Schedule,
    TrainingConfig,
    Variance,
)
from batchnorm.errors import InputError, TrainingInterrupted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchnorm.data import Dataset
    from batchnorm.evaluation import Evaluation
    from batchnorm.training import Monitor, Run

_DEFAULT_RECIPE = "classic"


def _parse_sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(",") if size.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of whole numbers such as 300,100") from None


@app.command()
def train(
    ctx: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Argument(help="See 'batchnorm datasets'. Without a name: mnist, or mnist5k where that is not available."),
    ] = None,
    *,
    recipe: Annotated[
        str | None, typer.Option(help=f"Where the options below begin from. [default: {_DEFAULT_RECIPE}]")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=2, help="Train from so many seeds; print mean ± standard deviation.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make. [default: a new one in runs/]")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Run folder of a stopped run, to go on as if it had never stopped.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Draws weights, order, dropped units and noise.")] = None,
    hidden_layer_sizes: Annotated[
        Any | None, typer.Option(parser=_parse_sizes, metavar="300,100", help="Units per layer.")
    ] = None,
    activation: Annotated[Activation | None, typer.Option(help="After each hidden layer.")] = None,
    normalization: Annotated[Normalization | None, typer.Option(help="What stands before each activation.")] = None,
    normalize_logits: Annotated[bool | None, typer.Option(help="Batch norm on the output layer too.")] = None,
    bn_momentum: Annotated[float | None, typer.Option(help="Weight of the newest batch (1 − Keras' momentum).")] = None,
    bn_eps: Annotated[float | None, typer.Option(help="Added to the variance.")] = None,
    bn_variance: Annotated[Variance | None, typer.Option(help="What is averaged: torch's or TensorFlow's.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Share of hidden units dropped.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Times through the training set.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per step.")] = None,
    optimizer: Annotated[Optimizer | None, typer.Option(help="What takes the steps.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The schedule's peak.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of SGD.")] = None,
    nesterov: Annotated[bool | None, typer.Option(help="Nesterov's momentum.")] = None,
    beta_1: Annotated[float | None, typer.Option(help="What stays of AdamW's average of the gradient.")] = None,
    beta_2: Annotated[float | None, typer.Option(help="What stays of its average of the squared gradient.")] = None,
    adam_eps: Annotated[float | None, typer.Option(help="Added to the root of that average.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Not on batch norm and biases.")] = None,
    schedule: Annotated[Schedule | None, typer.Option(help="Of the learning rate.")] = None,
    input_noise: Annotated[float | None, typer.Option(help="Standard deviation of noise on the inputs.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share of the target spread over all classes.")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="Epochs between evaluations.")] = None,
    early_stopping_patience: Annotated[
        int | None, typer.Option(help="Stop after so many evaluations without improvement.")
    ] = None,
    engine: Annotated[EngineName | None, typer.Option(help="What computes the step.")] = None,
    data_dir: DataDir = None,
    split_seed: Annotated[int | None, typer.Option(min=0, help="For sets without a test part. [default: 0]")] = None,
    device: Device = None,
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    as_json: Json = False,
) -> None:
    """Train a batch-normalised network, evaluate it on the way, test it at the end.

    Options that are not given have the recipe's value.
    """
    overrides = {f.name: ctx.params[f.name] for f in fields(TrainingConfig) if ctx.params[f.name] is not None}
    base = _recipe(recipe) if recipe is not None else None
    plan = None
    if resume is not None:
        from batchnorm.training.runs import check_same, load_plan

        plan = load_plan(resume)
        check_same(plan, resume, base, overrides, dataset=dataset, split_seed=split_seed, n_seeds=seeds)
        if out is not None and out != resume:
            raise InputError(f"--out {out} and --resume {resume} name two folders: leave out --out")
        config, out, seeds, dataset, split_seed = plan.config, resume, plan.n_seeds, plan.dataset, plan.split_seed
        threads, device = threads or plan.session.get("threads"), device or plan.session.get("device")
    else:
        config = replace(base or _recipe(_DEFAULT_RECIPE), **overrides)
    start_torch(threads)
    device = device or "cpu"

    from batchnorm.training import ProgressMonitor
    from batchnorm.training.runs import resume_command

    lines = not (quiet or as_json)
    data = load_data(dataset, data_dir, split_seed or 0, begun=plan, quiet=quiet)
    if out is None:
        out = _new_folder(
            f"{data.name}-{recipe or _DEFAULT_RECIPE}-{f'seeds{seeds}' if seeds else f'seed{config.seed}'}"
        )
    if lines:
        sizes = ", ".join(f"{len(part):,} {name}" for name, part in data.parts.items())
        print(f"{data.name} from {data.source}: {sizes} examples; run folder {out}", flush=True)
    monitor = ProgressMonitor(lines=lines, bar=not quiet, seeds=seeds is not None)
    try:
        if seeds is None:
            run = _train_one(data, config, out, resume is not None, device, monitor)
            results = {"run": str(out), "dataset": data.name, "history": run.history, **run.results}
        else:
            from batchnorm.training import fit_seeds, summarize

            runs = fit_seeds(data, config, seeds, out=out, resuming=resume is not None, device=device, monitor=monitor)
            results = {"run": str(out), "dataset": data.name, **summarize(runs)}
            if lines:
                _print_summary(results)
    except TrainingInterrupted as stopped:
        fail(f"{stopped}, and saved: go on with {resume_command(out)}", stopped.exit_code)
    except KeyboardInterrupt:
        if not out.exists():
            raise
        fail(f"interrupted after what was saved last: go on with {resume_command(out)}", INTERRUPTED)
    if as_json:
        print(json.dumps(results, indent=2))


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder of a finished run.")],
    *,
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Which part of its data.")] = "test",
    data_dir: DataDir = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Evaluate a trained network with its running averages and with its population statistics."""
    from batchnorm.training.runs import load_plan

    plan = load_plan(run)
    if plan.n_seeds is not None:
        raise InputError(
            f"{run} holds {plan.n_seeds} runs: name one of them, such as {run / f'seed-{plan.config.seed}'}"
        )
    start_torch(threads or plan.session.get("threads"))

    from batchnorm.training import evaluate_run

    data = load_data(plan.dataset, data_dir, plan.split_seed or 0, begun=plan, quiet=as_json)
    evaluations = evaluate_run(run, data, split, device=device or "cpu")
    if as_json:
        figures = {kind: e.to_dict() for kind, e in evaluations.items()}
        print(json.dumps({"run": str(run), "split": split, **figures}, indent=2))
    else:
        _print_evaluations(evaluations, split, data.class_names)


@app.command()
def datasets(*, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the data sets that are known by name: which are here, and how to get the others."""
    from batchnorm.data import availability

    found = availability(data_dir)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("name", "what", "licence", box=None, pad_edge=False)
    table.add_column("where", overflow="fold")
    for row in found:
        mark = "[green]✓[/green]" if row["available"] else "–"
        table.add_row(row["name"], row["title"], row["licence"], f"{mark} {escape(row['where'])}")
    print_table(table)


def _recipe(name: str) -> TrainingConfig:
    from batchnorm.config import recipes

    if name not in recipes:
        raise InputError(f"there is no recipe {name!r}: known are {', '.join(recipes)}")
    return recipes[name]


def _new_folder(name: str) -> Path:
    """Return a folder in runs/ that does not exist yet."""
    path, n = Path("runs") / name, 2
    while path.exists():
        path, n = Path("runs") / f"{name}-{n}", n + 1
    return path


def _train_one(
    data: "Dataset", config: TrainingConfig, out: Path, resuming: bool, device: str, monitor: "Monitor"
) -> "Run":
    from batchnorm.network import DenseNetwork
    from batchnorm.training import fit, resume

    if resuming:
        return resume(out, data, device=device, monitor=monitor)
    network = DenseNetwork.from_config(config, data.n_features, data.n_classes)
    return fit(network, data, config, out=out, device=device, monitor=monitor)


def _print_summary(summary: dict[str, Any]) -> None:
    """Print mean ± standard deviation over seeds, in the tutorial's lines."""

    def show(spread: dict[str, float]) -> str:
        return f"{spread['mean']:.4f} ± {spread['sd']:.4f}"

    print(f"mean ± standard deviation over {len(summary['seeds'])} seeds")
    for row in summary["evaluations"]:
        print(f"{row['epoch']} train acc: {show(row['train_accuracy'])} val acc: {show(row['validation_accuracy'])}")
    if "population" in summary["test_accuracy"]:
        print(f"Test acc with population statistics: {show(summary['test_accuracy']['population'])}")
    print(f"Test acc: {show(summary['test_accuracy']['running'])}")


def _print_evaluations(evaluations: "dict[str, Evaluation]", split: str, class_names: "Sequence[str]") -> None:
    from rich.table import Table

    for kind, what in (("population", "population statistics"), ("running", "running averages")):
        if kind in evaluations:
            evaluation = evaluations[kind]
            print(f"{split} acc: {evaluation.accuracy:.6g} loss: {evaluation.loss:.4g} with {what}")
    table = Table(title="label \\ prediction, with running averages", box=None, title_justify="left")
    table.add_column("")
    for name in class_names:
        table.add_column(name, justify="right")
    for label, counts in enumerate(evaluations["running"].confusion.tolist()):
        cells = [f"[bold]{n}[/bold]" if label == guess else str(n or "·") for guess, n in enumerate(counts)]
        table.add_row(class_names[label], *cells)
    print_table(table)
