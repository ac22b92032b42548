"""A fitted estimator in each of the formats."""

import json
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from batchnorm.errors import importing
from batchnorm.exporting.checking import compare
from batchnorm.exporting.columns import groups
from batchnorm.exporting.estimators import Subject, keys_with_missing, open_estimator
from batchnorm.exporting.programs import export_program, to_bytes, to_onnx
from batchnorm.exporting.rows import quietly
from batchnorm.exporting.sequences import code_of, estimator_layers, rebuilt, state_of
from batchnorm.exporting.written import (
    NUMBERS_OF_CLASSES,
    Written,
    onnx_usage,
    tensor_in_words,
    torch_export_usage,
    versions,
)
from batchnorm.files import to_safetensors
from batchnorm.inputs import Texts, Times

_SCALED = "its input is what scale_inputs returns: columns are read, filled and scaled outside of the file"
_LOGITS = "its outputs are logits: predict_proba also takes the smoothing of the training out of their probabilities"
_LOGS = "its outputs are logarithms of the values"


def write_estimator(estimator: Any, file: str, format: str, example: Any, rows: int | None) -> Written:
    """Return an estimator as the content of a file, compared with what it predicts."""
    subject = open_estimator(estimator, example, rows)
    with quietly():
        return {"onnx": _onnx, "torch": _torch, "torch-export": _torch_export}[format](subject, file)


def _onnx(subject: Subject, file: str) -> Written:
    with importing("onnx", "exporting to ONNX needs onnx, onnxscript and onnxruntime"):
        from batchnorm.exporting import graphs, sessions
    entries, expected, notes = subject.inputs(), subject.expected(), subject.notes()
    given = {name: values for name, _, values in entries}
    classes = graphs.as_labels(subject.estimator.classes_) if subject.is_classifier and not subject.several else None
    model = _graph(subject, classes, in_single=False)
    content = graphs.finished(model, versions() | subject.metadata())
    try:
        found = sessions.run(content, given)
    except sessions.MissingOperationError as error:
        if subject.dtype != torch.float64:
            raise
        notes.append(f"the network computes in float32: {str(error).partition(' of this')[0]} in float64")
        model = _graph(subject, classes, in_single=True)
        content = graphs.finished(model, versions() | subject.metadata())
        found = sessions.run(content, given)
    deviates = compare("onnx", expected, found, classes)
    inputs, outputs = graphs.described(model.graph.input), graphs.described(model.graph.output)
    return Written(content, deviates, len(expected[0]), inputs, outputs, tuple(notes), onnx_usage(file, inputs))


def _graph(subject: Subject, classes: NDArray[Any] | None, *, in_single: bool) -> Any:
    """Return the ONNX model of an estimator."""
    from batchnorm.exporting import graphs

    entries = subject.inputs()
    inputs = [_input(subject, *entry) for entry in entries]
    names = ["label", "probabilities"] if subject.is_classifier else ["value"]
    names = _free(names, [name for name, *_ in entries])
    outputs = [graphs.Output(name, classes if i == 0 else None) for i, name in enumerate(names)]
    program = export_program(subject.module(in_single=in_single), (subject.argument(),))
    together = [[0]] if subject.columns is None else [group.places for group in groups(subject.columns)]
    inside = [f"input_{i}" for i in range(len(together))], [f"output_{i}" for i in range(len(outputs))]
    return graphs.around(to_onnx(program, *inside), inputs, together, outputs)


def _input(subject: Subject, name: str, learnt: Any, values: NDArray[Any]) -> Any:
    from batchnorm.exporting import graphs

    if isinstance(learnt, Texts):
        return graphs.Input(name, "string", keys=keys_with_missing(learnt))
    kind = "int64" if isinstance(learnt, Times) else subject.number
    return graphs.Input(name, kind, values.shape[1] if learnt is None else None)


def _free(names: list[str], taken: list[str]) -> list[str]:
    """Return names of outputs that are no names of inputs."""
    found = []
    for name in names:
        while name in taken:
            name += "_"
        found.append(name)
    return found


def _torch_export(subject: Subject, file: str) -> Written:
    notes = subject.notes()
    if subject.columns is None:
        module, argument = subject.module(), subject.argument()
    else:
        module, argument = subject.scaled_module(), torch.from_numpy(subject.estimator.scale_inputs(subject.X))
        notes = [_SCALED]
    if subject.is_classifier and not subject.several:
        notes.append(NUMBERS_OF_CLASSES)
    program = export_program(module, (argument,))
    content = to_bytes(program, {"batchnorm.json": json.dumps(versions() | subject.metadata())})
    with torch.no_grad():
        found = [tensor.numpy() for tensor in program.module()(argument)]
    expected = subject.expected()
    deviates = compare("torch-export", expected, found)
    names = ["label", "probabilities"] if subject.is_classifier else ["value"]
    outputs = {name: tensor_in_words(array) for name, array in zip(names, found, strict=True)}
    return Written(
        content,
        deviates,
        len(expected[0]),
        {"input": tensor_in_words(argument)},
        outputs,
        tuple(notes),
        torch_export_usage(file),
    )


def _torch(subject: Subject, file: str) -> Written:
    estimator = subject.estimator
    layers = estimator_layers(estimator)
    usage = code_of(layers, file)
    reads_raw = estimator._bound is None and estimator._columns is None
    given = subject.argument() if reads_raw else torch.from_numpy(estimator.scale_inputs(subject.X))
    with torch.no_grad():
        found = rebuilt(layers)(given)
        predicted = _predicted(subject, found)
    expected = subject.expected()
    deviates = compare("torch", expected, [array.numpy() for array in predicted])
    notes = [] if reads_raw else [_SCALED]
    notes += [_LOGITS] if subject.is_classifier else [_LOGS] if estimator.out_activation_ == "exp" else []
    metadata = versions() | subject.metadata() | {"usage": usage}
    content = to_safetensors(state_of(layers), {"batchnorm export": json.dumps(metadata)})
    inputs, outputs = {"input": tensor_in_words(given)}, {"output": tensor_in_words(found)}
    return Written(content, deviates, len(expected[0]), inputs, outputs, tuple(notes), usage)


def _predicted(subject: Subject, outputs: Tensor) -> tuple[Tensor, ...]:
    """Return what the outputs of plain layers say, as the estimator's predictions."""
    if subject.is_classifier:
        made: tuple[Tensor, ...] = subject.outputs()(outputs)
        return made
    values = outputs.double().exp() if subject.estimator.out_activation_ == "exp" else outputs
    return (values[:, 0] if values.shape[1] == 1 else values,)
