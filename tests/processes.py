"""Processes that are forked from this one: what a new one imports for seconds, they have at once."""

import multiprocessing
import os
import sys
import warnings

from batchnorm import cli

SECONDS = 120  # a process that takes longer hangs


class CommandLine:
    """The command line in a forked process, with the methods of `subprocess.Popen` that tests need.

    What it prints goes to two files of a folder; of standard error, to a terminal where one is given.
    """

    def __init__(self, words, folder, terminal=None, **environment):
        self._files = [folder / f"{os.urandom(4).hex()}.{name}" for name in ("out", "err")]
        self._process = fork(_run_command_line, [*map(str, words)], self._files, terminal, environment)
        self.pid = self._process.pid

    def poll(self):
        """Return the exit code, or None while it runs."""
        return self._process.exitcode

    def communicate(self):
        """Wait for its end; return what it printed on standard output and on standard error."""
        self._process.join(SECONDS)
        assert self._process.exitcode is not None, f"no end after {SECONDS} seconds"
        return tuple(file.read_bytes() for file in self._files)


def fork(work, *arguments):
    """Start a process that does some work; it does not outlive this one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        process = multiprocessing.get_context("fork").Process(target=work, args=arguments, daemon=True)
        process.start()
    return process


def _run_command_line(words, files, terminal, environment):
    output, errors = (os.open(file, os.O_WRONLY | os.O_CREAT) for file in files)
    os.dup2(output, 1)
    os.dup2(errors if terminal is None else terminal, 2)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.environ.update(environment)
    sys.argv = ["batchnorm", *words]
    cli.main()
