"""Files that are either wholly there or not there at all."""

import json
import os
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name in the same folder, then rename it.

    Whatever interrupts the writing (a full disk, a kill), `path` holds its old content or the new one, never a
    part. The content has reached the disk before the name points to it.
    """
    temporary = path.with_name(f".{path.name}.tmp")  # a fixed name: what a kill leaves, the next write removes
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def to_json(value: Any) -> bytes:
    """Return `value` as indented JSON that ends in a newline."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
