"""What a training computes in: the same, wherever it is called from."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from batchnorm.errors import InputError
from batchnorm.training.checks import check_device

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def own_surroundings(device: Any = "cpu") -> Iterator[None]:
    """Compute as torch and numpy do when they have just been imported, and give the caller's back.

    Autocasting, the modes of gradients and inference, the default device, flushing of denormal numbers and numpy's
    handling of errors are put aside. What is the whole process' stays (the default dtype, deterministic algorithms,
    threads): it is not ours to change while others compute.

    Parameters
    ----------
    device : str or torch.device, default "cpu"
        What is trained on. Where the caller has set a default device, it is the default one meanwhile.

    Raises
    ------
    InputError
        Inside of what replaces tensors by others: a transform of `torch.func`, a mode such as ``FakeTensorMode``,
        `torch.nn.utils.parametrize.cached`.
    """
    here = _refuse_replaced_tensors()
    errors = np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")
    with torch.inference_mode(False), errors, ExitStack() as stack:  # gradients are recorded again, too
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if here.type != "cpu":
            stack.enter_context(check_device(device))
        if _flushes_denormals():
            stack.callback(torch.set_flush_denormal, True)
            torch.set_flush_denormal(False)
        yield


def in_own_surroundings(function: Callable[P, T]) -> Callable[P, T]:
    """Have a function, whose keyword `device` says what it trains on, compute in surroundings of its own."""

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> T:
        with own_surroundings(kwargs.get("device", "cpu")):
            return function(*args, **kwargs)

    return inside


def _refuse_replaced_tensors() -> torch.device:
    """Return the default device, or raise an `InputError` where tensors are replaced."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise InputError("a training was called inside a transform of torch.func (vmap, grad, …): call it outside")
    if getattr(parametrize, "_cache_enabled", 0):
        raise InputError(
            "a training was called inside torch.nn.utils.parametrize.cached(), where weights stay what they were: call "
            "it outside"
        )
    made = torch.empty(0)
    if type(made) is not Tensor:
        raise InputError(
            f"a training was called inside a mode in which tensors are {type(made).__name__}s: call it outside"
        )
    return made.device


def _flushes_denormals() -> bool:
    """Tell whether this thread takes numbers below the smallest normal one for 0."""
    return sys.float_info.min * 0.5 == 0
