"""The commands of the toolkit, for any torch model: diagnose, recalibrate, fold."""

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
    check_out,
    given,
    load_data,
    print_json,
    print_table,
    start_torch,
)
from batchnorm.errors import InputError
from batchnorm.printing import printable_lines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

_BATCH_SIZE = 64


def _reference(text: str) -> str:
    return given(text, "a run folder or package.module:name")


Model = Annotated[
    str,
    typer.Argument(
        parser=_reference,
        metavar="MODEL",
        help="package.module:name of a model or what builds it, or a run folder of ours.",
    ),
]
Weights = Annotated[
    Path | None, typer.Option(**PATH, help="safetensors, or a file of torch.save that holds tensors alone.")
]
Data = Annotated[Path | None, typer.Option(**PATH, help="Inputs, a .npy file. [default: a run's training data]")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help=f"Examples at a time. [default: {_BATCH_SIZE}, or what a run trained with]")
]
Method = Annotated[
    Literal["exact", "one-pass"], typer.Option(help="One pass over the data per level of layers, or one at all.")
]
Out = Annotated[Path, typer.Option(**PATH, help="Where to write the weights, as safetensors.")]


@app.command()
def diagnose(
    model: Model,
    *,
    weights: Weights = None,
    data: Data = None,
    labels: Annotated[
        Path | None, typer.Option(**PATH, help="Classes, a .npy file: tells the gap as a cross-entropy loss.")
    ] = None,
    batch_size: BatchSize = None,
    method: Method = "exact",
    fail_on: Annotated[
        Literal["warning", "error"], typer.Option(help="From which severity on the exit code is 3.")
    ] = "warning",
    html: Annotated[Path | None, typer.Option(**PATH, help="Write the report there, too, as a piece of HTML.")] = None,
    data_dir: DataDir = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Find what is wrong with the batch norm of a model, and what fixes it. Exit code 3 if something was found."""
    check_out("--html", html, weights, data, labels)
    start_torch(threads)
    from batchnorm.cli.models import cross_entropy, loss_of_run, others_code
    from batchnorm.files import write_atomically
    from batchnorm.toolkit import diagnose

    loss = loss_of_run if data is None else cross_entropy if labels is not None else None
    # A file has been cut into batches here, not by a training.
    training = False if data is not None and batch_size is None else None
    with others_code(model, data):
        network, batches = _model_and_batches(model, weights, data, labels, batch_size, data_dir, device)
        report = diagnose(network, batches, loss=loss, training=training, method=method)
    if html is not None:
        write_atomically(html, report.to_html().encode())
    if as_json:
        print_json(report.to_dict())
    else:
        print_table(report, least=100)
    if fail_on == "warning" or any(finding.severity == "error" for finding in report.findings):
        raise typer.Exit(report.exit_code)


@app.command()
def recalibrate(
    model: Model,
    *,
    out: Annotated[Path | None, typer.Option(**PATH, help="Where to write the weights, as safetensors.")] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Put the statistics into a run folder of ours: evaluate takes them.")
    ] = False,
    weights: Weights = None,
    data: Data = None,
    batch_size: BatchSize = None,
    method: Method = "exact",
    data_dir: DataDir = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Replace a model's running averages by the population statistics of data, and write its weights.

    In a run folder, --in-place replaces its population statistics and nothing else.
    """
    if in_place == (out is not None):
        raise InputError("expected either --out FILE for the weights, or --in-place for a run folder of ours")
    if in_place and not Path(model).is_dir():
        raise InputError(f"{model} is not a run folder, which --in-place needs: name a file by --out")
    check_out("--out", out, weights, data)
    start_torch(threads)
    from batchnorm.cli.models import others_code, save_weights
    from batchnorm.toolkit import recalibrate

    with others_code(model, data):
        network, batches = _model_and_batches(model, weights, data, None, batch_size, data_dir, device)
        done = recalibrate(network, batches, method=method)
    if out is not None:
        save_weights(network, out)
    else:
        _save_population(Path(model), network, done.changes, data, method)
    if as_json:
        print_json(({"run": model} if out is None else {"out": str(out)}) | done.to_dict())
    else:
        print(printable_lines(f"{done}\n{f'put into {model}' if out is None else f'weights written to {out}'}"))


def _save_population(path: Path, network: "nn.Module", layers: "Iterable[str]", data: Path | None, method: str) -> None:
    from batchnorm.training.runs import RunFolder, population_of

    folder = RunFolder.open(path)
    origin = {"data": "the training set" if data is None else data.name, "method": method}
    with folder.locked():
        folder.save_population(population_of(network.state_dict(), layers), origin)


@app.command()
def fold(
    model: Model,
    *,
    out: Out,
    weights: Weights = None,
    data: Annotated[
        Path | None,
        typer.Option(**PATH, help="Inputs to verify it on, a .npy file: its first batch. [default: random ones]"),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Fold batch norm into the layers beside it, verify that outputs stay, and write the weights.

    They belong into what batchnorm.fold makes of the same model.
    """
    check_out("--out", out, weights, data)
    start_torch(threads)
    from batchnorm.cli.models import ArrayBatches, others_code, save_weights
    from batchnorm.toolkit import fold

    with others_code(model, data):
        network = _model(model, weights, device)
        example = None if data is None else next(iter(ArrayBatches(data, None, _BATCH_SIZE, network)))
        folded = fold(network, example)
    done = folded.folding
    save_weights(folded, out)
    if as_json:
        print_json({"out": str(out)} | done.to_dict())
    else:
        print(printable_lines(f"{done}\nweights written to {out}"))


def _model(reference: str, weights: Path | None, device: str | None) -> "nn.Module":
    """Return the model in inference mode."""
    from batchnorm.cli.models import build_model, load_weights
    from batchnorm.training import load_run

    if Path(reference).is_dir():
        if weights is not None:
            raise InputError(f"{reference} is a run folder, which has weights of its own: leave out --weights")
        model: nn.Module = load_run(reference).network
    else:
        model = build_model(reference)
        if weights is not None:
            load_weights(model, weights)
    try:
        return model.to(device or "cpu").eval()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}: {str(error).splitlines()[0]}") from error


def _model_and_batches(
    reference: str,
    weights: Path | None,
    data: Path | None,
    labels: Path | None,
    batch_size: int | None,
    data_dir: Path | None,
    device: str | None,
) -> "tuple[nn.Module, Iterable[Any]]":
    from batchnorm.cli.models import ArrayBatches

    model = _model(reference, weights, device)
    if data is not None:
        return model, ArrayBatches(data, labels, batch_size or _BATCH_SIZE, model)
    if not Path(reference).is_dir():
        raise InputError("there are no data: name a .npy file of inputs, such as --data x.npy")
    if labels is not None:
        raise InputError("--labels belong to --data, which is not given")
    from batchnorm.training.runs import load_plan

    plan = load_plan(Path(reference))
    training = load_data(plan.dataset, data_dir, plan.split_seed or 0, begun=plan, quiet=True).train
    return model, training.as_learnt().blocks(batch_size or plan.config.batch_size)
