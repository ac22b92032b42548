"""Ctrl-C, SIGTERM and a terminal that is closed, kept back until the training has finished its step."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_LEFT_ALONE = (signal.SIG_IGN, None)  # ignored on purpose, as by nohup; or not Python's to put back


@contextmanager
def deferred_interrupts(acknowledge: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """Collect the numbers of the signals that ask to stop. A second one interrupts at once.

    Only Python's main thread receives signals; in another thread this does nothing. A signal that the process ignores
    stays ignored. SIGHUP counts once: a terminal that is closed sends it along with its shell. A process that is forked
    meanwhile answers signals as the parent did before: it is no training, and who ends it may wait for its end.

    Parameters
    ----------
    acknowledge : callable, optional
        Called at once when the first one comes.
    """
    received: list[int] = []
    process = os.getpid()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def receive(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            signal.signal(number, previous[number])
            signal.raise_signal(number)
        elif not received:
            received.append(number)
            acknowledge()
        elif number != getattr(signal, "SIGHUP", None):
            raise KeyboardInterrupt

    previous = {number: handler for number in _SIGNALS if (handler := signal.getsignal(number)) not in _LEFT_ALONE}
    for number in previous:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
