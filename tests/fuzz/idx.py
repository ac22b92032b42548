"""Damaged IDX files are read as what they hold, or refused in one line: `cd tests && python -m fuzz.idx`."""

import gzip
import math
import random
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.data.idx import read_idx
from batchnorm.errors import InputError
from fuzz.mutations import main, mutate, one_line

_DTYPES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}
_SIZES = [0, 1, 2, 3, 28, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1]
_WITHIN = 2**22  # bytes that a file of some hundred may become in memory


def check(count: int, seed: int) -> dict[str, int]:
    """Read `count` damaged files; return how many were read and refused."""
    rng, ended = random.Random(seed), {"read": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "array"
        for _ in range(count):
            content = _damaged(rng)
            path.write_bytes(content)
            ended[_read(path, content)] += 1
    return ended


def _damaged(rng: random.Random) -> bytes:
    if rng.random() < 0.3:  # nothing but a header
        sizes = [rng.choice(_SIZES) for _ in range(rng.choice([0, 1, 2, 3, 4, 64, 65, 255]))]
        plain = _header(rng.choice(list(_DTYPES.values())), sizes) + rng.randbytes(rng.randint(0, 9))
    else:
        shape = [rng.randint(0, 5) for _ in range(rng.randint(0, 4))]
        numbers = np.frombuffer(rng.randbytes(625), np.uint8)[: math.prod(shape)]
        plain = _encoded(numbers.reshape(shape).astype(rng.choice(list(_DTYPES))))
    if rng.random() < 0.2:  # sound, or with other numbers
        return plain[:-1] + rng.randbytes(1)
    if rng.random() < 0.4:
        return mutate(plain, rng)
    if rng.random() < 0.5:  # a sound stream of damaged content
        return gzip.compress(mutate(plain, rng), rng.choice([0, 1, 9]))
    return mutate(gzip.compress(plain, 1), rng)


def _encoded(array: NDArray[Any]) -> bytes:
    return _header(_DTYPES[array.dtype.name], array.shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def _header(code: int, sizes: Sequence[int]) -> bytes:
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, code, len(sizes), *sizes)


def _read(path: Path, content: bytes) -> str:
    try:
        array = read_idx(path)
    except InputError as error:
        return one_line(error)
    assert array.nbytes < _WITHIN
    assert array.dtype.isnative
    held = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    assert _encoded(array) == held, content
    return "read"


if __name__ == "__main__":
    main(check, __doc__)
