"""Files and folders that are either wholly there or not there at all, and JSON that is strict."""

import errno
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchnorm.errors import BatchnormError, InputError

try:
    import fcntl
except ImportError:  # Windows: what a kill leaves cannot be told from what is being written, and stays
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from torch import Tensor

_NEW_FOLDER = ".new-run-"
_LARGEST_JSON = 2**26  # bytes: a run of a hundred thousand evaluations


def as_path(what: str, path: str | os.PathLike[str]) -> Path:
    """Return an argument as a path; what is none is refused, and an empty one, which would be the current folder."""
    try:
        text = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise InputError(f"{what} is of class {type(path).__name__}, expected a path: a str or pathlib.Path")
    if not text:
        raise InputError(f"{what} is empty, expected a path")
    return Path(path)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file as `writing_atomically` does, all at once."""
    with writing_atomically(path) as file:
        file.write(content)


@contextmanager
def writing_atomically(path: Path) -> Iterator[io.BufferedWriter]:
    """Open a file under a random name in the same folder, and rename it when the block ends.

    Whatever interrupts the writing (a full disk, a kill, a power cut), and however many write at once, `path` holds its
    old content or a new one, never a part. A link is followed, the mode of what is replaced is kept.

    Raises
    ------
    InputError
        If `path` leads to what is no regular file, or into no folder.
    OSError
        If it cannot be written; nothing is left of it, nor if the block raises.
    """
    target = check_writable(path)
    _remove_leftovers_of(target)
    descriptor, temporary = _open_temporary(target)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if target.exists() and hasattr(os, "fchmod"):
                os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode))
            yield file
            file.flush()
            os.fsync(descriptor)
            if fcntl is not None:  # still locked, so that nobody takes it for a leftover
                temporary.replace(target)
        if fcntl is None:  # Windows renames closed files alone
            temporary.replace(target)
        _sync_folder(target.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # writing itself names nothing
        raise


def check_writable(path: Path) -> Path:
    """Return the file, links followed, that writing to `path` would make or replace; for before the work.

    Raises
    ------
    InputError
        If it leads to what is no regular file (a folder, a device, a pipe), or into no folder.
    BatchnormError
        If nothing may be written into its folder.
    """
    try:
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG  # as it will be
    except (OSError, ValueError) as error:  # a loop of links, a NUL in the name, …
        raise InputError(f"{str(path)!r} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is {_kind(mode)}, expected the name of a file to write")
    if not target.parent.is_dir():
        named = target if path.is_symlink() else path
        raise InputError(f"there is no folder {named.parent} to write {named.name} into: make it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise BatchnormError(f"{path} cannot be written: nothing may be written into {target.parent}")
    return target


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers have left in a folder, of this version and earlier ones; nobody may write there."""
    for path in list(folder.glob(".*.tmp")):
        _remove_if_left_over(path)


def read_regular(path: Path, largest: int = _LARGEST_JSON) -> bytes:
    """Return what is in a regular file of at most so many bytes, or raise InputError."""
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > largest:
            raise InputError(f"{path} has {size:,} bytes, expected at most {largest:,}")
        return file.read()


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading; one that may never end, or never begin, is refused.

    Raises
    ------
    InputError
        If there is none, it cannot be read, or is something else: a folder, a device, a pipe, a socket.
    """
    check_regular(path)  # before it is opened, which alone moves some devices
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    file = open(descriptor, "rb")  # noqa: PTH123, SIM115
    if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):  # exchanged meanwhile
        file.close()
        raise InputError(f"{path} is {_kind(mode)}, expected a file")
    return file


def is_there(path: Path) -> bool:
    """Tell whether there is anything at a path, be it a link that leads nowhere.

    Raises
    ------
    InputError
        If nobody may look: that is not the same as nothing.
    """
    try:
        path.lstat()
    except PermissionError as error:
        raise InputError(f"{path.parent} cannot be read: {error.strerror or error}") from error
    except (OSError, ValueError):
        return False
    return True


def check_regular(path: Path) -> int:
    """Return the size of a regular file, or raise InputError."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (OSError, ValueError) as error:  # as of a NUL in the name
        raise InputError(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is {_kind(found.st_mode)}, expected a file")
    return found.st_size


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _prefix(target: Path) -> str:
    return f".{target.name[:50]}."  # a name may have 255 bytes, a character up to 4


def _open_temporary(target: Path) -> tuple[int, Path]:
    """Open a new file beside the target that nobody can have foreseen, and lock it while it is open."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        temporary = target.with_name(f"{_prefix(target)}{secrets.token_hex(8)}.tmp")
        descriptor = os.open(temporary, flags, 0o666)  # less the umask, as for any new file
        if _lock(descriptor, wait=True) and os.fstat(descriptor).st_nlink == 0:
            os.close(descriptor)  # taken for a leftover before it was locked
            continue
        return descriptor, temporary


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock what is open, and say whether that could be done: not every file system has locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _remove_leftovers_of(target: Path) -> None:
    with suppress(OSError):  # a folder that may be written into, but not listed
        for entry in list(os.scandir(target.parent)):
            name = entry.name
            if name.startswith(_prefix(target)) and name.endswith(".tmp") and len(name) == len(_prefix(target)) + 20:
                _remove_if_left_over(Path(entry.path))


def _remove_if_left_over(path: Path) -> None:
    """Remove a file or folder of a writer that is no more: a living one holds its lock."""
    if fcntl is None:
        return
    with suppress(OSError):  # someone else was faster, or it is a link, which we never make
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            mode = os.fstat(descriptor).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or not _lock(descriptor, wait=False):
                return
            if stat.S_ISDIR(mode):
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        finally:
            os.close(descriptor)


def make_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder that appears together with its first files.

    Raises
    ------
    InputError
        As `check_new_folder`.
    BatchnormError
        If it cannot be made; nothing is left of it.
    """
    target = check_new_folder(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _new_folder(target.parent) as temporary:
            new = temporary / "run"
            new.mkdir()
            for name, content in files.items():
                write_atomically(new / name, content)
            new.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and path.is_dir():  # someone else made it meanwhile
            raise _taken(path) from error
        raise BatchnormError(f"the run folder {path} cannot be made: {error.strerror or error}") from error


def check_new_folder(path: Path) -> Path:
    """Return the folder, links followed, that `make_folder` would make; for before the work.

    Raises
    ------
    InputError
        If there is something at `path` already, it is the folder in which the process works, or nothing can have this
        name: it is too long, or leads through a file or a loop of links.
    """
    try:
        target = Path(os.path.realpath(path))
        os.fsencode(target).decode()  # as what reads it later needs
        there = next(folder for folder in (target, *target.parents) if os.path.lexists(folder))
        is_folder = stat.S_ISDIR(there.stat().st_mode)
        if there == target and (not is_folder or any(target.iterdir())):
            raise _taken(path)
        if not is_folder:
            raise NotADirectoryError(errno.ENOTDIR, f"{there} is no folder")
        for part in target.relative_to(there).parts:  # whose system knows how long a name may be
            with suppress(FileNotFoundError):
                (there / part).lstat()
    except PermissionError as error:
        raise BatchnormError(f"the run folder {path} cannot be made: {error.strerror}") from error
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a NUL in the name, or bytes that are not UTF-8
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{str(path)!r} cannot be the name of a folder: {why}") from error
    if target == Path.cwd():
        raise InputError(f"{str(path)!r} is the folder that you are in: name one to make, such as runs/first")
    return target


def _taken(path: Path) -> InputError:
    return InputError(
        f"{path} exists already: choose another out=, or go on with it by batchnorm.resume",
        on_command_line=f"{path} exists already: choose another --out, or go on with it by --resume",
    )


@contextmanager
def _new_folder(parent: Path) -> Iterator[Path]:
    """Make a folder to work in, locked so that it can be told from what killed processes have left; remove both."""
    for left in list(parent.glob(f"{_NEW_FOLDER}*")):
        _remove_if_left_over(left)
    with tempfile.TemporaryDirectory(prefix=_NEW_FOLDER, dir=parent, ignore_cleanup_errors=True) as name:
        descriptor = os.open(name, os.O_RDONLY) if fcntl is not None else None
        try:
            if descriptor is not None:
                _lock(descriptor, wait=True)
            Path(name).mkdir(exist_ok=True)  # taken for a leftover before it was locked
            yield Path(name)
        finally:
            if descriptor is not None:
                os.close(descriptor)


def json_ready(value: Any) -> Any:
    """Replace what JSON has no number for, NaN and infinite ones, by None."""
    if isinstance(value, dict):
        return {key: json_ready(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any) -> bytes:
    """Return `value` as indented JSON that ends in a newline; NaN and infinite numbers as null."""
    text = json.dumps(json_ready(value), indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode(errors="backslashreplace")  # of a path that is not UTF-8: JSON has the same escapes


def parse_json(content: bytes | str, what: str, *, nan_is_null: bool = False) -> Any:
    """Return what strict JSON says: no NaN, no number beyond a float, no key twice.

    Parameters
    ----------
    content : bytes or str
    what : str
        Names it in errors.
    nan_is_null : bool, default False
        Whether NaN and Infinity, which are no JSON, are read as null.

    Raises
    ------
    InputError
        If it is not that.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        value = json.loads(
            text,
            object_pairs_hook=_without_repetition,
            parse_float=_finite,
            parse_constant=(lambda _: None) if nan_is_null else _no_constant,
        )
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} cannot be read as JSON: {error}") from error
    return value


def canonical_json(value: Any) -> str:
    """Return the one text that stands for a JSON value, however it was laid out."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{name!r} is there twice")
    return values


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is beyond the numbers of a computer")
    return number


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def checksum(text: str, tensors: "Mapping[str, Tensor] | None" = None) -> str:
    """Return the SHA-256 of a text and of named tensors, in hexadecimal digits."""
    digest = hashlib.sha256(text.encode(errors="surrogatepass"))
    for name, tensor in sorted((tensors or {}).items()):
        import torch

        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_laid_out(tensor).reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _laid_out(tensor: "Tensor") -> "Tensor":
    """Return a tensor with its values in the CPU's memory, one behind the other, as they are read."""
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()


def check_format(path: Path, found: object, *known: int) -> None:
    """Check that a file or folder has a format that this version of the package reads.

    Raises
    ------
    InputError
        If it has another one.
    """
    if type(found) is not int or found not in known:
        raise InputError(
            f"{path} has format {str(found)[:40]}, this version of batchnorm reads {' and '.join(map(str, known))}"
        )


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

    plain = {name: _laid_out(tensor).clone() for name, tensor in tensors.items()}
    return safetensors.torch.save(plain, None if metadata is None else dict(metadata))


def _sync_folder(path: Path) -> None:
    """Have a renaming reach the disk as well, where folders can be opened (not on Windows)."""
    if os.name == "posix" and os.access(path, os.R_OK):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
