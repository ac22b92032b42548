"""How many threads a training is worth."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from batchnorm.forking import in_forked_processes

_WORTH_SEVERAL = 4e6  # multiply-adds of a forward pass; below, threads wait for each other longer than they work
_lock = threading.Lock()
_trainings: set[object] = set()  # that run with one thread at the moment
_threads_before = 1


@in_forked_processes
def _forget_other_threads() -> None:
    """Have a forked process no trainings, and no number of threads from before it: it has one."""
    global _lock, _threads_before
    _lock, _threads_before = threading.Lock(), 1
    _trainings.clear()


@contextmanager
def threads_for(multiply_adds: float) -> Iterator[None]:
    """Have torch use one thread where a step is too small for several, and afterwards as many as before.

    Where other work goes on, waiting for a second thread makes a small step several times as slow.
    """
    global _threads_before
    if multiply_adds >= _WORTH_SEVERAL:
        yield
        return
    training = object()
    with _lock:  # of trainings at the same time, the first one takes note
        if not _trainings:
            _threads_before = torch.get_num_threads()
        _trainings.add(training)
    torch.set_num_threads(1)  # of the thread that this is called in
    try:
        yield
    finally:
        torch.set_num_threads(_threads_before)
        with _lock:
            _trainings.discard(training)
