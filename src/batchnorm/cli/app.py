"""What all commands have in common: the application, options, errors, torch, tables."""

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from batchnorm.cli.streams import settle
from batchnorm.errors import BatchnormWarning, DatasetUnavailableError, InputError
from batchnorm.files import check_writable
from batchnorm.printing import json_text, printable
from batchnorm.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from batchnorm.data import Dataset
    from batchnorm.training.runs import Plan

INTERRUPTED = 130
CLOSED = 141  # what a shell has for a process that ends because nobody reads its output
TRACEBACK_VARIABLE = "BATCHNORM_TRACEBACK"


class OutputClosedError(Exception):
    """Nobody reads standard output any more."""


@contextmanager
def _telling_of_a_closed_pipe() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise OutputClosedError from error


class _Commands(TyperGroup):
    """The commands. Typer would end silently where nobody reads what they, or their help, print."""

    @_telling_of_a_closed_pipe()
    def make_context(self, *args: Any, **options: Any) -> Any:
        return super().make_context(*args, **options)

    @_telling_of_a_closed_pipe()
    def invoke(self, ctx: Any) -> Any:
        return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    help="Train batch-normalised networks, and keep their training and inference apart.",
    add_completion=False,
    rich_markup_mode=None,  # its columns cut option names short at 80 characters
    context_settings={"help_option_names": ["-h", "--help"]},
)


def fail(message: str, exit_code: int) -> NoReturn:
    """End the process with one line on standard error."""
    with suppress(OSError, ValueError):
        print("batchnorm:", printable(" ".join(message.splitlines())), file=sys.stderr, flush=True)
    settle(sys.stdout)
    settle(sys.stderr)
    sys.exit(exit_code)


def print_json(value: Any) -> None:
    """Print JSON."""
    print(json_text(value))


@contextmanager
def own_warnings() -> Iterator[None]:
    """Show our warnings as a line on standard error, and those of libraries not at all: they advise programmers."""
    shown = set()

    def show(message: Warning | str, *rest: Any, **more: Any) -> None:
        if str(message) in shown:
            return
        shown.add(str(message))
        with suppress(OSError, ValueError):
            print(f"batchnorm: warning: {printable(message)}", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        if not os.environ.get(TRACEBACK_VARIABLE):
            warnings.simplefilter("ignore")
            warnings.simplefilter("default", BatchnormWarning)
            warnings.showwarning = show
        yield


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
    else:
        _check_working_folder()


def _check_working_folder() -> None:
    """Refuse to work from nowhere: torch cannot be imported there, and says something else."""
    try:
        Path.cwd()
    except OSError as error:
        raise InputError(
            f"the folder that you are in cannot be used ({error.strerror}): go to another one by cd"
        ) from error


def given(text: str, expected: str) -> str:
    """Return what was given; what is empty is a variable of a script that is not set, and no name of a folder."""
    if not text:
        raise typer.BadParameter(f"it is empty, expected {expected}")
    return text


def _path(text: str) -> Path:
    return Path(given(text, "a path"))


PATH: dict[str, Any] = {"parser": _path, "metavar": "PATH"}  # of an option or argument that takes one
DataDir = Annotated[
    Path | None, typer.Option(**PATH, help="Folder with a sub-folder per data set (or set BATCHNORM_DATA).")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. [default: cpu]")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="Processor threads; results depend on them.")]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]


def start_torch(threads: int | None) -> None:
    """Import torch, which takes a second, and set its threads.

    Until then Ctrl-C ends the process at once: there is nothing to save, and libraries that are interrupted while they
    are imported raise misleading errors of their own.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what it logs below is for its developers
    previous = signal.getsignal(signal.SIGINT)
    kept_back = previous is signal.default_int_handler  # else it is ignored, or somebody else's
    if kept_back:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        import torch
    finally:
        if kept_back:
            signal.signal(signal.SIGINT, previous)
    if threads is not None:
        torch.set_num_threads(threads)


def holds_table(run: Path) -> bool:
    """Tell whether a run folder is that of a run on a table."""
    start_torch(None)
    from batchnorm import tables

    return tables.holds_table(run)


def plan_of_one_run(run: Path) -> "Plan":
    """Return what a run was begun with; the folder of several runs is refused."""
    from batchnorm.training.runs import load_plan_of_one

    return load_plan_of_one(run)


def check_out(option: str, path: Path | None, *given: Path | None) -> None:
    """Refuse to write over what is read, or into a run folder."""
    if path is None:
        return
    check_writable(path)
    if any(file is not None and file.exists() and path.exists() and path.samefile(file) for file in given):
        raise InputError(f"{option} {path} is a file that is read: choose another name")
    from batchnorm.training.runs import holds_run

    for folder in path.resolve().parents:
        if holds_run(folder):
            raise InputError(
                f"{option} {path} lies in the run folder {folder}, whose files are its own: choose one outside of it"
            )


def load_data(
    name: str | None,
    data_dir: Path | None,
    split_seed: int,
    *,
    begun: "Plan | None",
    quiet: bool,
    paths: "Sequence[Path]" = (),
) -> "Dataset":
    """Load a data set; that of a run which was begun, from where it came then unless another folder is given.

    One of the user's own comes from `paths`, or from those that the run was begun with.
    """
    from batchnorm.data import data_dir_of, load_again, load_dataset, load_default_dataset
    from batchnorm.progress import DownloadBar

    if begun is not None and (origin := begun.session.get("origin")) is not None:
        return load_again(
            origin, begun.dataset, paths=paths, data_dir=data_dir, split_seed=split_seed, show_progress=not quiet
        )
    progress = None if quiet else DownloadBar
    moved = None
    if begun is not None and data_dir is None:
        source = begun.session.get("data")
        data_dir = data_dir_of(begun.dataset, source)
        moved = source if data_dir is None and source and Path(source).is_absolute() else None
    if name is not None:
        try:
            return load_dataset(name, data_dir=data_dir, split_seed=split_seed, progress=progress)
        except DatasetUnavailableError as error:
            if moved is None:
                raise
            raise DatasetUnavailableError(
                f"the run was begun with the data in {moved}, which is not there now, and {error.why}",
                f"say by --data-dir which folder holds {name} now",
            ) from error
    dataset, why_not_mnist = load_default_dataset(data_dir=data_dir, split_seed=split_seed, progress=progress)
    if why_not_mnist and not quiet:
        with suppress(OSError, ValueError):
            print(f"{printable(why_not_mnist)}: training on {dataset.name} instead", file=sys.stderr, flush=True)
    return dataset


def print_confusion(confusion: "Sequence[Sequence[int]]", class_names: "Sequence[str]", what: str) -> None:
    """Print how often which class was predicted for which: [label][prediction]."""
    from rich.table import Table
    from rich.text import Text

    print(f"label \\ prediction, {what}")
    table = Table(box=None)
    table.add_column("")
    names = [Text(printable(name)) for name in class_names]
    for name in names:
        table.add_column(name, justify="right")
    for label, counts in enumerate(confusion):
        cells = [Text(str(n), "bold") if label == guess else str(n or "·") for guess, n in enumerate(counts)]
        table.add_row(names[label], *cells)
    print_table(table)


def print_table(table: "RenderableType", *, least: int = 80) -> None:
    """Print a table as wide as a terminal, but never so narrow that numbers would be cut."""
    from rich.console import Console

    console = Console(emoji=False)
    console.width = max(console.width, least) if console.is_terminal else 120
    with console.capture() as text:
        console.print(table)
    print(text.get(), end="")  # rich itself ends the process where nobody reads
