"""Processes that begin as copies of one that has imported, once, what a new one imports for seconds.

That one computes nothing: what it would have done, torch's autograd on a machine with a GPU among it, its copies could
not do.
"""

import multiprocessing
import os
import sys
from contextlib import suppress

METHOD = "forkserver"
CONTEXT = multiprocessing.get_context(METHOD)
CONTEXT.set_forkserver_preload(
    ["pytest", "torch._dynamo", "batchnorm.cli", "batchnorm.estimator", "batchnorm.kernels.cpu", "batchnorm.network"]
)
SECONDS = 120  # a process that takes longer hangs


class Copied:
    """A function that is called in a process of its own, with the methods of `subprocess.Popen` that tests need.

    What it prints goes to two files of a folder; of standard error, to a terminal where the name of one is given. The
    process does not outlive this one.
    """

    def __init__(self, function, *arguments, folder, terminal=None, **environment):
        self._files = [folder / f"{os.urandom(4).hex()}.{name}" for name in ("out", "err")]
        streams = (self._files[0], terminal or self._files[1])
        environment = {**os.environ, **environment}  # the copied process has the one that it was started with
        arguments = (function, arguments, streams, environment)
        self._process = CONTEXT.Process(target=_call, args=arguments, daemon=True)
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        """Return the exit code, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, number):
        """Send a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def printed(self):
        """Return what it has printed on standard output so far."""
        return self._files[0].read_text() if self._files[0].exists() else ""

    def communicate(self):
        """Wait for its end; return what it printed on standard output and on standard error."""
        self._process.join(SECONDS)
        assert self._process.exitcode is not None, f"no end after {SECONDS} seconds"
        return tuple(file.read_bytes() if file.exists() else b"" for file in self._files)


def _call(function, arguments, streams, environment):
    for number, name in enumerate(streams, 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)


def command_line(words, folder, **options):
    """Start the command line in a process of its own."""
    return Copied(run_command_line, ["batchnorm", *map(str, words)], folder=folder, **options)


def run_command_line(words):
    """Run the command line in this process, which is a copied one."""
    from batchnorm import cli

    sys.argv = words
    cli.main()


def run_afresh(code, folder, missing=()):
    """Run code in a process that has yet to import our package, as if others were not installed.

    Return what it printed on standard output and on standard error.
    """
    process = Copied(_run_afresh, code, folder, missing, folder=folder)
    output, errors = (printed.decode() for printed in process.communicate())
    assert process.poll() == 0, errors
    return output, errors


def _run_afresh(code, folder, missing):
    os.chdir(folder)
    for name in list(sys.modules):
        if name.partition(".")[0] in {"batchnorm", *missing}:
            del sys.modules[name]
    sys.modules.update(dict.fromkeys(missing))  # None: not to be found
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
