"""Arrays in files become a data set: NPZ, or inputs and labels that are each in an NPY or IDX file."""

import hashlib
import io
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from batchnorm.config import Task
from batchnorm.data.dataset import Dataset, as_inputs, column_names
from batchnorm.data.idx import read_idx
from batchnorm.data.own.parts import PARTS, Part, assemble, usual_name
from batchnorm.data.targets import OTHER_TASKS, are_whole, read_targets, recognized_task
from batchnorm.errors import BatchnormWarning, InputError, in_words
from batchnorm.files import open_regular
from batchnorm.memory import check_data_memory

_INPUTS, _LABELS = ("x", "inputs"), ("y", "labels")  # names in an NPZ file, in pairs; capitals do not count
_SUFFIXES = {
    "": "train", "_train": "train", "_val": "validation", "_valid": "validation", "_validation": "validation",
    "_test": "test",
}  # fmt: skip
_NAMES = "X and y, or inputs and labels, or these with _train, _validation and _test, as x_train"
_COPIES = 2
_LONGEST_HEADER = 10_000

Arrays = dict[str, tuple[NDArray[Any], NDArray[Any]]]


def load_arrays(
    paths: Sequence[Path], *, task: Task | None = None, split_seed: int = 0, name: str | None = None
) -> Dataset:
    """Load arrays; see `load_own`."""
    if len(paths) > 2:
        raise InputError(f"{len(paths)} files were given, expected one .npz, or two: inputs and labels")
    contents: dict[str, Any] = {}
    if len(paths) == 1:
        with _recorded(paths[0], contents) as file:
            arrays = _read_npz(file, paths[0])
    else:
        arrays = {"train": (_read_file(paths[0], contents), _read_file(paths[1], contents))}
    what = " and ".join(map(str, paths))
    parts, class_names = _with_targets(arrays, what, task)
    places = [str(path.absolute()) for path in paths]
    origin = {"kind": "arrays", "paths": places, "image_size": None, "contents": contents}
    return assemble(
        parts,
        class_names,
        name=name or usual_name(Path(paths[0].name.partition(".")[0]), "arrays"),
        source=", ".join(places),
        split_seed=split_seed,
        origin=origin if task is None else {**origin, "task": task},
    )


@contextmanager
def watched(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file, and check that it stays as it is; whatever is wrong in it becomes one error."""
    with open_regular(path) as file:
        before = os.fstat(file.fileno())
        try:
            yield file
        except (InputError, MemoryError):
            raise
        except Exception as error:  # of a damaged file, from any depth of numpy's and Python's readers
            raise InputError(f"{path} cannot be read: {in_words(error)}") from error
        after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise InputError(f"{path} has changed while it was read: try again when nobody writes to it")


@contextmanager
def _recorded(path: Path, contents: dict[str, Any]) -> Iterator[IO[bytes]]:
    """Open a file as `watched` does, and record what is in it."""
    with watched(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        contents[path.name] = {"size": os.fstat(file.fileno()).st_size, "sha256": digest}
        file.seek(0)
        yield file


def _read_file(path: Path, contents: dict[str, Any]) -> NDArray[Any]:
    with _recorded(path, contents) as file:
        magic = file.read(len(npy.MAGIC_PREFIX))
        file.seek(0)
        if magic == npy.MAGIC_PREFIX:
            return _read_npy(file, os.fstat(file.fileno()).st_size, str(path))
        if magic.startswith(b"PK"):
            raise InputError(f"{path} is a zip archive, as .npz is, which is given alone: it holds inputs and labels")
        return read_idx(path)


def _read_npy(file: IO[bytes], size: int, what: str) -> NDArray[Any]:
    """Read an array whose header is held against the file's size, before memory is taken for it."""
    read_npy_header(file, size, what)
    check_data_memory(what, _COPIES * size, "give fewer examples")
    file.seek(0)
    array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    return array


def read_npy_header(file: IO[bytes], size: int, what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether the first dimension runs fastest, and type of an array in a file of so many bytes."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise InputError(f"{what} has a header of version {version}, expected an array of numbers or texts")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(file, max_header_size=_LONGEST_HEADER)
    if dtype.hasobject:
        raise InputError(
            f"{what} holds Python objects, which are not read, as they can run code: save numbers or texts"
        )
    expected = file.tell() + dtype.itemsize * int(np.prod(shape, dtype=object))
    if expected != size:
        raise InputError(f"{what} is truncated or damaged: shape {shape} needs {expected:,} bytes, found {size:,}")
    return shape, is_fortran, dtype


def _read_npz(file: IO[bytes], path: Path) -> Arrays:
    if not zipfile.is_zipfile(file):
        raise InputError(f"{path} is no .npz file; arrays in .npy or IDX files are given in pairs: inputs and labels")
    with zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        pairs = _pairs(members, path)
        if left := sorted(set(members) - {name for pair in pairs.values() for name in pair}):
            text = f"{path}: arrays that are neither inputs nor labels are passed over: {', '.join(left)}"
            warnings.warn(text, BatchnormWarning, stacklevel=5)

        def read(name: str) -> NDArray[Any]:
            with archive.open(members[name]) as member:
                return _read_npy(member, members[name].file_size, f"{name} in {path}")

        return {part: (read(inputs), read(labels)) for part, (inputs, labels) in pairs.items()}


def _pairs(names: Mapping[str, Any], path: Path) -> dict[str, tuple[str, str]]:
    """Return which names are the inputs and labels of which part."""
    pairs: dict[str, tuple[str, str]] = {}
    for kind, label_kind in zip(_INPUTS, _LABELS, strict=True):
        for name in names:
            match = re.fullmatch(rf"{kind}({'|'.join(_SUFFIXES)})", name, re.IGNORECASE)
            if not match:
                continue
            part, wanted = _SUFFIXES[match[1].lower()], label_kind + match[1].lower()
            labels = next((other for other in names if other.lower() == wanted), None)
            if labels is None:
                raise InputError(f"{path} holds {name} without {wanted}: it has {', '.join(names)}")
            if part in pairs:
                raise InputError(f"{path} holds {pairs[part][0]} and {name}, expected one of them")
            pairs[part] = name, labels
    if "train" not in pairs:
        raise InputError(f"{path} holds {', '.join(names) or 'nothing'}, expected arrays named {_NAMES}")
    return {part: pairs[part] for part in PARTS if part in pairs}


def _with_targets(arrays: Arrays, what: str, task: Task | None) -> tuple[dict[str, Part], list[str]]:
    """Return the parts with what is learnt of them, and what that is called."""
    for part, (inputs, labels) in arrays.items():
        where = _where(what, arrays, part)
        if inputs.ndim and len(inputs) == 0:
            raise InputError(f"{where}: there are no examples")
        if inputs.ndim == 0 or labels.ndim == 0 or len(inputs) != len(labels):
            raise InputError(f"{where}: inputs have shape {inputs.shape} and labels {labels.shape}, expected as many")
    with _said_of(_where(what, arrays, "train")):
        task = task or recognized_task(arrays["train"][1])
    if task == "classification":
        return _with_classes(arrays, what)
    parts: dict[str, Part] = {}
    for part, (inputs, labels) in arrays.items():
        with _said_of(_where(what, arrays, part)):
            parts[part] = as_inputs(inputs), read_targets(labels, task)
    return parts, column_names(parts["train"][1])


def _where(what: str, arrays: Arrays, part: str) -> str:
    return what if len(arrays) == 1 else f"{what}, {part}"


@contextmanager
def _said_of(where: str) -> Iterator[None]:
    """Say in an error of which file, and part, it is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _with_classes(arrays: Arrays, what: str) -> tuple[dict[str, Part], list[str]]:
    """Return the parts with labels from 0, and what these stand for."""
    checked = {
        part: (as_inputs(inputs), _one_column(labels, _where(what, arrays, part)))
        for part, (inputs, labels) in arrays.items()
    }
    values = np.unique(checked["train"][1])
    parts = {part: (inputs, _numbered(labels, values, what, part)) for part, (inputs, labels) in checked.items()}
    return parts, [str(value) for value in values.tolist()]


def _one_column(labels: NDArray[Any], where: str) -> NDArray[Any]:
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if are_whole(flat):
        return flat.astype(np.int64)
    if flat.ndim != 1 or flat.dtype.kind not in "buiUS":
        raise InputError(
            f"{where}: labels have shape {labels.shape} and type {labels.dtype}, expected whole numbers or texts of "
            "shape (examples,): use .astype(int) where they are no integers, .argmax(1) where they are one-hot"
            f"{OTHER_TASKS}"
        )
    if flat.dtype.kind == "S":
        return np.char.decode(flat, "utf-8", "backslashreplace")
    return flat


def _numbered(labels: NDArray[Any], values: NDArray[Any], what: str, part: str) -> NDArray[np.int64]:
    if (labels.dtype.kind == "U") != (values.dtype.kind == "U"):
        raise InputError(
            f"{what}: labels of the {part} part are of type {labels.dtype}, of the training {values.dtype}"
        )
    places = np.searchsorted(values, labels).clip(max=len(values) - 1)
    if (strange := values[places] != labels).any():
        raise InputError(
            f"{what}: the {part} part has the label {labels[strange][0]!s}, which the training part has not"
        )
    return places.astype(np.int64)
