"""Buffers that a module's state leaves out: where a run goes back to that state, training must not change them."""

from torch import Tensor, nn

from batchnorm.errors import InputError


def unsaved_buffers(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of the buffers of real and complex numbers that were registered with ``persistent=False``."""
    return {
        f"{prefix}.{name}" if prefix else name: buffer.detach().clone()
        for prefix, module in network.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name in getattr(module, "_non_persistent_buffers_set", ())
        and (buffer.is_floating_point() or buffer.is_complex())
    }


def check_unsaved(network: nn.Module, before: dict[str, Tensor]) -> None:
    """Check that none of these buffers has changed."""
    for name, buffer in network.named_buffers():
        if name in before and not before[name].equal(buffer.detach()):
            raise InputError(
                f"training changes the buffer {name}, which the network's state leaves out (persistent=False), and a "
                "run folder and early stopping go back to that state: register it with persistent=True, or train "
                "without them"
            )
