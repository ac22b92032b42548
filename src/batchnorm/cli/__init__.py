"""The command line: parse, call, print. Nothing is computed here, and nothing heavy is imported before it is used."""

import os
import sys
from typing import NoReturn

import typer

from batchnorm.cli import training  # noqa: F401  # registers its commands, the first of the help

# isort: split
from batchnorm.cli import compare, export, prediction, report, runs, serve, toolkit  # noqa: F401
from batchnorm.cli.app import CLOSED, INTERRUPTED, TRACEBACK_VARIABLE, OutputClosedError, app, fail, own_warnings
from batchnorm.cli.streams import prepare_streams
from batchnorm.errors import BatchnormError, InputError, is_lack_of_memory, with_class


def main() -> NoReturn:
    """Run the command line: one line on standard error and exit code 2 for bad input, 1 for what went wrong."""
    prepare_streams()
    try:
        with own_warnings():
            exit_code = app(standalone_mode=False) or 0
        sys.stdout.flush()
        if exit_code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            fail("interrupted", exit_code)
        sys.exit(exit_code)
    except (OutputClosedError, BrokenPipeError):
        fail("nobody reads standard output any more", CLOSED)
    except InputError as error:
        fail(error.on_command_line, 2)
    except BatchnormError as error:
        fail(error.on_command_line, 1)
    except typer.TyperException as error:
        fail(f"{error.format_message()} (see --help)", error.exit_code)
    except OSError as error:
        fail(f"{error.filename or 'standard output'}: {error.strerror or error}", 1)
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        if is_lack_of_memory(error):
            fail("memory ran out: try a smaller network, or smaller batches", 1)
        fail(f"{with_class(error)} (set {TRACEBACK_VARIABLE}=1 to see where)", 1)
