"""Both engines side by side, from the same seed, and how far apart they are."""

import numpy as np
import torch

import batchnorm as bn
from batchnorm import Examples, TrainingConfig
from batchnorm.training.engines.autograd import AutogradEngine
from batchnorm.training.engines.fused import FusedEngine

OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "momentum": 0.0, "nesterov": False},
    "momentum": {"optimizer": "sgd", "momentum": 0.9, "nesterov": False},
    "nesterov": {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.002},
}
OPTIONS = {
    "batch norm": {},
    "batch norm on the logits": {"normalize_logits": True, "bn_variance": "biased", "bn_momentum": 0.3},
    "no batch norm": {"normalization": "none"},
    "decay and smoothing": {"weight_decay": 0.05, "label_smoothing": 0.2},
    "dropout": {"dropout": 0.3},
    "noise": {"input_noise": 0.5, "normalize_logits": True},
    "everything": {"dropout": 0.2, "input_noise": 0.3, "label_smoothing": 0.1, "weight_decay": 0.01, "bn_eps": 1e-5},
}
BASE = TrainingConfig(hidden_layer_sizes=(13, 9), learning_rate=0.02, schedule="constant", batch_size=24)


def examples(n=120, features=17, classes=4, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    if dtype == torch.uint8:
        return Examples(torch.randint(256, (n, features), generator=generator).to(dtype), labels, 1 / 255)
    centers = torch.randn(classes, features, generator=generator)
    return Examples(centers[labels] + torch.randn(n, features, generator=generator), labels)


def engines(config, data, operators=None, classes=4):
    """Return both engines, each with a network of its own, from the same seed."""
    features = data.inputs[0].numel()
    networks = [bn.DenseNetwork.from_config(config, features, classes).train() for _ in range(2)]
    return FusedEngine(networks[0], data, config, operators), AutogradEngine(networks[1], data, config)


def steps(engine, n_steps, rate, batch_size=24, n=120, seed=3):
    """Take steps at changing rates, every third with a smaller batch; return the losses."""
    torch.manual_seed(5)
    rng = np.random.default_rng(seed)
    sizes = [batch_size, batch_size, max(2, batch_size // 3)]
    return [
        engine.step(rng.choice(n, min(n, sizes[i % 3]), replace=False), rate * (1 - i % 4 / 8)) for i in range(n_steps)
    ]


def deviation(a, b):
    """Return the largest relative deviation of two lists of tensors, each tensor measured by its norm.

    A gradient that cancels has rounding errors of what it is the sum of (β before a linear layer and batch norm: all of
    it cancels): a norm counts as at least a tenth of the largest one.
    """
    norms = [float(y.double().norm()) for y in b]
    differences = [float((x.double() - y.double()).norm()) for x, y in zip(a, b, strict=True)]
    least = max(*norms, 1e-30) / 10  # all are 0 where relu lets nothing through
    return max(difference / max(norm, least) for difference, norm in zip(differences, norms, strict=True))


def gradients(engine, network):
    """Return the gradients of the step that an engine took, in the order of the network's parameters."""
    if isinstance(engine, AutogradEngine):
        return [p.grad for p in network.parameters()]
    return [engine._gradients[p.data_ptr()] for p in network.parameters()]
