"""The ONNX graph of an estimator: torch's graph between what turns texts into numbers and numbers into classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, compose, helper, numpy_helper

from batchnorm.errors import BatchnormError

_NETWORK = "network/"  # begins the names inside
_ML = helper.make_opsetid("ai.onnx.ml", 3)
_TYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.INT64: "int64",
    TensorProto.STRING: "string",
}


@dataclass(frozen=True, eq=False)
class Input:
    """An input of the graph.

    Parameters
    ----------
    name : str
    dtype : {"float32", "float64", "int64", "string"}
    columns : int or None
        None: of shape (batch,).
    keys : sequence of str
        Of texts, those that become numbers from 0; any other one becomes the number behind them.
    """

    name: str
    dtype: str
    columns: int | None = None
    keys: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Output:
    """An output of the graph: torch's or, with `classes`, the class of each number."""

    name: str
    classes: NDArray[Any] | None = None


def around(
    network: ModelProto, inputs: Sequence[Input], together: Sequence[Sequence[int]], outputs: Sequence[Output]
) -> ModelProto:
    """Return torch's graph with the inputs and the outputs of an estimator, in their orders.

    Parameters
    ----------
    network : ModelProto
    inputs : sequence of Input
    together : sequence of sequence of int
        Which of them torch's graph takes as the columns of one matrix, for each of its inputs.
    outputs : sequence of Output
    """
    network = compose.add_prefix(network, _NETWORK)
    front = _front(network, inputs, together)
    joined = compose.merge_models(front, network, _links(front.graph.output, network.graph.input))
    back = _back(network, outputs)
    return compose.merge_models(joined, back, _links(network.graph.output, back.graph.input))


def with_outputs(network: ModelProto, outputs: Sequence[Output]) -> ModelProto:
    """Return torch's graph with outputs of other names, and names of classes."""
    network = compose.add_prefix(network, _NETWORK, rename_inputs=False)
    back = _back(network, outputs)
    return compose.merge_models(network, back, _links(network.graph.output, back.graph.input))


def _links(of: Any, to: Any) -> list[tuple[str, str]]:
    return [(a.name, b.name) for a, b in zip(of, to, strict=True)]


def _front(network: ModelProto, inputs: Sequence[Input], together: Sequence[Sequence[int]]) -> ModelProto:
    nodes: list[NodeProto] = []
    given, made = [], []
    for entry in inputs:
        shape: list[str | int | None] = ["batch"] if entry.columns is None else ["batch", entry.columns]
        given.append(helper.make_tensor_value_info(entry.name, _type_named(entry.dtype), shape))
    for i, (places, value) in enumerate(zip(together, network.graph.input, strict=True)):
        columns = []
        for place in places:
            entry, column = inputs[place], f"column/{place}"
            nodes += _column(entry, column)
            columns.append(column)
        nodes.append(helper.make_node("Concat", columns, [f"matrix/{i}"], axis=1))
        width = inputs[places[0]].columns or len(places)
        made.append(helper.make_tensor_value_info(f"matrix/{i}", value.type.tensor_type.elem_type, ["batch", width]))
    unsqueezes = any(node.op_type == "Unsqueeze" for node in nodes)
    constants = [numpy_helper.from_array(np.array([1]), "axis")] if unsqueezes else []
    return _model(network, "inputs", nodes, given, made, constants)


def _column(entry: Input, name: str) -> list[NodeProto]:
    """Return what makes a matrix of one column of an input; a table is one already."""
    if entry.columns is not None:
        return [helper.make_node("Identity", [entry.name], [name])]
    if entry.dtype != "string":
        return [helper.make_node("Unsqueeze", [entry.name, "axis"], [name])]
    code = f"{name}/code"
    return [_encoder(entry, code), helper.make_node("Unsqueeze", [code, "axis"], [name])]


def _encoder(entry: Input, name: str) -> NodeProto:
    return helper.make_node(
        "LabelEncoder",
        [entry.name],
        [name],
        domain=_ML.domain,
        keys_strings=[key.encode() for key in entry.keys],
        values_int64s=list(range(len(entry.keys))),
        default_int64=len(entry.keys),
    )


def _back(network: ModelProto, outputs: Sequence[Output]) -> ModelProto:
    nodes, given, made, constants = [], [], [], []
    for i, (entry, value) in enumerate(zip(outputs, network.graph.output, strict=True)):
        of = value.type.tensor_type
        shape: list[str | int | None] = ["batch", *(dim.dim_value for dim in of.shape.dim[1:])]
        given.append(helper.make_tensor_value_info(f"back/{i}", of.elem_type, shape))
        if entry.classes is None:
            nodes.append(helper.make_node("Identity", [f"back/{i}"], [entry.name]))
            made.append(helper.make_tensor_value_info(entry.name, of.elem_type, shape))
            continue
        table = numpy_helper.from_array(entry.classes, f"classes/{i}")
        constants.append(table)
        nodes.append(helper.make_node("Gather", [table.name, f"back/{i}"], [entry.name]))
        made.append(helper.make_tensor_value_info(entry.name, table.data_type, shape))
    return _model(network, "outputs", nodes, given, made, constants)


def _model(
    like: ModelProto,
    name: str,
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: Sequence[TensorProto] = (),
) -> ModelProto:
    graph = helper.make_graph(nodes, name, inputs, outputs, constants)
    opsets = [opset for opset in like.opset_import if opset.domain != _ML.domain]
    return helper.make_model(graph, opset_imports=[*opsets, _ML], ir_version=like.ir_version)


def finished(model: ModelProto, metadata: Mapping[str, str]) -> bytes:
    """Return a checked model as a file, with metadata, and with "batch" for the name of the first dimension.

    Raises
    ------
    BatchnormError
        If it is beyond what a file of this format holds, 2 GiB, or onnx finds it wrong.
    """
    _name_batch(_without_traces(model))
    _name_operators_once(model)
    helper.set_model_props(model, dict(metadata))
    try:
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())
    except Exception as error:  # protobuf's, onnx's
        raise BatchnormError(f"onnx refuses the model: {' '.join(str(error).split())[:300]}") from error


def _without_traces(model: ModelProto) -> ModelProto:
    """Return a model without what torch's exporter notes on each node: places in files of this machine, mostly."""
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    return model


def _name_operators_once(model: ModelProto) -> None:
    """Leave out what `compose` has put together twice: versions of operators, which some readers take once alone."""
    versions = {opset.domain: opset.version for opset in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*opset) for opset in versions.items())


def _name_batch(model: ModelProto) -> None:
    """Name the dimension that torch numbers, wherever it stands."""
    graph = model.graph
    shape = graph.input[0].type.tensor_type.shape
    name = shape.dim[0].dim_param if shape.dim else ""
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if name and dim.dim_param == name:
                dim.dim_param = "batch"


def described(values: Any) -> dict[str, str]:
    """Return inputs or outputs in words, by name."""
    return {value.name: _in_words(value.type.tensor_type) for value in values}


def _in_words(of: Any) -> str:
    sizes = [dim.dim_param or str(dim.dim_value) for dim in of.shape.dim]
    name = _TYPES.get(of.elem_type) or TensorProto.DataType.Name(of.elem_type).lower()
    return f"{name} ({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _type_named(name: str) -> int:
    return next(kind for kind, known in _TYPES.items() if known == name)


def as_labels(classes: NDArray[Any]) -> NDArray[Any]:
    """Return classes as ONNX has them: whole numbers, floating-point numbers or texts."""
    kind = np.asarray(classes).dtype.kind
    if kind in "biu":
        return classes.astype(np.int64)
    return classes.astype(np.float64) if kind == "f" else np.array([str(each) for each in classes], dtype=object)
