"""The command that lists run folders."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchnorm.cli.app import PATH, Json, app, print_json, print_table, start_torch
from batchnorm.errors import BatchnormError
from batchnorm.printing import printable

if TYPE_CHECKING:
    from rich.table import Table


@app.command()
def runs(
    folder: Annotated[
        Path,
        typer.Argument(**PATH, help="A run folder, or one that holds run folders or comparisons.", show_default=True),
    ] = Path("runs"),
    *,
    accept_edits: Annotated[
        bool, typer.Option("--accept-edits", help="Give a run whose files you have edited the checksums of these.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List run folders, verify their checksums, and show how their configurations differ.

    Exit code 1 if one is damaged or cannot be read.
    """
    start_torch(None)
    from batchnorm.comparing import cell_folders
    from batchnorm.tables import TableFolder, holds_table, list_table_runs
    from batchnorm.training import runs as of_training

    if accept_edits and holds_table(folder):
        TableFolder.open(folder, trusting=True).reseal()
    elif accept_edits:
        of_training.accept_edits(folder)

    rows = [*of_training.list_runs(folder), *list_table_runs(folder)]
    for cells in cell_folders(folder):
        rows += of_training.list_runs(cells)
    differing = of_training.differing_fields(rows)
    if as_json:
        print_json({"runs": rows, "differing": differing})
    elif rows:
        print_table(_table(rows, differing))
    else:
        print(f"there are no run folders in {folder}")
    unusable = [row for row in rows if row["why"] is not None]
    if unusable:
        raise BatchnormError(f"{len(unusable)} of {len(rows)} runs cannot be used: {unusable[0]['why']}")


def _table(rows: list[dict[str, Any]], differing: list[str]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("run", "dataset", "state", "test acc", "population", "what differs"):
        table.add_column(name, overflow="fold")
    for row in rows:
        config = row["config"] or {}
        cells = [
            row["run"],
            row["dataset"] or "–",
            _state(row),
            *(_accuracy(row, kind) for kind in ("running", "population")),
            ", ".join(f"{name} {_value(config[name])}" for name in differing if name in config),
        ]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _state(row: dict[str, Any]) -> str:
    if row["why"] is not None:
        return str(row["state"])
    seeds = f", {row['n_finished']} of {row['n_seeds']} seeds" if "n_seeds" in row else ""
    epochs = "" if row["epoch"] is None or row["state"] == "finished" else f" after {row['epoch']} epochs"
    ended = f": {reason.partition(':')[0]}" if (reason := row.get("ended")) else ""
    return f"{row['state']}{seeds}{epochs}{'' if row['checked'] else ' (no checksums)'}{ended}"


def _accuracy(row: dict[str, Any], kind: str) -> str:
    test = row["test"] or {}
    figures = test if kind == "population" and "rows" in test else test.get(kind, {})  # the first of a run on a table
    if "accuracy" in figures:
        return f"{figures['accuracy']:.4f}"
    return "–" if figures.get("r2") is None else f"R² {figures['r2']:.4f}"


def _value(value: Any) -> str:
    return "none" if value is None else ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
