"""What a forked process must not take over: it has its parent's memory, but of its threads only the one that forked.

The parent's OpenMP threads are gone as well, and torch would wait for them: GNU's OpenMP, which torch has on Linux,
keeps count of a pool that is not there. With one thread torch needs no pool.
"""

import os
import sys
from collections.abc import Callable


def in_forked_processes(function: Callable[[], None]) -> Callable[[], None]:
    """Have each process that is forked from this one call a function first."""
    if hasattr(os, "register_at_fork"):  # not on Windows, which knows no fork
        os.register_at_fork(after_in_child=function)
    return function


@in_forked_processes
def _use_one_thread() -> None:
    set_num_threads = getattr(sys.modules.get("torch"), "set_num_threads", None)
    if set_num_threads is not None:
        set_num_threads(1)
