"""Which batch-norm layers a value depends on, seen while the model runs.

Every operator that torch carries out is looked at: what it returns or writes depends on all that its inputs depend on.
That holds through any Python code of the model, branches by shape or value, and detached or in-place results, without a
graph of the model. Where it cannot be seen what becomes of a value, it counts for all that follows: when the model
reads numbers out of a tensor, hands its memory to numpy or another library, or asks how many elements fulfil a
condition. A tensor of unknown origin depends on all layers run so far.
"""

from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from batchnorm.toolkit.model import tensors_in, without_derivatives

# What torch says of operators whose result in Python, a number or a shape, depends on values.
_READ = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
# Methods by which values leave torch.
_LEAVE = {"numpy", "tolist", "__array__", "data_ptr", "__dlpack__"}


class _Leaving(TorchFunctionMode):
    """Notes what values leave torch, past its operators."""

    def __init__(self, dependence: "Dependence"):
        self._dependence = dependence

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _LEAVE:
            self._dependence.read(args)
        return func(*args, **(kwargs or {}))


class Dependence(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Follows values through one forward pass. Sets of layers are bits of an int.

    Parameters
    ----------
    known : iterable of Tensor
        Depend on no layer: parameters, buffers, the batch.
    """

    def __init__(self, known: Iterable[Tensor]):
        super().__init__()  # type: ignore[no-untyped-call]
        self._of_storage: dict[Any, int] = {_storage(tensor): 0 for tensor in known}
        self._run_so_far = 0
        self._of_python = 0  # of what the model has read out of tensors
        self._leaving = _Leaving(self)

    def of(self, value: Any) -> int:
        """Return the layers that the tensors of a value depend on."""
        layers = self._of_python
        for tensor in tensors_in(value):
            layers |= self._of_storage.get(_storage(tensor), self._run_so_far)
        return layers

    def add(self, value: Any, layer: int) -> None:
        """Note that the tensors of a value depend on a layer, too: it has returned them."""
        self._run_so_far |= layer
        for tensor in tensors_in(value):
            self._of_storage[_storage(tensor)] = self.of(tensor) | layer

    def read(self, value: Any) -> None:
        """Note that the model knows the tensors of a value, in Python."""
        self._of_python |= self.of(value)

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        self._leaving.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *of_error: Any) -> None:
        self._leaving.__exit__(*of_error)  # type: ignore[no-untyped-call]
        super().__exit__(*of_error)  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler, in over a second, to tell it to keep away

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        layers = self.of((args, kwargs))
        result = func(*args, **kwargs)
        if _READ.intersection(func.tags) and not _picks_by_number(func, args):
            self._of_python |= layers
        for tensor in tensors_in(result):
            self._of_storage[_storage(tensor)] = layers
        for position, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written = args[position] if position < len(args) else kwargs.get(argument.name)
                for tensor in tensors_in(written):
                    self._of_storage[_storage(tensor)] = layers
        return result


def _picks_by_number(func: Any, args: Any) -> bool:
    """Tell an index of positions, whose result has a known shape, from one by a condition."""
    return func._schema.name == "aten::index" and all(
        t.dtype not in (torch.bool, torch.uint8) for t in tensors_in(args[1])
    )


def _storage(tensor: Tensor) -> Any:
    """Return what views of the same memory have in common.

    The weak reference keeps a storage's address from being used again, by one of which nothing is known.
    """
    try:
        return StorageWeakRef(without_derivatives(tensor).untyped_storage())  # type: ignore[no-untyped-call]
    except NotImplementedError:  # sparse and other tensors without one
        return id(tensor)
