"""What a training step draws besides the order of its examples: dropped units and noise.

On the CPU a draw is a function of a key, which comes from torch's generator: a run's state is that generator's alone.
Without numba, and on other devices, torch draws: other bits of the same distribution.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from batchnorm.forking import in_forked_processes
from batchnorm.kernels import compiled_kernels

_generator: ContextVar[torch.Generator | None] = ContextVar("generator", default=None)  # None: torch's global one
_global_generators = threading.RLock()  # held by the thread that has them in a state of its own


@in_forked_processes
def _forget_other_threads() -> None:
    """Have a forked process a lock of its own: the thread that may hold the parent's does not exist there."""
    global _global_generators
    _global_generators = threading.RLock()


@contextmanager
def drawing_from(generator: torch.Generator | None) -> Iterator[None]:
    """Draw from a generator of the CPU other than torch's global one (None: from that one), in this thread alone."""
    token = _generator.set(generator)
    try:
        yield
    finally:
        _generator.reset(token)


@contextmanager
def global_generators_kept(device: torch.device | None = None) -> Iterator[None]:
    """Give torch's global generators, of the CPU and of a CUDA device, their states back; one thread at a time."""
    cuda = [device] if device is not None and device.type == "cuda" else []
    with _global_generators, torch.random.fork_rng(cuda), drawing_from(None):
        yield


def draw_keys_(keys: Tensor) -> None:
    """Draw keys for `kernels.cpu`, in place: int64, on the CPU."""
    keys.random_(generator=_generator.get())


def drawn_mask_like(x: Tensor, rate: float) -> Tensor:
    """Return a dropout mask of the shape of `x`: 0 with probability `rate`, else 1 / (1 − rate)."""
    if _is_followed(x):
        return F.dropout(torch.ones_like(x), rate)
    mask = torch.empty_like(x, requires_grad=False, memory_format=torch.contiguous_format)
    kernels = _kernels_for(x)
    if kernels is None:
        return mask.bernoulli_(1 - rate, generator=_generator_for(x)).div_(1 - rate)
    kernels.draw_mask(_key(), rate, mask.flatten().numpy())
    return mask


def add_noise_(inputs: Tensor, deviation: float) -> None:
    """Add normal noise, in place; places are counted as if the inputs were contiguous."""
    kernels = _kernels_for(inputs)
    if kernels is None:
        inputs.add_(torch.empty_like(inputs).normal_(generator=_generator_for(inputs)), alpha=deviation)
        return
    noise = torch.zeros_like(inputs, memory_format=torch.contiguous_format)
    kernels.add_noise(_key(), np.array([deviation]), noise.flatten().numpy())
    inputs.add_(noise)


def _is_followed(x: Tensor) -> bool:
    """Tell whether something looks on that knows torch's own operators alone: a compiler, a trace, vmap."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or type(x) is not Tensor
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def _kernels_for(x: Tensor) -> ModuleType | None:
    """Return the kernels if they can draw for a tensor."""
    drawable = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    return compiled_kernels() if drawable else None


def _generator_for(x: Tensor) -> torch.Generator | None:
    """Return what torch draws with for a tensor; on other devices their own global generator."""
    return _generator.get() if x.device.type == "cpu" else None


def _key() -> NDArray[np.int64]:
    key = torch.empty(1, dtype=torch.int64, device="cpu")  # whatever the default device is
    draw_keys_(key)
    return key.numpy()
