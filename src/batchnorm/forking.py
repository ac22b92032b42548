"""What a forked process must not take over: it has its parent's memory, but of its threads only the one that forked.

The parent's OpenMP threads are gone as well, and torch would wait for them: GNU's OpenMP, which torch has on Linux,
keeps count of a pool that is not there. With one thread torch needs no pool.
"""

import os
import sys
from collections.abc import Callable
from typing import Protocol


class _Lock(Protocol):
    def acquire(self) -> object: ...

    def release(self) -> object: ...


def in_forked_processes(function: Callable[[], None]) -> Callable[[], None]:
    """Have each process that is forked from this one call a function first."""
    if hasattr(os, "register_at_fork"):  # not on Windows, which knows no fork
        os.register_at_fork(after_in_child=function)
    return function


def fork_when_free(lock: _Lock) -> None:
    """Have a fork wait for a lock, so that its child sees nothing half-done, and no lock that nobody will release.

    Parameters
    ----------
    lock : lock
        One that the same thread can take twice: it may fork while it has it. It is taken before those that were
        registered earlier: whoever holds it may wait for these alone.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


@in_forked_processes
def _use_one_thread() -> None:
    set_num_threads = getattr(sys.modules.get("torch"), "set_num_threads", None)
    if set_num_threads is not None:
        set_num_threads(1)
