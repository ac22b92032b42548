"""A run on images or arrays in each of the formats: inputs as its data came in become classes and probabilities."""

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchnorm.data import Dataset, Signature
from batchnorm.errors import InputError, importing
from batchnorm.exporting.checking import compare, deviation
from batchnorm.exporting.modules import Subject, open_module
from batchnorm.exporting.programs import export_program, to_bytes, to_onnx
from batchnorm.exporting.sequences import code_of, rebuilt, sequence_of, state_of
from batchnorm.exporting.written import Written, onnx_usage, tensor_in_words, torch_export_usage, versions
from batchnorm.files import to_safetensors
from batchnorm.network import input_dtype

if TYPE_CHECKING:
    from batchnorm.training import Run

_MADE_UP = 100  # rows, where nobody gives any
_NUMBERS = "its first output are numbers of classes: see the metadata for their names"
_LOGITS = "its outputs are logits of the classes that the metadata name"


class WithScale(nn.Module):
    """A network for inputs that are not scaled yet, whose outputs are the number of the class and probabilities."""

    scale: Tensor

    def __init__(self, network: nn.Module, scale: float, dtype: torch.dtype):
        super().__init__()
        self.network = network
        self.register_buffer("scale", torch.tensor(scale, dtype=dtype))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return labels (batch,) and probabilities (batch, classes)."""
        logits = self.network(inputs.to(self.scale.dtype) * self.scale)
        return logits.argmax(1), logits.softmax(1)


@dataclass(frozen=True, eq=False)
class RunSubject:
    """A run, rows on which it is compared, and its network in inference form."""

    run: "Run"
    signature: Signature
    rows: NDArray[Any]
    network: Subject

    @property
    def module(self) -> nn.Module:
        """The network with the scale of its inputs."""
        return WithScale(self.network.module, self.signature.scale, input_dtype(self.run.network)).eval()

    @property
    def argument(self) -> Tensor:
        """The rows as `module` takes them."""
        return torch.from_numpy(self.rows)

    @property
    def classes(self) -> NDArray[Any]:
        """The names of the classes."""
        return np.array(self.signature.class_names, dtype=object)

    def expected(self) -> list[NDArray[Any]]:
        """Return what the outputs must be: numbers of classes and probabilities."""
        probabilities = self.run.predict_proba(self.rows)
        return [probabilities.argmax(1), probabilities]

    def metadata(self) -> dict[str, str]:
        """Return what a file says of the run, as texts."""
        record = self.signature.record()
        named = {"classes": record.pop("class_names"), **record}
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in named.items()}
        return versions() | {"task": "classification"} | texts


def open_run(run: "Run", example: Any, count: int | None) -> RunSubject:
    """Return a run with rows to compare it on: those that are given, the test part of a data set, or made-up ones.

    Raises
    ------
    InputError
        If the run does not know its inputs, or these are others.
    """
    signature = run.known_signature()
    if isinstance(example, Dataset):
        check_same_signature(signature, example)
        example = example.test.inputs
    array = _made_up(signature) if example is None else signature.array(example)
    examples = signature.examples(array[:count])
    inputs, _ = examples.batch(slice(None), input_dtype(run.network))
    return RunSubject(run, signature, examples.inputs.numpy(), open_module(run.network, inputs, None))


def check_same_signature(signature: Signature, dataset: Dataset) -> None:
    """Refuse a data set whose inputs or classes are others."""
    if (found := Signature.of(dataset)) != signature:
        raise InputError(f"{dataset.name} is not what the run was trained on: it has {found}, expected {signature}")


def _made_up(signature: Signature) -> NDArray[Any]:
    rng, shape = np.random.default_rng(0), (_MADE_UP, *signature.feature_shape)
    if signature.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return (rng.normal(size=shape) / signature.scale).astype(signature.dtype)


def write_run(run: "Run", file: str, format: str, example: Any, count: int | None) -> Written:
    """Return a run as the content of a file, compared with what it predicts."""
    subject = open_run(run, example, count)
    return {"onnx": _onnx, "torch": _torch, "torch-export": _torch_export}[format](subject, file)


def write_quantized_run(run: "Run", file: str, dataset: Any, count: int | None) -> Written:
    """Return a run as an ONNX file of 8 bits, and how good it is on the data set's test part.

    Raises
    ------
    InputError
        If `dataset` is none, or another one; or if there is nothing to quantise.
    """
    if not isinstance(dataset, Dataset):
        raise InputError(
            "quantize needs the Dataset that the run was trained on as example: ranges are measured on its training "
            "part, and the accuracy on its test part"
        )
    subject = open_run(run, dataset, count)
    exact = _onnx(subject, file)
    from batchnorm.exporting import quantization, sessions

    content = quantization.quantized(exact.content, subject.signature, dataset.train)
    found = sessions.run(content, {"inputs": subject.rows})
    figures = {
        "accuracy": quantization.accuracy(content, subject.signature, dataset.test),
        "accuracy_before": quantization.accuracy(exact.content, subject.signature, dataset.test),
        "size_before": len(exact.content),
    }
    return replace(exact, content=content, deviation=deviation(subject.expected()[1:], found[1:2]), quantized=figures)


def _onnx(subject: RunSubject, file: str) -> Written:
    """Return the ONNX file of a run."""
    with importing("onnx", "exporting to ONNX needs onnx, onnxscript and onnxruntime"):
        from batchnorm.exporting import graphs, sessions
    program = export_program(subject.module, (subject.argument,))
    outputs = [graphs.Output("label", graphs.as_labels(subject.classes)), graphs.Output("probabilities")]
    model = graphs.with_outputs(to_onnx(program, ["inputs"], ["output_0", "output_1"]), outputs)
    content = graphs.finished(model, subject.metadata())
    found = sessions.run(content, {"inputs": subject.rows})
    deviates = compare("onnx", subject.expected(), found, subject.classes)
    inputs, named = graphs.described(model.graph.input), graphs.described(model.graph.output)
    notes = subject.network.notes
    return Written(content, deviates, len(subject.rows), inputs, named, notes, onnx_usage(file, inputs))


def _torch_export(subject: RunSubject, file: str) -> Written:
    program = export_program(subject.module, (subject.argument,))
    content = to_bytes(program, {"batchnorm.json": json.dumps(subject.metadata())})
    with torch.no_grad():
        found = [tensor.numpy() for tensor in program.module()(subject.argument)]
    deviates = compare("torch-export", subject.expected(), found)
    outputs = {name: tensor_in_words(array) for name, array in zip(("label", "probabilities"), found, strict=True)}
    notes = (*subject.network.notes, _NUMBERS)
    inputs = {"inputs": tensor_in_words(subject.rows)}
    return Written(content, deviates, len(subject.rows), inputs, outputs, notes, torch_export_usage(file))


def _torch(subject: RunSubject, file: str) -> Written:
    layers = sequence_of(subject.network.module)
    usage, (scaled,) = code_of(layers, file), subject.network.args
    with torch.no_grad():
        logits = rebuilt(layers)(scaled)
    deviates = compare("torch", subject.expected(), [logits.argmax(1).numpy(), logits.softmax(1).numpy()])
    metadata = subject.metadata() | {"usage": usage}
    content = to_safetensors(state_of(layers), {"batchnorm export": json.dumps(metadata)})
    scale = subject.signature.scale
    scaling = () if scale == 1 else (f"its inputs are to be multiplied with {scale!r} before",)
    inputs, outputs = {"input": tensor_in_words(scaled)}, {"output": tensor_in_words(logits)}
    notes = (*subject.network.notes, *scaling, _LOGITS)
    return Written(content, deviates, len(subject.rows), inputs, outputs, notes, usage)
