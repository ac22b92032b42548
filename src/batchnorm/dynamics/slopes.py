"""Activations, and where they are flat: there a unit learns nothing, as next to no gradient passes.

A place is flat where the slope is less than a hundredth of the activation's steepest: ReLU below 0, tanh beyond ±0.995,
the sigmoid outside of 0.0025 to 0.9975, ELU below −0.99. A unit is dead that is flat for every example.

References
----------
X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010, section 3
(saturation of the sigmoid and tanh).
L. Lu et al., "Dying ReLU and Initialization: Theory and Numerical Examples", 2019, arXiv:1903.06733 (dead units).
"""

import torch
from torch import Tensor, nn

FLAT = 0.01  # of the steepest slope
HALF_FLAT = frozenset({"ReLU"})  # activations, by their class, about half of whose outputs lie where they are flat
_TABLE = "torch.nn.modules.activation"
_OF_SEVERAL_UNITS = (nn.GLU, nn.LogSoftmax, nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.Softmin)
_FEW = 64  # elements that are tried alone


def may_be_activation(module: nn.Module) -> bool:
    """Tell whether a module is one of torch's activations, or may be one of someone else's."""
    if isinstance(module, (torch.jit.ScriptModule, *_OF_SEVERAL_UNITS)) or next(module.children(), None) is not None:
        return False
    if is_of_torch(module):
        return True
    return not any(base.__module__.startswith("torch.") for base in type(module).__mro__ if base is not nn.Module)


def is_of_torch(module: nn.Module) -> bool:
    """Tell whether a module is, or is derived from, one of torch's activations."""
    return any(base.__module__ == _TABLE for base in type(module).__mro__)


@torch.no_grad()
def works_elementwise(module: nn.Module, y: Tensor, output: Tensor) -> bool:
    """Tell whether a module has turned each element of `y` into that of `output`, whatever the others are."""
    if output.shape != y.shape:
        return False
    few = y.flatten()[:_FEW]
    try:
        alone = module.forward(few.clone())
        return bool(torch.allclose(alone, output.flatten()[: len(few)], equal_nan=True))
    except Exception:  # it takes no other shape
        return False


def flat_share(module: nn.Module, y: Tensor, unit_axis: int) -> tuple[float | None, float | None]:
    """Return the share of units that are dead, and that of elements where an activation is flat; None if unknown.

    Parameters
    ----------
    module : torch.nn.Module
    y : Tensor
        What it was given.
    unit_axis : int
    """
    slopes = _slopes(module, y)
    if slopes is None:
        return None, None
    typical = _slopes(module, torch.linspace(-10, 10, 201, dtype=y.dtype, device=y.device))
    steepest = 1.0 if typical is None else float(typical.abs().max())  # none with a parameter for each unit
    flat = slopes.abs() < FLAT * steepest
    others = tuple(axis for axis in range(y.dim()) if axis != unit_axis % y.dim())
    dead = flat.all(others) if others else flat
    return float(dead.float().mean()), float(flat.float().mean())


def _slopes(module: nn.Module, y: Tensor) -> Tensor | None:
    """Return the derivative of an activation at each element, by autograd; None where it has none."""
    at = y.detach().requires_grad_()
    # With hooks of its own, where those of activation checkpointing would take it for a part of the model.
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: kept):
        try:
            output = module.forward(at.clone())  # of which it may change the memory
            return torch.autograd.grad(output.sum(), at)[0].float()
        except RuntimeError:
            return None
