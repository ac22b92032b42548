"""Random networks with batch norm at random places: for the properties of the toolkit."""

import random

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class Residual(nn.Module):
    def __init__(self, *inner):
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x):
        return x + self.inner(x)


class Concatenated(nn.Module):
    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


def randomized(model, seed=0):
    """Give a model statistics and parameters as a training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            for tensor, low, high in (
                (layer.weight, 0.3, 2),
                (layer.bias, -1, 1),
                (layer.running_mean, -1, 1),
                (layer.running_var, 0.3, 2),
            ):
                if tensor is not None:
                    tensor.data.uniform_(low, high, generator=generator)
    return model


def random_graph(seed, n_examples):
    """Return a model and an input (n_examples, …) in float32, both drawn from the seed."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    dims = draw.choice([0, 0, 1, 2, 3])  # 0: dense
    channels = draw.randint(2, 4)
    norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims]

    def linear(fan_in, fan_out):
        if dims == 0:
            return nn.Linear(fan_in, fan_out, bias=draw.random() < 0.5)
        return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](fan_in, fan_out, 3, padding=1, bias=draw.random() < 0.5)

    def normed(c):
        return norm(c, eps=draw.choice([1e-5, 1e-3, 0.1]), affine=draw.random() < 0.8)

    def block(c):
        layers = [linear(c, c), normed(c), nn.ReLU()]
        draw.shuffle(layers)
        return layers

    layers, c = [], channels
    for _ in range(draw.randint(1, 4)):
        kind = draw.choice(["plain", "residual", "cat", "pair", "act"])
        if kind == "plain":
            layers += block(c)
        elif kind == "residual":
            layers.append(Residual(*block(c), *block(c)[: draw.randint(0, 3)]))
        elif kind == "cat":
            layers.append(Concatenated(nn.Sequential(*block(c)), nn.Sequential(normed(c)), nn.Identity()))
            c *= 3
        elif kind == "pair":
            layers += [normed(c), normed(c)]
        else:
            layers += [nn.Tanh(), nn.Dropout(0.3)]
    layers += [nn.Flatten(), nn.Linear(c * 4**dims, 3), nn.BatchNorm1d(3)]
    x = torch.randn(n_examples, channels, *[4] * dims) * 2 + 1
    return randomized(nn.Sequential(*layers), seed), x
