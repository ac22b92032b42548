"""Fold batch norm into the layers beside it, write the weights as safetensors, and load them where there is none.

pip install batchnorm; python fold_and_export.py
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import batchnorm as bn


def build(norm: bool) -> nn.Sequential:
    """Build a network for images of 8×8: with batch norm to be trained, without to be used."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=not norm),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 6 * 6, 10),
    )


torch.manual_seed(0)
trained = build(norm=True)
images = torch.randn(64, 1, 8, 8) + 1
with torch.no_grad():
    for _ in range(50):
        trained(images)  # stands for a training: the running averages move
trained.eval()

lean = bn.fold(trained, images)
print(lean.folding)

path = Path("folded.safetensors")
save_file(lean.state_dict(), path)
used = build(norm=False).eval()
used.load_state_dict(load_file(path))

with torch.no_grad():
    difference = (used(images) - trained(images)).abs().max().item()
print(f"{path}: {len(load_file(path))} tensors; largest difference of an output: {difference:.1e}")
