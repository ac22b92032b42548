"""The server: on its own socket, within time, and stopped without losing a request."""

import asyncio
import ctypes
import ipaddress
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from batchnorm.errors import InputError
from batchnorm.serving.application import make_application
from batchnorm.serving.limits import Limits
from batchnorm.serving.models import ServedModel
from batchnorm.serving.worker import Worker

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_HEADER_SECONDS = 10.0  # until the first line and the headers of a request are there
_REST = 2.0  # seconds at most, for requests that are on their way when the server is stopped
_MOMENT = 0.05  # seconds
_ATTACH_FILTER = 26  # Linux's SO_ATTACH_FILTER


def listen(host: str, port: int) -> socket.socket:
    """Return a socket on which connections are waited for.

    Raises
    ------
    InputError
        If the host is none of this machine's, or the port is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address, family=family)
    except (OSError, UnicodeError) as error:
        why = str(getattr(error, "strerror", None) or error).partition(" (")[0]
        raise InputError(
            f"{host}, port {port}, cannot be listened on ({why}): take another --host or --port (0: any that is free)"
        ) from error
    # Its connections inherit it. asyncio sets it on sockets of its own alone, and without it each answer waits 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address_of(listener: socket.socket) -> tuple[str, bool]:
    """Return the URL of a socket, and whether only this machine reaches it."""
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}", ipaddress.ip_address(host.partition("%")[0]).is_loopback


class Server(uvicorn.Server):
    """What serves a model until SIGINT, SIGTERM or SIGHUP; a second one ends the process at once.

    Parameters
    ----------
    model : ServedModel
    limits : Limits
    host : str
        The name that it is reached by, besides localhost and numbers.
    started : callable
        Called when requests are answered.
    """

    def __init__(self, model: ServedModel, limits: Limits, host: str, started: Callable[[], None]):
        self._worker, self._tell = Worker(limits), started
        super().__init__(
            uvicorn.Config(
                make_application(model, limits, self._worker, host, lambda: self.should_exit),
                http=_Protocol,
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=int(limits.seconds) + 1,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._tell()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was sent, and close. Until then every answer says that its connection is closed behind it.

        uvicorn would drop connections that the system has made and nobody has taken up, and close those on which no
        request has been read yet: here these have a while.
        """
        for listener in sockets or ():
            _turn_away(listener)
        end = time.monotonic() + _REST
        await asyncio.sleep(_MOMENT)
        while self.server_state.connections and time.monotonic() < end:
            await asyncio.sleep(_MOMENT)
        await super().shutdown(sockets)
        self._worker.close()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Have signals stop the server in the block. uvicorn raises them again behind it, which is no success."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.getsignal(number) for number in _SIGNALS}
        handled = [number for number, handler in previous.items() if handler not in (signal.SIG_IGN, None)]
        for number in handled:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number in handled:
                signal.signal(number, previous[number])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop. A terminal that is closed sends SIGHUP along with its shell: it counts once."""
        self.should_exit = True
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)


def _turn_away(listener: socket.socket) -> None:
    """Have the system make no more connections for a socket, which gives out those that it has made.

    Closed, it would drop them, and a client that asks all the time has one made between any last look and the close.
    The filter is a program for the kernel (man 7 socket) that drops what asks for a connection. Where there is
    none, as on a system other than Linux, connections of the last moment may be dropped.
    """
    instructions = (
        (0x30, 0, 0, 13),  # load the byte of TCP's flags
        (0x45, 0, 1, 0x02),  # where SYN is among them go on, else skip one
        (0x06, 0, 0, 0),  # drop the packet
        (0x06, 0, 0, 0xFFFFFFFF),  # keep all of it
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in instructions))
    if sys.platform == "linux":
        with suppress(OSError):
            described = struct.pack("@HP", len(instructions), ctypes.addressof(program))
            listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, described)


class _Protocol(H11Protocol):
    """uvicorn's, which waits for headers as long as a client likes, and leaves one alone that has said it sent all."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection open for the answer to a whole request, and no longer."""
        is_due = self.cycle is not None and not (self.cycle.more_body or self.cycle.response_complete)
        if is_due:
            self.cycle.keep_alive = False
        return is_due

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def _watch(self) -> None:
        """Begin to wait for headers, go on with it, or end it as they are there."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(_HEADER_SECONDS, self.timeout_keep_alive_handler)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
