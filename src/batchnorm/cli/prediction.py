"""The command that predicts: tables with a run on a table, images and arrays with one that was trained on such."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchnorm.cli.app import PATH, Json, Threads, app, check_output, plan_of_one_run, print_json, start_torch
from batchnorm.errors import InputError
from batchnorm.files import is_there
from batchnorm.printing import printable
from batchnorm.progress import Bar, is_standard_output_shown

if TYPE_CHECKING:
    from batchnorm.tables import ExamplePredictions, Predictions

_STANDARD_STREAM = Path("-")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(**PATH, help="Folder of a finished run.")],
    files: Annotated[
        list[Path],
        typer.Argument(
            **PATH,
            help="Of a run on a table, tables with the columns that were trained on (- is standard input); of one on "
            "images, images and folders of such; of any on arrays, .npz, .npy or IDX files of inputs.",
        ),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", **PATH, help="File to write, by its suffix .csv, .jsonl or .parquet. [default: print CSV]"
        ),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Column of the table to hand on beside the predictions.")
    ] = None,
    unsure_below: Annotated[
        float | None, typer.Option(min=0, max=1, help="Mark rows whose best probability is less.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no notices.")] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Predict rows of tables, images or arrays: classes with their probabilities, or values.

    A table's columns may stand in another order. What is no image is named and passed over. Notices go to standard
    error.
    """
    output = None if output == _STANDARD_STREAM else output
    if output is not None:
        check_output(output, run, files)
    if as_json and output is None:
        raise InputError("--json prints what was done, and predictions are printed too: name a file by --output")
    start_torch(threads)
    from batchnorm.training.runs import TABLE_FILE

    of_kind = _of_tables if is_there(run / TABLE_FILE) else _of_examples
    parts = of_kind(run, files, keep or (), unsure_below)
    _write(parts, output, show=not quiet and (output is not None or not is_standard_output_shown()))
    if as_json:
        print_json({"run": str(run), "output": str(output), "files": [part.to_dict() for part in parts]})
    elif not quiet:
        for line in _notices(parts, output):
            typer.echo(printable(line), err=True)


def _of_tables(
    run: Path, files: Sequence[Path], keep: Sequence[str], least: float | None
) -> "Sequence[Predictions | ExamplePredictions]":
    from batchnorm.tables import Predictions, TableRun

    loaded = TableRun.load(run)
    return [Predictions(loaded, path, tuple(keep), least) for path in files]


def _of_examples(
    run: Path, files: Sequence[Path], keep: Sequence[str], least: float | None
) -> "Sequence[Predictions | ExamplePredictions]":
    if keep:
        raise InputError(f"--keep hands on a column of a table, and {run} was not trained on one: leave it out")
    if _STANDARD_STREAM in files:
        raise InputError(f"standard input is read for runs on tables, and {run} was not trained on one: name files")
    plan_of_one_run(run)
    from batchnorm.tables import open_examples
    from batchnorm.training import load_run

    return open_examples(load_run(run), files, least)


def _write(parts: "Sequence[Predictions | ExamplePredictions]", output: Path | None, *, show: bool) -> None:
    """Predict and write all files, wholly or not at all."""
    from batchnorm.tables import write_predictions

    with write_predictions(output) as writer, Bar("predicting", show, "rows") as bar:
        bar.expect(sum(part.expected for part in parts))
        for part in parts:
            for batch in part:
                writer.write(batch)
                bar.advance(batch.num_rows)


def _notices(parts: "Sequence[Predictions | ExamplePredictions]", output: Path | None) -> Iterator[str]:
    for part in parts:
        begin = f"{part.path}: " if part.path is not None else ""
        yield from part.notices()
        if part.least is not None:
            yield f"{begin}rows that are unsure: {part.unsure:,} of {part.rows:,}"
        if output is not None:
            yield f"{begin}rows predicted: {part.rows:,}"
