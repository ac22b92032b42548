"""The command that exports: what a run has trained, as a file that runs elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from batchnorm.cli.app import (
    PATH,
    DataDir,
    Json,
    Threads,
    app,
    check_output,
    load_data,
    plan_of_one_run,
    print_json,
    start_torch,
)
from batchnorm.errors import BatchnormError, InputError
from batchnorm.files import is_there
from batchnorm.printing import printable, printable_lines

if TYPE_CHECKING:
    from batchnorm.data import Dataset
    from batchnorm.exporting import Exported
    from batchnorm.tables import TableRun
    from batchnorm.training.runs import Plan

_SUFFIXES = {"onnx": ".onnx", "torch": ".safetensors", "torch-export": ".pt2"}
_SOME = 1000  # rows that are compared


@app.command()
def export(
    run: Annotated[Path, typer.Argument(**PATH, help="Run folder of a finished run.")],
    *,
    format: Annotated[
        Literal["onnx", "torch", "torch-export"],
        typer.Option(help="onnx: with the input stage inside; torch: plain layers' weights; torch-export: a program."),
    ] = "onnx",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", **PATH, help="File to write. [default: the run's name]")
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            **PATH, help="Table on whose rows outputs are compared. [default: the one trained on, if it is there]"
        ),
    ] = None,
    quantize: Annotated[
        Literal["int8"] | None,
        typer.Option(help="Of a run on images or arrays, as ONNX: 8 bits; prints what they cost in accuracy."),
    ] = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Write what a run has trained as a file that runs elsewhere, once it is known to compute the same.

    Batch norm is folded away, and the input stage is inside: of a run on a table what columns become, of one on images
    or arrays the scale.
    """
    start_torch(threads)
    from batchnorm.training.runs import TABLE_FILE

    target = output or Path(run.resolve().name + _SUFFIXES[format])
    check_output(target, run, () if rows is None else (rows,))
    if is_there(run / TABLE_FILE):
        if data_dir is not None:
            raise InputError(f"{run} was trained on a table: name one by --rows, in place of --data-dir")
        exported = _of_table(run, target, format, rows, quantize)
    else:
        if rows is not None:
            raise InputError("--rows is for runs on tables: leave it out")
        exported = _of_examples(run, target, format, data_dir, quantize, quiet=as_json)
    if as_json:
        print_json(exported.to_dict())
    else:
        print(printable_lines(exported))


def _of_table(run: Path, target: Path, format: str, rows: Path | None, quantize: str | None) -> "Exported":
    from batchnorm.exporting import export as write
    from batchnorm.tables import TableRun

    loaded = TableRun.load(run)
    return write(loaded, target, format, example=_rows(loaded, rows), quantize=quantize)


def _of_examples(
    run: Path, target: Path, format: str, data_dir: Path | None, quantize: str | None, *, quiet: bool
) -> "Exported":
    plan = plan_of_one_run(run)
    from batchnorm.exporting import export as write
    from batchnorm.training import load_run

    loaded = load_run(run)
    loaded.known_signature()
    data: Dataset | None
    try:
        data = _data(run, plan, data_dir, quiet=quiet)
    except BatchnormError as error:
        if quantize is not None or data_dir is not None:
            raise
        typer.echo(printable(f"{error}; outputs are compared on inputs that are made up"), err=True)
        data = None
    return write(loaded, target, format, example=data, rows=None if data is None else _SOME, quantize=quantize)


def _rows(run: "TableRun", given: Path | None) -> Any:
    """Return real rows to compare on, or None, which has some made up, where the table trained on is not there."""
    from batchnorm.tables import first_rows

    path = Path(run.session["files"][0]) if given is None else given
    try:
        return first_rows(run, path)
    except InputError:
        if given is not None:
            raise
        typer.echo(f"{printable(path)} is not there as it was: outputs are compared on rows that are made up", err=True)
        return None


def _data(run: Path, plan: "Plan", data_dir: Path | None, *, quiet: bool) -> "Dataset":
    """Return the data that a run was trained on, to the bit."""
    from batchnorm.training import check_dataset
    from batchnorm.training.runs import RunFolder

    data = load_data(plan.dataset, data_dir, plan.split_seed or 0, begun=plan, quiet=quiet)
    check_dataset(RunFolder.open(run), data)
    return data
