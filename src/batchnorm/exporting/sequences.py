"""Format "torch": a folded network as the state dict of a plain `torch.nn.Sequential`, and the lines that load it."""

import ast
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.errors import InputError
from batchnorm.network import DenseNetwork

_USE_ANOTHER = "format='torch' is for sequences of torch's own layers: take format='torch-export' or 'onnx'"


def sequence_of(module: nn.Module) -> list[nn.Module]:
    """Return the layers of a model that runs them one after the other; what does nothing in inference is left out.

    Raises
    ------
    InputError
        If it is another kind of model.
    """
    layers = list(_layers(module))
    return [nn.Flatten(), *layers] if isinstance(module, DenseNetwork) else layers


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    if type(module) in (nn.Sequential, DenseNetwork):
        for child in module.children():
            yield from _layers(child)
    elif not isinstance(module, nn.Identity | nn.modules.dropout._DropoutNd):
        if not type(module).__module__.startswith("torch.nn.modules.") or list(module.children()):
            raise InputError(f"there is a {type(module).__name__} in the model: {_USE_ANOTHER}")
        yield module


def code_of(layers: list[nn.Module], file: str) -> str:
    """Return the lines that load a file of the state dict of these layers."""
    kinds = {tensor.dtype for layer in layers for tensor in layer.state_dict().values() if tensor.is_floating_point()}
    double = [".double()"] if torch.float64 in kinds else []
    lines = [
        "from safetensors.torch import load_file",
        "from torch import nn",
        "",
        "model = nn.Sequential(",
        *(f"    nn.{layer!r}," for layer in layers),
        f"){''.join(double)}",
        f"model.load_state_dict(load_file({file!r}))",
        "model.eval()",
    ]
    return "\n".join(lines)


def rebuilt(layers: list[nn.Module]) -> nn.Sequential:
    """Return what the lines of `code_of` build, filled with the layers' tensors.

    Raises
    ------
    InputError
        If a layer does not print as what makes it.
    """
    state = nn.Sequential(*layers).state_dict()
    model = nn.Sequential(*map(_made_anew, layers))
    if any(tensor.dtype == torch.float64 for tensor in state.values()):
        model.double()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"the layers cannot be built from what they print: {_USE_ANOTHER}") from error
    return model.eval()


def _made_anew(layer: nn.Module) -> nn.Module:
    try:
        call: Any = ast.parse(repr(layer), mode="eval").body
        args = [ast.literal_eval(arg) for arg in call.args]
        options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        made: nn.Module = type(layer)(*args, **options)
    except Exception as error:  # whatever a layer prints
        raise InputError(f"{layer!r} does not say how it is made: {_USE_ANOTHER}") from error
    return made


def state_of(layers: list[nn.Module]) -> dict[str, Tensor]:
    """Return the state dict of a sequence of layers."""
    return dict(nn.Sequential(*layers).state_dict())


def estimator_layers(estimator: Any) -> list[nn.Module]:
    """Return the layers of an estimator's network, whose last ones give values in the unit of the targets."""
    layers: list[nn.Module] = list(estimator.network_.folded().cpu().eval())[1:]
    weights = iter(zip(estimator.coefs_, estimator.intercepts_, strict=True))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            weight, bias = next(weights)
            layer.weight = nn.Parameter(torch.from_numpy(weight.T.copy()))
            layer.bias = nn.Parameter(torch.from_numpy(bias.copy()))
    return layers
