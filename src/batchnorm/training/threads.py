"""How many threads a training is worth."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_WORTH_SEVERAL = 4e6  # multiply-adds of a forward pass; below, threads wait for each other longer than they work
_lock = threading.Lock()
_trainings = 0  # that run with one thread at the moment
_threads_before = 1


@contextmanager
def threads_for(multiply_adds: float) -> Iterator[None]:
    """Have torch use one thread where a step is too small for several, and afterwards as many as before.

    Where other work goes on, waiting for a second thread makes a small step several times as slow.
    """
    global _trainings, _threads_before
    if multiply_adds >= _WORTH_SEVERAL:
        yield
        return
    with _lock:  # of trainings at the same time, the first one takes note
        if _trainings == 0:
            _threads_before = torch.get_num_threads()
        _trainings += 1
    torch.set_num_threads(1)  # of the thread that this is called in
    try:
        yield
    finally:
        torch.set_num_threads(_threads_before)
        with _lock:
            _trainings -= 1
