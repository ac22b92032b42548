"""Targets that a training smooths towards the classes' rates, and probabilities as if it had not.

With a share s and the rate r of a class in the training data, a smoothed target is (1 − s) · [class] + s · r. Its mean
is r, as without smoothing; and where p is a class's probability, what is learnt is q = (1 − s) p + s r, which gives p
back::

    p = max(q − s r, FLOOR · s r) / Σ

The maximum is for a q that is too small by the network's own error: no class is ever impossible. (Smoothing towards
equal rates, as C. Szegedy et al. 2015, arXiv:1512.00567, section 7, has rare classes predicted far too often.)
"""

import torch
from torch import Tensor

FLOOR = 0.3  # chosen by log-loss on the development tables


def of_classes(share: float, rates: Tensor) -> tuple[float, ...]:
    """Return what each class gets of a smoothed target; see `training.engines.Loss`."""
    return tuple((share * rates).tolist())


def of_labels(share: float, rates: Tensor) -> tuple[float, ...]:
    """Return what 0 and 1 of each independent label get of a smoothed target."""
    return tuple((share * torch.stack([1 - rates, rates], 1)).flatten().tolist())


def log_probabilities(logits: Tensor, share: float, rates: Tensor) -> Tensor:
    """Return the logarithms of the probabilities of classes (examples, classes)."""
    if share == 0:
        return logits.log_softmax(1)
    spread = (share * rates).to(logits)
    taken = torch.maximum(logits.softmax(1) - spread, FLOOR * spread.clamp_min(torch.finfo(spread.dtype).tiny))
    return taken.log() - taken.sum(1, keepdim=True).log()


def label_logits(logits: Tensor, share: float, rates: Tensor) -> Tensor:
    """Return log (p / (1 − p)) of each independent label (examples, labels)."""
    if share == 0:
        return logits
    both = torch.stack([-logits, logits], 2)
    spread = (share * torch.stack([1 - rates, rates], 1)).to(logits)
    taken = torch.maximum(both.sigmoid() - spread, FLOOR * spread.clamp_min(torch.finfo(spread.dtype).tiny))
    return taken[..., 1].log() - taken[..., 0].log()
