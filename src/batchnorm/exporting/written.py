"""What is about to be written, and what a file says of where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from batchnorm.version import __version__

NUMBERS_OF_CLASSES = "its first output are numbers of classes: see the metadata for their names"  # a note


@dataclass(frozen=True, eq=False)
class Written:
    """The content of a file, and what `Exported` says of it, under the names that it has there."""

    content: bytes
    deviation: float
    rows: int
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    notes: tuple[str, ...]
    usage: str
    quantized: Mapping[str, float] | None = None


def versions() -> dict[str, str]:
    """Return what metadata begin with."""
    return {"batchnorm": __version__, "torch": str(torch.__version__)}


def tensor_in_words(values: Any) -> str:
    """Return type and shape of an array or tensor whose first dimension is a batch."""
    sizes = ["batch", *map(str, values.shape[1:])]
    kind = str(values.dtype).removeprefix("torch.")
    return f"{kind} ({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def onnx_usage(file: str, inputs: Mapping[str, str]) -> str:
    """Return the lines that run an ONNX file."""
    given = ", ".join(f"{name!r}: …" for name in inputs)
    return "\n".join(
        (
            "import onnxruntime",
            "",
            f"session = onnxruntime.InferenceSession({file!r})",
            f"outputs = session.run(None, {{{given}}})",
        )
    )


def torch_export_usage(file: str) -> str:
    """Return the lines that load a file of torch.export."""
    return "\n".join(("import torch", "", f"model = torch.export.load({file!r}).module()"))
