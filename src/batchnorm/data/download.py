"""Downloads: with a checksum, a progress bar, and the next mirror when one fails."""

import hashlib
import importlib.util
import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from batchnorm.data.catalogue import IdxEntry
from batchnorm.errors import DatasetUnavailableError, install_command

_CONNECT_SECONDS, _READ_SECONDS = 5.0, 30.0
_CHUNK_BYTES = 1 << 11  # small, as the time left is looked at between two of them


class DownloadProgress(Protocol):
    """What shows a file's download, in bytes: the protocol of pooch's progress bars."""

    total: int

    def update(self, n: int) -> None:
        """Say that `n` more bytes are there."""

    def reset(self) -> None:
        """Start again from 0."""

    def close(self) -> None:
        """Say that the file is complete."""


MakeProgress = Callable[[str], DownloadProgress]


def can_download() -> bool:
    """Tell whether the packages that download are installed."""
    return all(importlib.util.find_spec(package) is not None for package in ("pooch", "requests"))


def download(
    entry: IdxEntry,
    folder: Path,
    *,
    progress: MakeProgress | None = None,
    within_seconds: float | None = None,
) -> None:
    """Download the entry's files into `folder`: each from the first mirror that has it with the right checksum.

    Files that are already there and right are kept; where all are, nothing is imported that downloads. A file appears
    whole and checked, or not at all.

    Raises
    ------
    DatasetUnavailableError
        If no mirror delivered, with what each of them answered, or what downloads is not installed.
    """
    missing = [file for file in entry.files if not _is_right(folder / file, entry.checksums[file])]
    if not missing:
        return
    if not can_download():
        why = f"{_state(entry, folder, missing[0])} and downloads need pooch and requests, which are not installed"
        raise DatasetUnavailableError(why, install_command("datasets"))
    import pooch

    pooch.get_logger().setLevel("ERROR")  # what went wrong is told here, in one line
    deadline = math.inf if within_seconds is None else time.monotonic() + within_seconds
    mirrors = deque(entry.mirrors)
    for file in missing:
        failures = []
        for _ in entry.mirrors:
            try:
                shown = progress(f"{entry.name}/{file}") if progress else _NoProgress()
                _fetch(mirrors[0] + file, entry.checksums[file], folder / file, _Deadline(shown, deadline))
                break
            except _MirrorError as failure:
                failures.append(f"{urlsplit(mirrors[0]).netloc}: {failure}")
                mirrors.rotate(-1)  # the next try, and the next file, begin with another mirror
        else:
            raise DatasetUnavailableError(
                f"{_state(entry, folder, file)} and {file} could not be downloaded ({'; '.join(failures)})",
                f"put the four files into a folder {entry.name} and name the folder above it with --data-dir",
            )


def _is_right(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _state(entry: IdxEntry, folder: Path, file: str) -> str:
    return f"{folder / file} is damaged" if (folder / file).exists() else f"{entry.name} is not on this machine"


def _fetch(url: str, sha256: str, path: Path, progress: "_Deadline") -> None:
    """Download one file from one mirror."""
    import pooch
    import requests

    seconds_left = progress.deadline - time.monotonic()
    if seconds_left <= 0:
        raise _MirrorError("no time left")
    downloader = pooch.HTTPDownloader(
        progressbar=progress,
        chunk_size=_CHUNK_BYTES,
        timeout=(min(_CONNECT_SECONDS, seconds_left), min(_READ_SECONDS, seconds_left)),
    )
    try:
        pooch.retrieve(url, f"sha256:{sha256}", fname=path.name, path=path.parent, downloader=downloader)
    except (requests.Timeout, requests.ConnectionError) as error:
        # A time-out in the middle of a file comes as a ConnectionError.
        timed_out = isinstance(error, requests.Timeout) or "timed out" in str(error)
        raise _MirrorError("no answer in time" if timed_out else "no connection") from error
    except (requests.RequestException, ValueError) as error:  # ValueError: the checksum differs
        raise _MirrorError(" ".join(str(error).split())) from error
    except OSError as error:
        raise DatasetUnavailableError(
            f"{path} cannot be written ({error.strerror or error})", "make room, or name a folder with --data-dir"
        ) from error
    finally:
        progress.close()


class _MirrorError(Exception):
    """A mirror did not deliver; says why."""


class _NoProgress:
    total = 0

    def update(self, n: int) -> None: ...

    def reset(self) -> None: ...

    def close(self) -> None: ...


class _Deadline:
    """Pass progress on, and end a download that is out of time: pooch has no other hook between two chunks."""

    def __init__(self, shown: DownloadProgress, deadline: float):
        self.shown, self.deadline = shown, deadline

    @property
    def total(self) -> int:
        return self.shown.total

    @total.setter
    def total(self, total: int) -> None:
        self.shown.total = total

    def update(self, n: int) -> None:
        if time.monotonic() > self.deadline:
            raise _MirrorError("not complete within the time that it was given")
        self.shown.update(n)

    def reset(self) -> None:
        self.shown.reset()

    def close(self) -> None:
        self.shown.close()
