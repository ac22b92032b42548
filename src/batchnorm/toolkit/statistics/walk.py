"""A forward pass that stops half-way and goes on when it is told to: in a thread of its own, which waits meanwhile.

At any time either it runs or whoever has told it to, never both.
"""

import contextvars
import threading
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch.overrides import _get_current_function_mode_stack, _push_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


class _AbandonedError(BaseException):
    """Ends a forward pass that nobody will let go on; no model's `except Exception` catches it."""


class Walk:
    """A forward pass in a thread of its own.

    It has the surroundings of the thread that makes it: whether gradients are taken, autocast, torch's function modes,
    the CUDA device and stream, context variables.

    Parameters
    ----------
    work : callable
        Runs the forward pass, in which someone calls `pause`.
    """

    def __init__(self, work: Callable[[], object]):
        self.waits_at: str | None = None
        self.ended = False
        self.error: BaseException | None = None
        self._abandoned = False
        self._go, self._stopped = _closed(), _closed()
        target = contextvars.copy_context().run
        self._thread = threading.Thread(target=target, args=(self._run, work, _Surroundings()), daemon=True)

    def go_on(self, seconds: float | None = None) -> bool:
        """Let it run until it pauses or ends; return whether it has done so within this time.

        Raises
        ------
        RuntimeError
            If there can be no more threads.
        """
        if self._thread.ident is None:
            self._thread.start()
        else:
            _open(self._go)
        return self._stopped.acquire(timeout=-1 if seconds is None else seconds)

    def pause(self, place: str) -> None:
        """Wait, in the thread itself, for the next `go_on`."""
        if not self._abandoned:
            self.waits_at = place
            _open(self._stopped)
            self._go.acquire()
            self.waits_at = None
        if self._abandoned:
            raise _AbandonedError

    def abandon(self) -> None:
        """Have it raise where it waits, or at its next pause, and wait for its end."""
        self._abandoned = True
        if self._thread.ident is not None:
            _open(self._go)
            self._thread.join()

    def _run(self, work: Callable[[], object], surroundings: "_Surroundings") -> None:
        try:
            with surroundings.entered():
                work()
        except _AbandonedError:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.ended = True
            _open(self._stopped)


def _closed() -> threading.Lock:
    """Return a gate, which the next one to pass waits for and shuts behind itself; a semaphore takes twice as long."""
    gate = threading.Lock()
    gate.acquire()
    return gate


def _open(gate: threading.Lock) -> None:
    if gate.locked():
        gate.release()


class _Surroundings:
    """What torch keeps for each thread apart, as it is in this one."""

    def __init__(self) -> None:
        kinds = ["cpu"]
        self._stream = None
        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            kinds.append("cuda")
            self._stream = torch.cuda.current_stream()
        self._gradients, self._inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        self._autocast = [(kind, torch.get_autocast_dtype(kind)) for kind in kinds if torch.is_autocast_enabled(kind)]
        self._keeps_casts = torch.is_autocast_cache_enabled()
        self._function_modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]

    def entered(self) -> ExitStack:
        """Have the same in a new thread, which has nothing of it."""
        stack = ExitStack()
        stack.enter_context(torch.inference_mode() if self._inference else torch.set_grad_enabled(self._gradients))
        for kind, dtype in self._autocast:
            stack.enter_context(torch.autocast(kind, dtype, cache_enabled=self._keeps_casts))
        if self._stream is not None:
            stack.enter_context(torch.cuda.stream(self._stream))
        for mode in self._function_modes:
            _push_mode(mode)  # type: ignore[no-untyped-call]
        return stack


def can_walk() -> bool:
    """Tell whether all that surrounds this thread can surround others: modes below torch's functions cannot."""
    transformed = torch._C._functorch.peek_interpreter_stack() is not None
    return not transformed and not _get_current_dispatch_mode_stack()
