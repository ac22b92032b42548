"""Standard input, output and error as they are found: closed, full, a pipe that ends, of any encoding."""

import codecs
import io
import os
import sys
from contextlib import suppress
from typing import TextIO

# What stands for the signs that we print ourselves where an encoding lacks them.
_SPELLED = {
    "±": "+-", "·": ".", "×": "x", "–": "-", "—": "-", "−": "-", "→": "->", "…": "...", "✓": "+", "≈": "~",
    "σ": "sd", "γ": "gamma", "β": "beta", "²": "^2", "━": "-", "╸": "-", "╺": "-",
}  # fmt: skip


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    return _SPELLED.get(sign) or sign.encode("ascii", "backslashreplace").decode(), error.start + 1


codecs.register_error("batchnorm.spell", _spell)


def prepare_streams() -> None:
    """Have all three streams there, and the output take every character: work must not fail when it is shown."""
    _fill_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="batchnorm.spell")


def _fill_closed() -> None:
    """Put the null device in the place of streams that are closed; else the next file that is opened is taken for one.

    Python has None for them, which `print` takes for standard output.
    """
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115  # open for the rest of the process


def settle(stream: TextIO) -> None:
    """Write what a stream still holds, or drop it where nobody takes it: Python complains of it at the very end."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
