"""Batch norm makes gradients explode at the start in deep plain ReLU networks, and residual connections cure that.

G. Yang, J. Pennington, V. Rao, J. Sohl-Dickstein and S. S. Schoenholz, "A Mean Field Theory of Batch Normalization",
2019, arXiv:1902.08129. Needs `pip install 'batchnorm[datasets,report]'`; writes residual-gradients.svg.
"""

from pathlib import Path

import torch
from torch import nn

import batchnorm as bn
from batchnorm.figures import Series, draw_layers, save_figure

WIDTH = 100


class Residual(nn.Module):
    """Adds to its input what a block makes of it."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return input + block(input)."""
        return x + self.block(x)


def block(n_inputs: int, *, normalized: bool) -> nn.Sequential:
    """Return a layer of ReLUs, with He's initialisation."""
    linear = nn.Linear(n_inputs, WIDTH, bias=not normalized)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    return nn.Sequential(linear, *([nn.BatchNorm1d(WIDTH)] if normalized else []), nn.ReLU())


def network(depth: int, *, normalized: bool, residual: bool) -> nn.Sequential:
    """Return a network of so many hidden layers, the same weights in all kinds."""
    torch.manual_seed(0)
    first = block(784, normalized=normalized)
    others = [block(WIDTH, normalized=normalized) for _ in range(depth - 1)]
    output = nn.Linear(WIDTH, 10)
    nn.init.xavier_uniform_(output.weight)
    return nn.Sequential(nn.Flatten(), first, *(map(Residual, others) if residual else others), output)


KINDS = {
    "plain": {"normalized": False, "residual": False},
    "plain, batch norm": {"normalized": True, "residual": False},
    "residual, batch norm": {"normalized": True, "residual": True},
    "residual": {"normalized": False, "residual": True},
}
inputs, labels = bn.load_dataset("mnist5k").train.batch(slice(0, 4000, 16))
print(f"norm of the first layer's gradient, of {len(labels)} images at the start")
print(f"{'hidden layers':20}{30:>12}{50:>12}")
lines = []
for name, kind in KINDS.items():
    shallow, deep = (bn.observe_layers(network(depth, **kind), inputs, labels) for depth in (30, 50))
    print(f"{name:20}{shallow[0]['gradient_norm']:12,.3g}{deep[0]['gradient_norm']:12,.3g}")
    lines.append(Series(name, range(len(deep)), [layer["gradient_norm"] for layer in deep]))

names = [str(place) for place in range(1, 51)] + ["output"]
save_figure(
    draw_layers(lines[:3], names, y_label="gradient norm at the start", log=True), Path("residual-gradients.svg")
)
