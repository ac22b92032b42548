"""A module in each of the formats."""

import json
from typing import Any

import torch
from torch import nn

from batchnorm.errors import importing
from batchnorm.exporting.checking import check, deviation
from batchnorm.exporting.modules import Subject, open_module
from batchnorm.exporting.programs import export_program, to_bytes, to_onnx
from batchnorm.exporting.sequences import code_of, rebuilt, sequence_of, state_of
from batchnorm.exporting.written import Written, onnx_usage, tensor_in_words, torch_export_usage, versions
from batchnorm.files import to_safetensors
from batchnorm.toolkit.model import tensors_in


def write_module(model: nn.Module, file: str, format: str, example: Any, rows: int | None) -> Written:
    """Return a module as the content of a file, compared with what it is made of."""
    subject = open_module(model, example, rows)
    return {"onnx": _onnx, "torch": _torch, "torch-export": _torch_export}[format](subject, file)


def _onnx(subject: Subject, file: str) -> Written:
    with importing("onnx", "exporting to ONNX needs onnx, onnxscript and onnxruntime"):
        from batchnorm.exporting import graphs, sessions
    program = export_program(subject.module, subject.args, subject.kwargs)
    n = len(subject.expected)
    names = ["output"] if n == 1 else [f"output_{i}" for i in range(n)]
    model = to_onnx(program, None, names)
    content = graphs.finished(model, versions())
    names = [value.name for value in model.graph.input]
    given = {name: tensor.numpy() for name, tensor in zip(names, subject.tensors, strict=True)}
    found = sessions.run(content, given)
    deviates = deviation([*subject.expected, *(array[:1] for array in subject.expected)], found)
    check("onnx", deviates)
    inputs, outputs = graphs.described(model.graph.input), graphs.described(model.graph.output)
    return Written(content, deviates, subject.n_rows, inputs, outputs, subject.notes, onnx_usage(file, inputs))


def _torch_export(subject: Subject, file: str) -> Written:
    program = export_program(subject.module, subject.args, subject.kwargs)
    content = to_bytes(program, {"batchnorm.json": json.dumps(versions())})
    deviates = _deviation(subject, program.module())
    check("torch-export", deviates)
    return _written(subject, content, deviates, torch_export_usage(file))


def _torch(subject: Subject, file: str) -> Written:
    layers = sequence_of(subject.module)
    usage = code_of(layers, file)
    deviates = _deviation(subject, rebuilt(layers))
    check("torch", deviates)
    content = to_safetensors(state_of(layers), {"batchnorm export": json.dumps(versions() | {"usage": usage})})
    return _written(subject, content, deviates, usage)


def _deviation(subject: Subject, module: nn.Module) -> float:
    with torch.no_grad():
        outputs = module(*subject.args, **subject.kwargs)
    return deviation(subject.expected, [tensor.numpy() for tensor in tensors_in(outputs)])


def _written(subject: Subject, content: bytes, deviates: float, usage: str) -> Written:
    inputs = {f"input_{i}": tensor_in_words(tensor) for i, tensor in enumerate(subject.tensors)}
    outputs = {f"output_{i}": tensor_in_words(array) for i, array in enumerate(subject.expected)}
    if len(inputs) == 1:
        inputs = {"input": inputs["input_0"]}
    if len(outputs) == 1:
        outputs = {"output": outputs["output_0"]}
    return Written(content, deviates, subject.n_rows, inputs, outputs, subject.notes, usage)
