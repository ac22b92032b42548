"""What can go wrong, and who can fix it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class BatchnormError(Exception):
    """Something went wrong on the way; the command line answers it with exit code 1.

    Parameters
    ----------
    message : str
        In Python's words; on one line, whatever is quoted in it.
    on_command_line : str, optional
        The same where its remedy is an option or a command; by default the message.
    """

    def __init__(self, message: str = "", *, on_command_line: str | None = None):
        message = " ".join(message.splitlines())
        super().__init__(message)
        self.on_command_line = on_command_line or message


class BatchnormWarning(UserWarning):
    """Something that the user should know; the command line answers it with a line on standard error."""


class InputError(BatchnormError, ValueError):
    """What the user gave cannot be used; the command line answers it with exit code 2."""


class UncheckedRunWarning(BatchnormWarning):
    """A run folder has no checksums, so that damage to it goes unnoticed."""


class DatasetUnavailableError(BatchnormError):
    """A data set is neither on this machine nor can it be downloaded.

    Parameters
    ----------
    why, remedy : str
        Together they are the message.
    """

    def __init__(self, why: str, remedy: str):
        super().__init__(f"{why}; {remedy}")
        self.why, self.remedy = why, remedy


class MissingPackageError(BatchnormError, ImportError):
    """A package is not installed that only a part of this one needs; says how to install it."""


def install_command(extra: str) -> str:
    """Return what installs the packages of an extra."""
    return f"pip install 'batchnorm[{extra}]'"


@contextmanager
def importing(extra: str, why: str) -> Iterator[None]:
    """Say why a package is needed, and how to install it, where an import in the block does not find it.

    Where the block imports something that says so itself, the outer one is right: its extra has all that is needed.

    Parameters
    ----------
    extra : str
        The extra that the package belongs to.
    why : str
        Such as "the estimators need scikit-learn".

    Raises
    ------
    MissingPackageError
    """
    try:
        yield
    except (ModuleNotFoundError, MissingPackageError) as error:
        raise MissingPackageError(f"{why}: {install_command(extra)}") from error


def check_kind(what: str, value: object, kind: type, remedy: str) -> None:
    """Check that an argument is of the class that it must be of."""
    if not isinstance(value, kind):
        raise InputError(f"{what} is of class {type(value).__name__}, expected {kind.__name__}: {remedy}")


def in_words(error: BaseException) -> str:
    """Return what code of someone else's has raised, in one line; its class only where that says something."""
    said = " ".join(str(error).split())
    return said if said and type(error) in (RuntimeError, ValueError, InputError) else with_class(error)


def with_class(error: BaseException) -> str:
    """Return an error's class and what it says, which may be nothing, in one line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}{f': {said}' if said else ' without a message'}"


def is_lack_of_memory(error: Exception) -> bool:
    """Tell whether an error is Python's, numpy's or torch's way to say that there is no more memory."""
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)
    )


@contextmanager
def raised_by_network(what: str, said: Callable[[BaseException], str] = in_words) -> Iterator[None]:
    """Turn whatever a network of someone else's raises in the block into an `InputError` that begins with `what`.

    `said` puts it in words. Our own errors and a lack of memory, which is nobody's mistake, stay what they are.
    """
    try:
        yield
    except BatchnormError:
        raise
    except Exception as error:
        if is_lack_of_memory(error):
            raise
        raise InputError(f"{what}: {said(error)}") from error


class DivergedError(BatchnormError):
    """The loss or a weight became NaN or infinite."""


class TrainingInterrupted(KeyboardInterrupt):
    """The user stopped a training, which finished its step and, if it has a run folder, saved its state.

    Parameters
    ----------
    epoch, step : int
        How many epochs, and steps of the next one, are complete.
    exit_code : int
        What a process that ends for this reason exits with: 128 + the signal's number.
    """

    def __init__(self, epoch: int, step: int, exit_code: int):
        super().__init__(f"interrupted in epoch {epoch} after step {step}")
        self.epoch, self.step, self.exit_code = epoch, step, exit_code
