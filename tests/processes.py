"""Processes that are forked from this one: what a new one imports for seconds, they have at once."""

import multiprocessing
import os
import sys
import warnings

from batchnorm import cli

SECONDS = 120  # a process that takes longer hangs


class Forked:
    """Some work in a forked process, with the methods of `subprocess.Popen` that tests need.

    What it prints goes to two files of a folder; of standard error, to a terminal where one is given. The process does
    not outlive this one.
    """

    def __init__(self, work, folder, terminal=None, **environment):
        self._files = [folder / f"{os.urandom(4).hex()}.{name}" for name in ("out", "err")]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
            context = multiprocessing.get_context("fork")
            self._process = context.Process(target=_work, args=(work, self._files, terminal, environment), daemon=True)
            self._process.start()
        self.pid = self._process.pid

    def poll(self):
        """Return the exit code, or None while it runs."""
        return self._process.exitcode

    def communicate(self):
        """Wait for its end; return what it printed on standard output and on standard error."""
        self._process.join(SECONDS)
        assert self._process.exitcode is not None, f"no end after {SECONDS} seconds"
        return tuple(file.read_bytes() for file in self._files)


def _work(work, files, terminal, environment):
    output, errors = (os.open(file, os.O_WRONLY | os.O_CREAT) for file in files)
    os.dup2(output, 1)
    os.dup2(errors if terminal is None else terminal, 2)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.environ.update(environment)
    work()


class CommandLine(Forked):
    """The command line in a forked process."""

    def __init__(self, words, folder, terminal=None, **environment):
        def work():
            sys.argv = ["batchnorm", *map(str, words)]
            cli.main()

        super().__init__(work, folder, terminal, **environment)


def run_afresh(code, folder, missing=()):
    """Run code in a process that has yet to import our package, as if others were not installed.

    Return what it printed on standard output and on standard error.
    """

    def work():
        os.chdir(folder)
        for name in list(sys.modules):
            if name.partition(".")[0] in {"batchnorm", *missing}:
                del sys.modules[name]
        sys.modules.update(dict.fromkeys(missing))  # None: not to be found
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})

    process = Forked(work, folder)
    output, errors = (printed.decode() for printed in process.communicate())
    assert process.poll() == 0, errors
    return output, errors
