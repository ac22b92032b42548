"""The command line: parse, call, print. Nothing is computed here, and nothing heavy is imported before it is used."""

import os
import sys
import warnings
from typing import Any, NoReturn

import typer

from batchnorm.cli import training  # noqa: F401  # registers its commands, the first of the help

# isort: split
from batchnorm.cli import runs, toolkit  # noqa: F401
from batchnorm.cli.app import INTERRUPTED, app, fail
from batchnorm.errors import BatchnormError, InputError, UncheckedRunWarning

_TRACEBACK_VARIABLE = "BATCHNORM_TRACEBACK"


def main() -> NoReturn:
    """Run the command line: one line on standard error and exit code 2 for bad input, 1 for what went wrong."""
    try:
        with warnings.catch_warnings():
            _show_warnings()
            exit_code = app(standalone_mode=False) or 0
        if exit_code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            fail("interrupted", exit_code)
        sys.exit(exit_code)
    except InputError as error:
        fail(str(error), 2)
    except BatchnormError as error:
        fail(str(error), 1)
    except typer.TyperException as error:
        fail(f"{error.format_message()} (see --help)", error.exit_code)
    except OSError as error:
        fail(f"{error.filename or 'input or output'}: {error.strerror or error}", 1)
    except Exception as error:
        if os.environ.get(_TRACEBACK_VARIABLE):
            raise
        fail(f"{type(error).__name__}: {error} (set {_TRACEBACK_VARIABLE}=1 to see where)", 1)


def _show_warnings() -> None:
    """Have our own warnings shown as a line each, once, without their place in our code; others as Python does."""
    told, show = set(), warnings.showwarning

    def show_as_a_line(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, UncheckedRunWarning):
            show(message, category, *place, **more)
        elif str(message) not in told:
            told.add(str(message))
            print("batchnorm:", message, file=sys.stderr)

    warnings.simplefilter("always", UncheckedRunWarning)
    warnings.showwarning = show_as_a_line
