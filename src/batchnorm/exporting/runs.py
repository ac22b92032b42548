"""A run on images or arrays in each of the formats: inputs as its data came in become classes, labels or values."""

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchnorm.config import Task
from batchnorm.data import OUTPUTS, Dataset, Signature
from batchnorm.errors import InputError, importing
from batchnorm.exporting.checking import compare, deviation
from batchnorm.exporting.modules import Subject, open_module
from batchnorm.exporting.programs import export_program, to_bytes, to_onnx
from batchnorm.exporting.sequences import code_of, rebuilt, sequence_of, state_of
from batchnorm.exporting.written import (
    NUMBERS_OF_CLASSES,
    Written,
    onnx_usage,
    tensor_in_words,
    torch_export_usage,
    versions,
)
from batchnorm.files import to_safetensors
from batchnorm.network import input_dtype

if TYPE_CHECKING:
    from batchnorm.training import Run

_MADE_UP = 100  # rows, where nobody gives any
_LOGITS = "its outputs are logits of the {} that the metadata name"


class WithScale(nn.Module):
    """A network for inputs that are not scaled yet, and its answers."""

    scale: Tensor

    def __init__(self, network: nn.Module, task: Task, scale: float, dtype: torch.dtype):
        super().__init__()
        self.network, self.task = network, task
        self.register_buffer("scale", torch.tensor(scale, dtype=dtype))

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return numbers of classes (batch,), or labels (batch, labels), and probabilities; or values."""
        return _answers(self.network(inputs.to(self.scale.dtype) * self.scale), self.task)


def _answers(outputs: Tensor, task: Task) -> tuple[Tensor, ...]:
    if task == "classification":
        return outputs.argmax(1), outputs.softmax(1)
    return (outputs,) if task == "regression" else ((outputs > 0).long(), outputs.sigmoid())


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
        dtype = input_dtype(self.run.network)
        return WithScale(self.network.module, self.run.task, self.signature.scale, dtype).eval()

    @property
    def argument(self) -> Tensor:
        """The rows as `module` takes them."""
        return torch.from_numpy(self.rows)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return ("value",) if self.run.task == "regression" else ("label", "probabilities")

    @property
    def classes(self) -> NDArray[Any] | None:
        """The names of the classes, if it predicts one of them."""
        return np.array(self.signature.class_names, dtype=object) if self.run.task == "classification" else None

    def expected(self) -> list[NDArray[Any]]:
        """Return what the outputs must be."""
        if self.run.task == "regression":
            return [self.run.predict(self.rows).reshape(len(self.rows), -1)]
        probabilities = self.run.predict_proba(self.rows)
        return [probabilities.argmax(1) if self.classes is not None else probabilities > 0.5, probabilities]

    def metadata(self) -> dict[str, str]:
        """Return what a file says of the run, as texts."""
        record = self.signature.record()
        named = {OUTPUTS[self.run.task]: record.pop("class_names"), **record}
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in named.items()}
        return versions() | {"task": self.run.task} | texts


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
    return RunSubject(run, signature, examples.inputs.numpy(), open_module(run.in_unit(), inputs, None))


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
    if run.task != "classification":
        raise InputError(f"quantize is for classes, whose accuracy tells what it costs, and not for {run.task}")
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
    classes = None if subject.classes is None else graphs.as_labels(subject.classes)
    outputs = [graphs.Output(name, classes if name == "label" else None) for name in subject.outputs]
    names = [f"output_{i}" for i in range(len(outputs))]
    model = graphs.with_outputs(to_onnx(program, ["inputs"], names), outputs)
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
    outputs = {name: tensor_in_words(array) for name, array in zip(subject.outputs, found, strict=True)}
    notes = (*subject.network.notes, *([] if subject.classes is None else [NUMBERS_OF_CLASSES]))
    inputs = {"inputs": tensor_in_words(subject.rows)}
    return Written(content, deviates, len(subject.rows), inputs, outputs, notes, torch_export_usage(file))


def _torch(subject: RunSubject, file: str) -> Written:
    layers = sequence_of(subject.network.module)
    usage, (scaled,) = code_of(layers, file), subject.network.args
    with torch.no_grad():
        found = rebuilt(layers)(scaled)
    answers = [answer.numpy() for answer in _answers(found, subject.run.task)]
    deviates = compare("torch", subject.expected(), answers)
    metadata = subject.metadata() | {"usage": usage}
    content = to_safetensors(state_of(layers), {"batchnorm export": json.dumps(metadata)})
    scale = subject.signature.scale
    scaling = () if scale == 1 else (f"its inputs are to be multiplied with {scale!r} before",)
    inputs, outputs = {"input": tensor_in_words(scaled)}, {"output": tensor_in_words(found)}
    logits = () if subject.run.task == "regression" else (_LOGITS.format(OUTPUTS[subject.run.task]),)
    notes = (*subject.network.notes, *scaling, *logits)
    return Written(content, deviates, len(subject.rows), inputs, outputs, notes, usage)
