"""The command line: parse, call, print. Nothing is computed here, and nothing heavy is imported before it is used."""

import os
import sys
from typing import NoReturn

import typer

from batchnorm.cli import training  # noqa: F401  # registers its commands, the first of the help

# isort: split
from batchnorm.cli import toolkit  # noqa: F401
from batchnorm.cli.app import INTERRUPTED, app, fail
from batchnorm.errors import BatchnormError, InputError

_TRACEBACK_VARIABLE = "BATCHNORM_TRACEBACK"


def main() -> NoReturn:
    """Run the command line: one line on standard error and exit code 2 for bad input, 1 for what went wrong."""
    try:
        exit_code = app(standalone_mode=False) or 0
        if exit_code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            fail("interrupted", exit_code)
        sys.exit(exit_code)
    except InputError as error:
        fail(error.on_command_line, 2)
    except BatchnormError as error:
        fail(error.on_command_line, 1)
    except typer.TyperException as error:
        fail(f"{error.format_message()} (see --help)", error.exit_code)
    except OSError as error:
        fail(f"{error.filename or 'input or output'}: {error.strerror or error}", 1)
    except Exception as error:
        if os.environ.get(_TRACEBACK_VARIABLE):
            raise
        fail(f"{type(error).__name__}: {error} (set {_TRACEBACK_VARIABLE}=1 to see where)", 1)
