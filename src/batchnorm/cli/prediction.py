"""The command that predicts: tables with a run on a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchnorm.cli.app import PATH, Json, Threads, app, print_json, start_torch
from batchnorm.errors import InputError
from batchnorm.printing import printable

if TYPE_CHECKING:
    from batchnorm.tables import Predictions


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(**PATH, help="Folder of a run on a table.")],
    files: Annotated[
        list[Path], typer.Argument(**PATH, help="Tables with the columns that were trained on; - is standard input.")
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", **PATH, help="File to write, by its suffix .csv, .jsonl or .parquet. [default: print CSV]"
        ),
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(help="Column to hand on beside the predictions.")] = None,
    unsure_below: Annotated[
        float | None, typer.Option(min=0, max=1, help="Mark rows whose best probability is less.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no notices.")] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Predict the rows of tables: classes with their probabilities, or values.

    Columns may stand in another order. Notices go to standard error.
    """
    if as_json and output is None:
        raise InputError("--json prints what was done, and predictions are printed too: name a file by --output")
    start_torch(threads)
    from batchnorm.tables import Predictions, TableRun, write_predictions

    loaded = TableRun.load(run)
    parts = [Predictions(loaded, path, tuple(keep or ()), unsure_below) for path in files]
    with write_predictions(output) as writer:
        for part in parts:
            for batch in part:
                writer.write(batch)
    if as_json:
        print_json({"run": str(run), "output": str(output), "files": [_described(part) for part in parts]})
    elif not quiet:
        _notify(parts, output)


def _described(part: "Predictions") -> dict[str, Any]:
    return {
        "file": str(part.path), "rows": part.rows, "columns_passed_over": part.extra, "strange_values": part.strange,
        "unsure": None if part.least is None else part.unsure,
    }  # fmt: skip


def _notify(parts: "Sequence[Predictions]", output: Path | None) -> None:
    for part in parts:
        lines = []
        if part.extra:
            lines.append(f"columns that were not trained on are passed over: {', '.join(part.extra)}")
        lines += [
            f"values of {name!r} that were rare, or not there, in training: {n:,}" for name, n in part.strange.items()
        ]
        if part.least is not None:
            lines.append(f"rows that are unsure: {part.unsure:,} of {part.rows:,}")
        if output is not None:
            lines.append(f"rows predicted: {part.rows:,}")
        for line in lines:
            typer.echo(printable(f"{part.path}: {line}"), err=True)
