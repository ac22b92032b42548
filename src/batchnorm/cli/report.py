"""The command that reports: one page that shows a run."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchnorm.cli.app import PATH, DataDir, Json, app, check_out, holds_table, plan_of_one_run, print_json, start_torch
from batchnorm.errors import InputError
from batchnorm.printing import printable
from batchnorm.progress import is_terminal

if TYPE_CHECKING:
    from batchnorm.data import Dataset

WriteReport = Annotated[
    bool, typer.Option("--report", help="Write the page that shows the run into its folder (see 'batchnorm report').")
]


@app.command()
def report(
    run: Annotated[Path, typer.Argument(**PATH, help="Run folder; of several seeds, that of one of them.")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", **PATH, help="File to write. [default: RUN/report.html]")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(**PATH, help="Folder to write the page's figures to as well, as SVG files.")
    ] = None,
    no_examples: Annotated[
        bool, typer.Option("--no-examples", help="Leave out examples of your data, such as the worst mistakes.")
    ] = False,
    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="Leave out the network, which one can play with in the page.")
    ] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write one HTML file that shows a run: how good it is, what it gets wrong, what happens inside of its layers.

    It opens in any browser, without a network. A run that was stopped or has diverged is shown as it was saved last.
    """
    _check(run, output, figures)
    from batchnorm.reporting import write_report

    written = write_report(
        run,
        output=output,
        figures=figures,
        examples=not no_examples,
        weights=not no_weights,
        data_dir=data_dir,
        show_progress=not as_json,
    )
    if as_json:
        print_json(written.to_dict())
        return
    for text in (*written.notices, *written.summary, written):
        print(printable(text))


def _check(run: Path, output: Path | None, figures: Path | None) -> None:
    if not holds_table(run):
        plan_of_one_run(run)
    from batchnorm.reporting import REPORT
    from batchnorm.training.runs import holds_run

    if output is not None and output.absolute() != (run / REPORT).absolute():
        check_out("--output", output)
    for folder in () if figures is None else (figures.resolve(), *figures.resolve().parents):
        if holds_run(folder):
            raise InputError(
                f"--figures {figures} lies in the run folder {folder}, whose files are its own: choose one elsewhere"
            )


def check_reporting(wanted: bool) -> None:
    """Say what is missing for a page before a training, rather than after it."""
    if wanted:
        start_torch(None)
        from batchnorm.reporting import check_packages

        check_packages()


def report_on(runs: Sequence[Path], dataset: "Dataset | None", *, wanted: bool, lines: bool) -> None:
    """Write the pages of runs that have just ended, or tell who sits at a terminal how to get one."""
    if not wanted:
        if lines and is_terminal(sys.stdout):
            from batchnorm.training.runs import report_command

            print(printable(f"{report_command(runs[0])} shows it"))
        return
    from batchnorm.reporting import write_report

    for run in runs:
        written = write_report(run, dataset)
        if lines:
            print(printable(written))
