"""Normalisation with running statistics that is no batch-norm layer of the model: none of our functions looks at it.

It is told by its kind, a module that keeps a running mean and variance and is no `_BatchNorm`; and by its calls, seen
while the model runs: of torch's batch norm with running statistics, past the call of a layer. What computes the formula
in other operations on tensors of other names is not seen.
"""

import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from batchnorm.toolkit.model.layers import norm_layers, tracking

_STATISTICS = re.compile(r"(?:running|moving)_(mean|var|std)")
_FUNCTIONS = {"batch_norm", "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "instance_norm"}
_SHOWN = 5


class Overlooked:
    """What a model normalises with running statistics outside of its batch-norm layers.

    Parameters
    ----------
    model : torch.nn.Module
        Without wrappers.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._callers: dict[str, nn.Module] = {}
        self._watched: set[bool] = set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch one forward pass to its end in each of the two modes, and no further one: it costs time."""
        mode = self._model.training
        if mode in self._watched:
            yield
            return
        self._watched.add(mode)
        try:
            with _Calls(self._model, self._callers):
                yield
        except BaseException:
            self._watched.discard(mode)  # the rest of the pass was not seen
            raise

    def beside(self, reached: Collection[str]) -> dict[str, str]:
        """Return names and kinds of modules; without the layers that were looked at, being reached."""
        by_kind = {name: module for name, module in self._model.named_modules() if _keeps_statistics(module)}
        found = by_kind | self._callers
        return {name: type(module).__name__ for name, module in found.items() if name not in reached}


def overlooked_in_words(found: Mapping[str, str]) -> str | None:
    """Say what was not looked at, if there is anything."""
    if not found:
        return None
    shown = ", ".join(f"{name or '(the model)'} ({kind})" for name, kind in list(found.items())[:_SHOWN])
    rest = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"not looked at: {shown}{rest}: running statistics outside of calls of batch-norm layers"


class _Calls(TorchFunctionMode):
    """Notes which modules have torch normalise with running statistics, and the layers whose statistics these are."""

    def __init__(self, model: nn.Module, callers: dict[str, nn.Module]):
        super().__init__()
        self._model, self._callers = model, callers
        self._names = {module: name for name, module in model.named_modules()}
        self._layers = norm_layers(model)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "").partition(".")[0] in _FUNCTIONS:  # "batch_norm.default" of torch.ops
            position = 1 if func in (F.batch_norm, F.instance_norm) else 3
            mean = kwargs.get("running_mean", args[position] if len(args) > position else None)
            if mean is not None:
                self._note(mean)
        return func(*args, **kwargs)

    def _note(self, mean: Tensor) -> None:
        caller = self._called_module()
        name = self._names[caller]
        if name in self._layers:
            return
        self._callers[name] = caller
        for name, layer in tracking(self._layers).items():
            if _share_memory(layer.running_mean, mean):
                self._callers[name] = self._model.get_submodule(name)

    def _called_module(self) -> nn.Module:
        """Return which of the model's modules has been called last, with its hooks, of those that have not returned."""
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_code is nn.Module._call_impl.__code__:
                module: nn.Module = frame.f_locals["self"]
                if module in self._names:
                    return module
            frame = frame.f_back
        return self._model


def _keeps_statistics(module: nn.Module) -> bool:
    """Tell a module that is no batch-norm layer, and has tensors that are called running mean and variance."""
    if isinstance(module, _BatchNorm):
        return False
    own = {**vars(module), **dict(module.named_buffers(recurse=False)), **dict(module.named_parameters(recurse=False))}
    kinds = {
        found[1] for name, value in own.items() if isinstance(value, Tensor) and (found := _STATISTICS.search(name))
    }
    return "mean" in kinds and len(kinds) > 1


def _share_memory(a: Tensor, b: Tensor) -> bool:
    try:
        return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    except RuntimeError:  # tensors without memory of their own
        return False
