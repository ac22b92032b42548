"""The run folder of a command that trains: made under a name that is free, and named to who is to go on with it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from batchnorm.cli.app import CLOSED, INTERRUPTED, fail
from batchnorm.errors import InputError, TrainingInterrupted
from batchnorm.files import check_new_folder


def check_new(out: Path | None) -> None:
    """Refuse what cannot be the name of a new folder before work begins."""
    if out is not None and (out.name in ("", "..") or _is_here(out)):
        raise InputError(f"--out {out} is no name for a new folder: give one, such as --out runs/mine")
    if out is not None:
        check_new_folder(out)


def _is_here(path: Path) -> bool:
    try:
        return path.samefile(".")
    except OSError:
        return False


@contextmanager
def new_folder(given: Path | None, name: str) -> Iterator[Path]:
    """Yield the run folder to make: the given one, or else one in runs/ that is reserved, as others may run beside us.

    What was reserved is given back if nothing came into it.
    """
    if given is not None:
        yield given
        return
    runs, n = Path("runs"), 2
    path, runs_is_new = runs / name, not runs.exists()
    while not _reserve(path):
        path, n = runs / f"{name}-{n}", n + 1
    try:
        yield path
    finally:
        with suppress(OSError):  # it has a run in it
            path.rmdir()
            if runs_is_new:
                runs.rmdir()


def _reserve(path: Path) -> bool:
    """Make an empty folder, unless there is something already: then return False."""
    try:
        path.mkdir(parents=True)
    except (FileExistsError, NotADirectoryError):
        if not path.parent.is_dir():  # a file, or a link that leads nowhere
            raise InputError(f"{path.parent} is no folder in which runs could be: name one to make by --out") from None
        return False
    return True


@contextmanager
def told_how_to_go_on(out: Path) -> Iterator[None]:
    """End the process with what to type to go on, where a training with a run folder ends before its time."""
    from batchnorm.training.runs import resume_command

    how = f"go on with {resume_command(out)}"
    try:
        yield
    except TrainingInterrupted as stopped:
        fail(f"{stopped}, and saved: {how}", stopped.exit_code)
    except KeyboardInterrupt:
        if not _is_begun(out):
            raise
        fail(f"interrupted after what was saved last: {how}", INTERRUPTED)
    except OSError as error:  # files of a run have an error of their own: this is our output
        if not _is_begun(out):
            raise
        if isinstance(error, BrokenPipeError):
            fail(f"nobody reads standard output any more; what came before is saved: {how}", CLOSED)
        fail(f"{error.filename or 'standard output'}: {error.strerror or error}; what came before is saved: {how}", 1)


def _is_begun(out: Path) -> bool:
    return out.is_dir() and any(out.iterdir())
