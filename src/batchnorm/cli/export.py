"""The command that exports: what a run has trained, as a file that runs elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from batchnorm.cli.app import PATH, Json, Threads, app, print_json, start_torch
from batchnorm.errors import InputError
from batchnorm.printing import printable, printable_lines

if TYPE_CHECKING:
    from batchnorm.tables import TableRun

_SUFFIXES = {"onnx": ".onnx", "torch": ".safetensors", "torch-export": ".pt2"}


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
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Write what a run has trained as a file that runs elsewhere, once it is known to compute the same.

    Batch norm is folded away, and of a run on a table the input stage is inside.
    """
    start_torch(threads)
    from batchnorm.exporting import export as write
    from batchnorm.tables import TableRun, load_run

    loaded = load_run(run)
    target = output or Path(run.resolve().name + _SUFFIXES[format])
    if not isinstance(loaded, TableRun):
        if rows is not None:
            raise InputError("--rows is for runs on tables: leave it out")
        exported = write(loaded, target, format)
    else:
        exported = write(loaded, target, format, example=_rows(loaded, rows))
    if as_json:
        print_json(exported.to_dict())
    else:
        print(printable_lines(exported))


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
