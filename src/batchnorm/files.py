"""Files and folders that are either wholly there or not there at all."""

import io
import json
import math
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchnorm.errors import BatchnormError, InputError

if TYPE_CHECKING:
    from torch import Tensor


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name in the same folder, then rename it.

    Whatever interrupts the writing (a full disk, a kill, a power cut), `path` holds its old content or the new one,
    never a part.
    """
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftover(path: Path) -> None:
    """Remove what a kill has left of the writing of a file; nobody may be writing it."""
    _temporary(path).unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")  # a fixed name: what a kill leaves, the next write removes


def make_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder that appears together with its first files.

    Raises
    ------
    InputError
        If there is something at `path` already.
    BatchnormError
        If it cannot be made; nothing is left of it.
    """
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(
                f"{path} exists already: choose another out=, or go on with it by batchnorm.resume",
                on_command_line=f"{path} exists already: choose another --out, or go on with it by --resume",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-run-", dir=path.parent) as temporary:
            new = Path(temporary) / "run"
            new.mkdir()
            for name, content in files.items():
                write_atomically(new / name, content)
            new.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise BatchnormError(f"the run folder {path} cannot be made: {error.strerror or error}") from error


def json_ready(value: Any) -> Any:
    """Replace what JSON has no number for, NaN and infinite ones, by None."""
    if isinstance(value, dict):
        return {key: json_ready(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any) -> bytes:
    """Return `value` as indented JSON that ends in a newline."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode(errors="backslashreplace")  # of a path that is not UTF-8: JSON has the same escapes


def check_format(path: Path, found: object, known: int) -> None:
    """Check that a file or folder has the format that this version of the package reads and writes.

    Raises
    ------
    InputError
        If it has another one.
    """
    if found != known:
        raise InputError(f"{path} has format {found}, this version of batchnorm reads {known}")


def to_safetensors(tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return named tensors as a safetensors file; those that share memory (tied weights) are each written in full.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        On any device, of any layout in memory.
    metadata : mapping of str to str, optional
        One entry at most, where equal content is to give equal files: safetensors does not keep the order of several.
    """
    import safetensors.torch

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return safetensors.torch.save(plain, None if metadata is None else dict(metadata))


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading; one that may never end, or never begin, is refused.

    Raises
    ------
    InputError
        If there is something else than a regular file: a folder, a device, a FIFO, a socket.
    OSError
        If it cannot be opened.
    """
    # Looked at before it is opened, which alone moves some devices, and after, as it may have been exchanged between.
    _refuse_irregular(path, path.stat())
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = open(descriptor, "rb")  # noqa: PTH123, SIM115
    try:
        _refuse_irregular(path, os.fstat(descriptor))
    except InputError:
        file.close()
        raise
    return file


def _refuse_irregular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, a FIFO or a socket"
        raise InputError(f"{path} is {kind}, expected a file")


def _sync_folder(path: Path) -> None:
    """Have a renaming reach the disk as well, where folders can be opened (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
