"""One thread that answers request by request, while the event loop reads others; and what may wait for it."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch

from batchnorm.serving.limits import Limits, RefusedError


class Worker:
    """The thread, and how many requests are under way.

    Requests are not put together, and not computed beside each other, so that an answer does not depend on what else is
    asked; torch's threads work within one.

    Parameters
    ----------
    limits : Limits
    """

    def __init__(self, limits: Limits):
        self._limits = limits
        # A thread has a number of torch's threads of its own.
        self._thread = ThreadPoolExecutor(1, "predicting", torch.set_num_threads, (torch.get_num_threads(),))
        self._under_way = 0

    @contextmanager
    def place(self) -> Iterator["Place"]:
        """Take a place among the requests under way; it is free when the block and what it computes have ended.

        Raises
        ------
        RefusedError
            If all are taken.
        """
        if self._under_way >= self._limits.waiting:
            raise RefusedError(503, f"{self._under_way} requests are under way already: try again later")
        self._under_way += 1
        place = Place(self._thread)
        try:
            yield place
        finally:
            if place.computation is None:
                self._free()
            else:  # a thread cannot be interrupted: what was given up goes on
                loop = asyncio.get_running_loop()
                place.computation.add_done_callback(partial(_call_in, loop, self._free))

    def _free(self) -> None:
        self._under_way -= 1

    def close(self) -> None:
        """Take no more work; what is computed goes on to its end."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], None], _: object) -> None:
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(function)


class Place:
    """A request's place, in which something is computed once."""

    def __init__(self, thread: ThreadPoolExecutor):
        self._thread = thread
        self.computation: Future[Any] | None = None

    async def compute(self, function: Callable[[], bytes]) -> bytes:
        """Return what a function returns in the thread; if this is cancelled before its turn, it is not called."""
        self.computation = self._thread.submit(function)
        return await asyncio.wrap_future(self.computation)
