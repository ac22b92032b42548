"""What all commands have in common: the application, options, errors, torch, tables."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from batchnorm.version import __version__

if TYPE_CHECKING:
    from rich.console import RenderableType

    from batchnorm.data import Dataset
    from batchnorm.training.runs import Plan

INTERRUPTED = 130

app = typer.Typer(
    help="Train batch-normalised networks, and keep their training and inference apart.",
    add_completion=False,
    rich_markup_mode=None,  # its columns cut option names short at 80 characters
    context_settings={"help_option_names": ["-h", "--help"]},
)


def fail(message: str, exit_code: int) -> NoReturn:
    """End the process with one line on standard error."""
    print("batchnorm:", " ".join(message.splitlines()), file=sys.stderr)
    sys.exit(exit_code)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"batchnorm {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


DataDir = Annotated[Path | None, typer.Option(help="Folder with a sub-folder per data set (or set BATCHNORM_DATA).")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. [default: cpu]")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="Processor threads; results depend on them.")]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]


def start_torch(threads: int | None) -> None:
    """Import torch, which takes a second, and set its threads.

    Until then Ctrl-C ends the process at once: there is nothing to save, and libraries that are interrupted while they
    are imported raise misleading errors of their own.
    """
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        import torch
    finally:
        signal.signal(signal.SIGINT, previous)
    if threads is not None:
        torch.set_num_threads(threads)


def load_data(
    name: str | None, data_dir: Path | None, split_seed: int, *, begun: "Plan | None", quiet: bool
) -> "Dataset":
    """Load a data set; that of a run which was begun, from where it came then unless another folder is given."""
    from batchnorm.data import data_dir_of, load_dataset, load_default_dataset
    from batchnorm.progress import DownloadBar

    progress = None if quiet else DownloadBar
    if begun is not None and data_dir is None:
        data_dir = data_dir_of(begun.dataset, begun.session.get("data"))
    if name is not None:
        return load_dataset(name, data_dir=data_dir, split_seed=split_seed, progress=progress)
    dataset, why_not_mnist = load_default_dataset(data_dir=data_dir, split_seed=split_seed, progress=progress)
    if why_not_mnist and not quiet:
        print(f"{why_not_mnist}: training on {dataset.name} instead", file=sys.stderr, flush=True)
    return dataset


def print_table(table: "RenderableType", *, least: int = 80) -> None:
    """Print a table as wide as a terminal, but never so narrow that numbers would be cut."""
    from rich.console import Console

    console = Console()
    console.width = max(console.width, least) if console.is_terminal else 120
    console.print(table)
