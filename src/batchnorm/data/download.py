"""Downloads: with a checksum, a limit of time and of size, a progress bar, and the next mirror when one fails."""

import hashlib
import importlib.util
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urljoin, urlsplit

from batchnorm.data.catalogue import IdxEntry
from batchnorm.errors import DatasetUnavailableError, install_command
from batchnorm.files import write_atomically

if TYPE_CHECKING:
    import requests

_CONNECT_SECONDS, _READ_SECONDS = 5.0, 30.0
_CHUNK_BYTES, _MOST_REDIRECTIONS = 1 << 16, 10


class DownloadProgress(Protocol):
    """What shows a file's download, in bytes."""

    total: int

    def update(self, n: int) -> None:
        """Say that `n` more bytes are there."""

    def close(self) -> None:
        """Say that the file is complete."""


MakeProgress = Callable[[str], DownloadProgress]


def can_download() -> bool:
    """Tell whether the package that downloads is installed."""
    return importlib.util.find_spec("requests") is not None


def download(
    entry: IdxEntry,
    folder: Path,
    *,
    progress: MakeProgress | None = None,
    within_seconds: float | None = None,
) -> None:
    """Download the entry's files into `folder`: each from the first mirror that has it with the right checksum.

    Files that are already there and right are kept; where all are, nothing is imported that downloads. A file is kept
    in memory until it is whole and checked: nothing is left of one that is not. The time given holds for all files
    together, however slowly a mirror answers; none may be larger than ``entry.most_bytes``.

    Raises
    ------
    DatasetUnavailableError
        If no mirror delivered, with what each of them answered, or what downloads is not installed.
    """
    missing = [file for file in entry.files if not _is_right(folder / file, entry.checksums[file])]
    if not missing:
        return
    if not can_download():
        why = f"{_state(entry, folder, missing[0])} and downloads need requests, which is not installed"
        raise DatasetUnavailableError(why, install_command("datasets"))
    deadline = math.inf if within_seconds is None else time.monotonic() + within_seconds
    mirrors = deque(entry.mirrors)
    for file in missing:
        failures = []
        for _ in entry.mirrors:
            try:
                shown = progress(f"{entry.name}/{file}") if progress else _NoProgress()
                content = _fetch(mirrors[0] + file, entry.most_bytes, shown, deadline)
                _check(content, entry.checksums[file])
                break
            except _MirrorError as failure:
                failures.append(f"{urlsplit(mirrors[0]).netloc}: {failure}")
                mirrors.rotate(-1)  # the next try, and the next file, begin with another mirror
        else:
            raise DatasetUnavailableError(
                f"{_state(entry, folder, file)} and {file} could not be downloaded ({'; '.join(failures)})",
                f"put the four files into a folder {entry.name} and name the folder above it with --data-dir",
            )
        _write(folder / file, content)


def _is_right(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _state(entry: IdxEntry, folder: Path, file: str) -> str:
    return f"{folder / file} is damaged" if (folder / file).exists() else f"{entry.name} is not on this machine"


def _fetch(url: str, most_bytes: int, progress: DownloadProgress, deadline: float) -> bytes:
    """Download one file from one mirror.

    A thread of its own does it, and is left to itself when the time is over: it may be waiting for a name, a
    connection, a certificate, a redirection, headers or content, and no time-out holds for all of these together.
    """
    parts: queue.SimpleQueue[int | bytes | Exception] = queue.SimpleQueue()
    given_up = threading.Event()
    threading.Thread(target=_deliver, args=(url, most_bytes, parts, given_up), daemon=True).start()
    content = bytearray()
    try:
        while part := _next(parts, deadline, begun=bool(content)):
            if isinstance(part, Exception):
                raise _MirrorError(_reason(part)) from part
            if isinstance(part, int):
                progress.total = part
            else:
                content += part
                progress.update(len(part))
    finally:
        given_up.set()
        progress.close()
    return bytes(content)


def _next(parts: "queue.SimpleQueue[int | bytes | Exception]", deadline: float, begun: bool) -> int | bytes | Exception:
    seconds_left = deadline - time.monotonic()
    try:
        if seconds_left > 0:
            return parts.get(timeout=None if seconds_left == math.inf else seconds_left)
    except queue.Empty:
        raise _MirrorError("not complete within the time that it was given" if begun else "no answer in time") from None
    raise _MirrorError("no time left")


def _deliver(
    url: str, most_bytes: int, parts: "queue.SimpleQueue[int | bytes | Exception]", given_up: threading.Event
) -> None:
    """Put the size of a file, its content piece by piece, and an empty piece; or what went wrong."""
    try:
        for part in _parts(url, most_bytes):
            if given_up.is_set():
                return
            parts.put(part)
        parts.put(b"")
    except Exception as error:
        parts.put(error)


def _parts(url: str, most_bytes: int) -> Iterator[int | bytes]:
    import requests

    with requests.Session() as session, _answer(session, url) as response:
        response.raise_for_status()
        length = response.headers.get("Content-Length", "")
        _check_size(announced := int(length) if length.isdecimal() else 0, most_bytes)
        if announced:
            yield announced
        read = getattr(response.raw, "read1", response.raw.read)  # read1: what is there, however slowly more follows
        n_bytes = 0
        while chunk := read(_CHUNK_BYTES, decode_content=False):
            n_bytes += len(chunk)
            _check_size(n_bytes, most_bytes)
            yield chunk


def _answer(session: "requests.Session", url: str) -> "requests.Response":
    """Return the answer at the end of redirections; of these nothing is read but their headers."""
    import requests

    for _ in range(_MOST_REDIRECTIONS):
        # As it is: what a server packs once more could be of any size when it is unpacked.
        request = session.prepare_request(requests.Request("GET", url, headers={"Accept-Encoding": "identity"}))
        settings = session.merge_environment_settings(url, {}, True, None, None)  # True: stream
        # Past Session.send, which reads all that a redirection holds even where it does not follow it.
        response = session.get_adapter(url).send(request, timeout=(_CONNECT_SECONDS, _READ_SECONDS), **settings)
        if (there := session.get_redirect_target(response)) is None:
            return response
        url = urljoin(url, there)
        response.close()
    raise _MirrorError(f"more than {_MOST_REDIRECTIONS} redirections")


def _check_size(n_bytes: int, most_bytes: int) -> None:
    if n_bytes > most_bytes:
        raise _MirrorError(f"the file is larger than the {most_bytes:,} bytes that it may have")


def _check(content: bytes, sha256: str) -> None:
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise _MirrorError(f"the file's SHA-256, {found}, does not match the known hash, {sha256}")


def _reason(error: Exception) -> str:
    """Say in one line why a mirror did not deliver."""
    import requests
    import urllib3

    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return " ".join(str(error).split()) or type(error).__name__


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise DatasetUnavailableError(
            f"{path} cannot be written ({error.strerror or error})", "make room, or name a folder with --data-dir"
        ) from error


class _MirrorError(Exception):
    """A mirror did not deliver; says why."""


class _NoProgress:
    total = 0

    def update(self, n: int) -> None: ...

    def close(self) -> None: ...
