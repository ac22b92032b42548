"""What a page plays with, in Python: a document unpacked again, and networks and images to make one of."""

import base64

import numpy as np
import torch

from batchnorm import DenseNetwork
from batchnorm.data import Examples, Signature

TYPES = {"half": "<f2", "float": "<f4", "byte": "u1"}


def unpacked(packed):
    """Return the numbers of an array in a document."""
    numbers = np.frombuffer(base64.b64decode(packed["data"]), TYPES[packed["kind"]])
    return torch.from_numpy(np.ldexp(numbers.astype(np.float64), packed["exponent"]))


def network_of(document):
    """Return the network that a document holds, in float64."""
    held = document["network"]
    layers = held["layers"]
    network = DenseNetwork(
        layers[0]["inputs"],
        [layer["units"] for layer in layers[:-1]],
        layers[-1]["units"],
        activation=held["activation"],
        normalization="none" if layers[0]["norm"] is None and layers[-1]["norm"] is None else "batch",
        normalize_logits=layers[-1]["norm"] is not None,
        bn_eps=held["eps"],
        dtype=torch.float64,
    )
    norms = [module for module in network if isinstance(module, torch.nn.BatchNorm1d)]
    with torch.no_grad():
        for layer, linear in zip(layers, (m for m in network if isinstance(m, torch.nn.Linear)), strict=True):
            linear.weight.copy_(unpacked(layer["weight"]).reshape(linear.weight.shape))
            if layer["bias"]:
                linear.bias.copy_(unpacked(layer["bias"]))
        for layer, norm in zip((layer for layer in layers if layer["norm"]), norms, strict=True):
            names = {"gamma": norm.weight, "beta": norm.bias, "mean": norm.running_mean, "var": norm.running_var}
            for name, tensor in names.items():
                tensor.copy_(unpacked(layer["norm"][name]))
    return network


def both_answers(network, image, company):
    """Return the logits of an image by inference, and normalised together with its company."""
    with torch.no_grad():
        alone = network.eval()(image[None])[0]
        together = network.train()(torch.cat([image[None], company]))[0]
    network.eval()
    return alone, together


def some_network(*sizes, **options):
    """Return a network whose statistics, γ and β are none that a new one has."""
    generator = torch.Generator().manual_seed(0)
    network = DenseNetwork(sizes[0], sizes[1:-1], sizes[-1], generator=generator, **options)
    with torch.no_grad():
        for norm in (m for m in network if isinstance(m, torch.nn.BatchNorm1d)):
            for tensor, low, high in (
                (norm.weight, 0.5, 1.5), (norm.bias, -1, 1), (norm.running_mean, -1, 1), (norm.running_var, 0.01, 2),
            ):  # fmt: skip
                tensor.uniform_(low, high, generator=generator)
    return network


def some_signature(*shape, names="abc"):
    return Signature(shape, "uint8", 1 / 255, tuple(names))


def some_examples(*shape, n=30, classes=3):
    """Return images that are bright in the middle, and a little noisy."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 20, (n, *shape))
    inputs[..., 2:-2, 2:-2] += rng.integers(0, 235, inputs[..., 2:-2, 2:-2].shape)
    return Examples(torch.from_numpy(inputs.astype(np.uint8)), torch.arange(n) % classes, 1 / 255)
