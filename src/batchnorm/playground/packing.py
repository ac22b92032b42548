"""A trained network as a document of JSON values: few bytes, and every value that is computed with in it.

Weights are rounded to half precision, each matrix times a power of two that brings its largest weight near half
precision's largest number: none overflows, and the small ones keep their digits down to 2⁻³⁹ of the largest. Biases, γ,
β and the statistics are few, and decide by their last digits: they stay in single precision.
"""

import base64
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchnorm.config import Task
from batchnorm.data import Examples, Signature, TargetScale
from batchnorm.errors import InputError
from batchnorm.network import BatchNorm1d, DenseNetwork
from batchnorm.playground.drawing import drawing_of

_MOST_WEIGHTS = 2_000_000  # 5.4 MB of text, and about a tenth of a second for an answer
_SIDES = range(5, 129)  # pixels of an image's side
_MOST_EXAMPLES = 100
_MOST_BYTES = 400_000  # of examples
_EXPONENT = 15  # the largest half is nearly 2¹⁶: numbers below 2¹⁵ do not overflow by being rounded


def pack(
    network: nn.Module | None,
    signature: Signature,
    *,
    task: Task = "classification",
    target_scale: TargetScale | None = None,
    examples: Examples | None = None,
    hold_examples: bool = True,
) -> dict[str, Any]:
    """Return a document of all that a browser needs to draw an image and to classify it as a network does.

    Parameters
    ----------
    network : DenseNetwork or None
        Trained on images, and as it was built. None: another one answers, and the browser only draws.
    signature : Signature
        Of its inputs: images of one or three channels.
    task : {"classification", "labels", "regression"}, default "classification"
    target_scale : TargetScale, optional
        What brings values into their unit.
    examples : Examples, optional
        Of the training: they tell how large, and how dark, what is drawn stands in an image. Without them it is as in
        MNIST: light on dark, in 20 of 28 pixels.
    hold_examples : bool, default True
        Whether up to 100 of the examples go into the document, some of each class, to be chosen from, and to be the
        company in a batch. They are the user's data.

    Returns
    -------
    dict
        Of texts, numbers, lists and dicts, all of them finite.

    Raises
    ------
    InputError
        If inputs are no images of 5 to 128 pixels a side; if the network is no `DenseNetwork` as it was built, has more
        than 2,000,000 weights, or a weight or a statistic that is not finite, or beyond single precision.
    """
    *channels, height, width = shape = _image_shape(signature)
    outputs: dict[str, Any] = {"task": task, "names": list(signature.class_names)}
    if target_scale is not None:
        outputs |= {"mean": list(target_scale.mean), "deviation": list(target_scale.deviation)}
    inputs = {
        "width": width,
        "height": height,
        "channels": channels[0] if channels else 1,
        "scale": signature.scale,
        "whole": signature.dtype == "uint8",
    }
    packed = None if network is None else _packed_network(network, math.prod(shape))
    held = _packed_examples(examples, signature, task) if examples is not None and hold_examples else None
    return {
        "inputs": inputs | drawing_of(signature, examples),
        "outputs": outputs,
        "network": packed,
        "examples": held,
    }


def _image_shape(signature: Signature) -> tuple[int, ...]:
    shape = signature.feature_shape
    is_image = len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))
    if not (is_image and shape[-1] in _SIDES and shape[-2] in _SIDES):
        raise InputError(
            f"there is nothing to draw: inputs have shape {shape}, expected grey images, or (3, height, width), of "
            f"{_SIDES[0]} to {_SIDES[-1]} pixels a side"
        )
    return shape


def _packed_network(network: nn.Module, in_features: int) -> dict[str, Any]:
    if not isinstance(network, DenseNetwork):
        raise InputError(f"a page computes a DenseNetwork alone, and the network is a {type(network).__name__}")
    if (how := network.alteration()) is not None:
        raise InputError(f"a page computes a DenseNetwork as it was built, and the network is not: {how}")
    if network.in_features != in_features:
        raise InputError(f"the network takes {network.in_features:,} features, expected the images' {in_features:,}")
    n_weights = sum(layer.weight.numel() for layer in network if isinstance(layer, nn.Linear))
    if n_weights > _MOST_WEIGHTS:
        raise InputError(f"the network has {n_weights:,} weights, more than the {_MOST_WEIGHTS:,} that a page holds")
    return {
        "activation": network.architecture["activation"],
        "eps": network.architecture["bn_eps"],
        "dropout": network.architecture["dropout"],
        "layers": list(_packed_layers(network)),
    }


def _packed_layers(network: DenseNetwork) -> Iterator[dict[str, Any]]:
    """Yield each linear layer, with the batch norm that follows it."""
    named = list(network.named_children())
    for (name, layer), (norm_name, norm) in zip(named, [*named[1:], ("", None)], strict=True):
        if not isinstance(layer, nn.Linear):
            continue
        packed = {
            "inputs": layer.in_features,
            "units": layer.out_features,
            "weight": _halves(f"{name}.weight", layer.weight),
            "bias": None if layer.bias is None else _floats(f"{name}.bias", layer.bias),
            "norm": None,
        }
        if isinstance(norm, BatchNorm1d):
            if (norm.running_var + norm.eps <= 0).any():
                raise InputError(f"a page cannot compute with {norm_name}.running_var: some of its values are negative")
            tensors = ("weight", "bias", "running_mean", "running_var")
            gamma, beta, mean, var = (_floats(f"{norm_name}.{part}", getattr(norm, part)) for part in tensors)
            packed["norm"] = {"gamma": gamma, "beta": beta, "mean": mean, "var": var}
        yield packed


def _packed_examples(examples: Examples, signature: Signature, task: Task) -> dict[str, Any]:
    """Pack some examples, one of each class in turn, so that the first ones are of all classes."""
    n_values = math.prod(signature.feature_shape)
    most = min(_MOST_EXAMPLES, max(2, _MOST_BYTES // (n_values * (1 if signature.dtype == "uint8" else 2))))
    chosen = _in_turn(examples.labels, most) if task == "classification" else torch.arange(min(most, len(examples)))
    images = examples.inputs[chosen].flatten(1)
    return {
        "images": _bytes(images) if signature.dtype == "uint8" else _halves("the images of the training", images),
        "count": len(chosen),
        "classes": examples.labels[chosen].tolist() if task == "classification" else None,
    }


def _in_turn(labels: Tensor, most: int) -> Tensor:
    """Return where the first examples of each class are, round and round through the classes."""
    order = labels.cpu().argsort(stable=True)
    grouped = labels.cpu()[order]
    turn = torch.arange(len(grouped)) - torch.searchsorted(grouped, grouped)  # how many of its class come before
    return order[turn.argsort(stable=True)][:most]


def _halves(what: str, tensor: Tensor) -> dict[str, Any]:
    """Pack numbers as halves times a power of two."""
    numbers = _finite(what, tensor)
    largest = np.abs(numbers).max(initial=0)
    exponent = 0 if largest == 0 else math.frexp(largest)[1] - _EXPONENT
    return _array("half", np.ldexp(numbers, -exponent).astype("<f2"), exponent)


def _floats(what: str, tensor: Tensor) -> dict[str, Any]:
    return _array("float", _finite(what, tensor.float()).astype("<f4"))


def _bytes(images: Tensor) -> dict[str, Any]:
    return _array("byte", images.cpu().numpy())


def _finite(what: str, tensor: Tensor) -> NDArray[np.float64]:
    numbers = tensor.detach().cpu().double().numpy()
    if not np.isfinite(numbers).all():
        raise InputError(f"a page cannot compute with {what}: some of its values are not finite numbers")
    return numbers


def _array(kind: str, values: NDArray[Any], exponent: int = 0) -> dict[str, Any]:
    return {"kind": kind, "exponent": exponent, "data": base64.b64encode(values.tobytes()).decode()}
