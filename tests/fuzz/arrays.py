"""Damaged arrays and weights are read or refused in one line: `cd tests && python -m fuzz.arrays`."""

import io
import random
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from batchnorm.cli.models import ArrayBatches, load_weights
from batchnorm.errors import InputError
from fuzz.mutations import main, mutate, one_line

_ADVICE = ("allow_pickle", "weights_only", "max_header_size", "torch.load")
_DTYPES = ["<f4", ">f8", "<f2", "u1", "<i8", ">u2", "?", "<c8", "<f4,<i2"]
_WITHIN = 2**20  # numbers that a file of some hundred bytes may become


def check(count: int, seed: int) -> dict[str, int]:
    """Read `count` damaged files; return how many were read and refused."""
    rng, ended = random.Random(seed), {"read": 0, "refused": 0}
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with tempfile.TemporaryDirectory() as folder:
        kinds = [
            (Path(folder) / "x.npy", _array, lambda path: _read_array(path, model)),
            (Path(folder) / "w.safetensors", lambda _: safetensors.torch.save(model.state_dict()), None),
            (Path(folder) / "w.pt", lambda rng: _saved(model, rng), None),
        ]
        for _ in range(count):
            path, make, read = rng.choice(kinds)
            path.write_bytes(mutate(make(rng), rng))
            ended[_attempt(path, read or (lambda path: load_weights(model, path)))] += 1
    return ended


def _array(rng: random.Random) -> bytes:
    shape = [rng.randint(0, 4) for _ in range(rng.randint(0, 3))]
    file = io.BytesIO()
    np.save(file, np.asarray(np.ones(shape, rng.choice(_DTYPES)), order=rng.choice(["C", "F"])))
    return file.getvalue()


def _saved(model: nn.Module, rng: random.Random) -> bytes:
    file = io.BytesIO()
    torch.save(model.state_dict(), file, _use_new_zipfile_serialization=rng.random() < 0.5)
    return file.getvalue()


def _read_array(path: Path, model: nn.Module) -> None:
    for batch in ArrayBatches(path, None, 2, model):
        assert batch.dtype == torch.float32
        assert batch.numel() < _WITHIN


def _attempt(path: Path, read: Callable[[Path], None]) -> str:
    try:
        with warnings.catch_warnings(action="error"):
            read(path)
    except InputError as error:
        text = str(error)
        assert not any(word in text for word in _ADVICE), text
        return one_line(error)
    return "read"


if __name__ == "__main__":
    main(check, __doc__)
