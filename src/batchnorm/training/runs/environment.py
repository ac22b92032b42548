"""What a run ran on: results depend on versions, processor and threads."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from batchnorm.version import __version__


def describe_session(
    device: torch.device, source: str, origin: Mapping[str, Any] | None = None, packages: Sequence[str] = ()
) -> dict[str, Any]:
    """Return, as plain JSON values, what a session that begins now runs on, and where its data comes from.

    Of data of the user's own, `origin` is what they can be read again with. `packages` are what it depends on besides
    those of every session. Its ``seconds`` are for whoever ends it to fill in.
    """
    described = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": None,
        "python": platform.python_version(),
        "packages": {
            "batchnorm": __version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            **{name: _version_of(name) for name in ("numba", *packages)},
        },
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "data": source,
    }
    return described if origin is None else {**described, "origin": dict(origin)}


def differences(first: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a session that goes on with a run has otherwise than the first one, so that its bits may differ."""
    for key in ("python", "packages", "cpu", "threads", "device"):
        if now[key] != first.get(key):
            yield (
                f"{key} was {first.get(key)} when the run was begun and is {now[key]} now: "
                "its last bits may differ from an undisturbed run's"
            )


def _version_of(package: str) -> str | None:
    """Return its version without importing it, or None if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # elsewhere than on Linux, platform knows as much as anyone
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
