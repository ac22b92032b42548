"""What a run ran on: results depend on versions, processor and threads."""

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

import batchnorm


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return versions, operating system, processor, threads and device, as plain JSON values."""
    return {
        "python": platform.python_version(),
        "packages": {module.__name__: str(module.__version__) for module in (batchnorm, torch, np)},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # elsewhere than on Linux, platform knows as much as anyone
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
