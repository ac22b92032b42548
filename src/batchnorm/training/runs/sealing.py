"""Files that carry a SHA-256 of their content inside: damage is noticed, file by file.

A checksum also covers the file's name and its run, so that a file in another's place is noticed as well. Files of the
first format have none.
"""

import json
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import safetensors
from torch import Tensor

from batchnorm.errors import InputError, UncheckedRunWarning
from batchnorm.files import (
    canonical_json,
    check_format,
    check_regular,
    checksum,
    json_ready,
    open_regular,
    parse_json,
    read_regular,
    to_json,
    to_safetensors,
)

FORMATS = (1, 2)  # of folders; raised with the content of any file
_SHA, _KEY = "sha256", "batchnorm run"
_LEAST_LIMIT = 2**27  # bytes: what a file may have for its header, whatever its tensors


class Line(NamedTuple):
    """A record in a file of lines, encoded once, however often the file is written."""

    text: str
    canonical: str

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Encode a record."""
        text = json.dumps(json_ready(record), allow_nan=False)
        return cls(text, canonical_json(json.loads(text)))  # as it will be read


class Seal:
    """How the files of one folder are written and read.

    Parameters
    ----------
    format : int
        1: without checksums.
    run : str, default ""
        What all its files have in common, such as the checksum of its configuration.
    trusting : bool, default False
        Whether checksums may be missing or wrong: what someone has edited is about to be sealed anew.
    """

    def __init__(self, format: int, run: str = "", *, trusting: bool = False):
        self.format, self.run, self.trusting = format, run, trusting

    def to_json(self, name: str, values: Mapping[str, Any]) -> bytes:
        """Return a JSON object as the file of this name."""
        ready = json.loads(to_json(values))  # as it will be read
        return to_json(ready if self.format == 1 else {**ready, _SHA: self.sum_of(name, ready)})

    def read_json(self, path: Path) -> dict[str, Any]:
        """Return the JSON object in a file, or raise InputError."""
        values = as_object(parse_json(read_regular(path), str(path), nan_is_null=self.format == 1), path)
        self._check(path, values.pop(_SHA, None), lambda: self.sum_of(path.name, values))
        return values

    def to_lines(self, name: str, lines: Sequence["Line"]) -> bytes:
        """Return records as lines of JSON, and a last line with their checksum."""
        texts = [line.text for line in lines]
        if self.format > 1:
            whole = f"[{','.join(line.canonical for line in lines)}]"  # as `canonical_json` of all
            texts.append(json.dumps({_SHA: self.sum_of(name, whole)}))
        return "".join(f"{text}\n" for text in texts).encode()

    def read_lines(self, path: Path) -> list[Any]:
        """Return the records in a file, or raise InputError."""
        lines = read_regular(path).split(b"\n")
        if lines.pop():
            raise InputError(f"{path} is damaged: its last line has no end")
        records = [
            parse_json(line, f"{path}, line {number},", nan_is_null=self.format == 1)
            for number, line in enumerate(lines, 1)
        ]
        sealed = bool(records) and isinstance(records[-1], dict) and records[-1].keys() == {_SHA}
        found = records.pop()[_SHA] if sealed else None
        self._check(path, found, lambda: self.sum_of(path.name, records))
        return records

    def to_tensors(self, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any] | None = None) -> bytes:
        """Return tensors, and a state as JSON, as a safetensors file."""
        text = json.dumps(json.loads(to_json(state)))
        if self.format == 1:
            return to_safetensors(tensors, None if state is None else {"state": text})
        header = {"format": self.format, "state": text, _SHA: self.sum_of(name, text, tensors)}
        return to_safetensors(tensors, {_KEY: json.dumps(header)})

    def read_tensors(
        self, path: Path, expected: Mapping[str, Tensor] | None = None, *, complete: bool = True
    ) -> tuple[dict[str, Tensor], Any]:
        """Return the tensors and the state of a file, or raise InputError.

        Parameters
        ----------
        path : Path
        expected : mapping of str to Tensor, optional
            Their names, shapes and types, which are compared before anything is read; on the device "meta" they take no
            memory.
        complete : bool, default True
            Whether all of these, and no others, have to be there.
        """
        size = check_regular(path)
        open_regular(path).close()  # safetensors says of what may not be read that there is no such file
        if expected is not None and size > (limit := _LEAST_LIMIT + 8 * _size(expected)):
            raise InputError(f"{path} has {size:,} bytes, expected at most {limit:,} for this network")
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
                if expected is not None:
                    _check_shapes(path, shapes, expected, complete)
                # Copied out of the mapped file, into memory as torch lays it out for any other tensor.
                tensors = {name: file.get_tensor(name).clone() for name in shapes}
        except InputError:
            raise
        except Exception as error:  # whatever a file may hold
            raise InputError(f"{path} cannot be read as safetensors: {error}") from error
        _check_types(path, tensors, expected or {})
        text, found = self._header(path, metadata)
        self._check(path, found, lambda: self.sum_of(path.name, text, tensors))
        return tensors, parse_json(text, f"{path}, state,", nan_is_null=self.format == 1)

    def _header(self, path: Path, metadata: dict[str, str]) -> tuple[str, Any]:
        """Return the state's text and the checksum, None if there is none."""
        if _KEY not in metadata:
            return metadata.get("state", "null"), None
        header = as_object(parse_json(metadata[_KEY], f"{path}, metadata,"), path)
        if not self.trusting:
            check_format(path, header.get("format"), self.format)
        text = header.get("state")
        if not isinstance(text, str):
            raise InputError(f"{path} is damaged: its metadata have no state")
        return text, header.get(_SHA, "")

    def sum_of(self, name: str, content: Any, tensors: Mapping[str, Tensor] | None = None) -> str:
        """Return the checksum of a file's content."""
        text = content if isinstance(content, str) else canonical_json(content)
        return checksum(f"{name}\n{self.run}\n{text}", tensors)

    def _check(self, path: Path, found: object, right: Any) -> None:
        if self.trusting or (self.format == 1 and found is None):
            return
        if self.format == 1:
            raise InputError(f"{path} has a checksum, which files of format 1 do not have: its folder is damaged")
        if found != right():
            raise InputError(
                f"{path} is damaged: its content does not have the checksum that it was saved with (if you have edited "
                f"it, put that right by batchnorm runs --accept-edits {shlex.quote(str(path.parent))})"
            )


def warn_of_format_1(path: Path) -> None:
    """Say that damage to a folder would go unnoticed."""
    warnings.warn(
        f"{path} was written by an earlier version, without checksums: damage to it would go unnoticed (batchnorm runs "
        f"--accept-edits {shlex.quote(str(path))} gives it some)",
        UncheckedRunWarning,
        stacklevel=2,
    )


def as_object(value: Any, path: Path | str) -> dict[str, Any]:
    """Return what should be a JSON object, or raise InputError."""
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged: expected a JSON object")
    return value


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _check_shapes(path: Path, found: Mapping[str, list[int]], expected: Mapping[str, Tensor], complete: bool) -> None:
    if complete and (odd := sorted(found.keys() ^ expected.keys())):
        problem = "has a tensor" if odd[0] in found else "lacks the tensor"
        raise InputError(f"{path} does not fit the network: it {problem} {odd[0][:80]!r}")
    for name, shape in found.items():
        if name in expected and shape != list(expected[name].shape):
            raise InputError(
                f"{path} does not fit the network: {name!r} has shape {tuple(shape)}, expected "
                f"{tuple(expected[name].shape)}"
            )


def _check_types(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if name in expected and tensor.dtype != expected[name].dtype:
            raise InputError(
                f"{path} does not fit the network: {name!r} is {tensor.dtype}, expected {expected[name].dtype}"
            )
