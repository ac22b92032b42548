"""Which batch-norm layers a value depends on, seen while the model runs.

Every operator that torch carries out is looked at: what it returns or writes depends on all that its inputs depend on.
That holds through any Python code of the model, branches by shape or value, and detached or in-place results, without a
graph of the model. What is seen wrongly is seen as depending on too much, never on too little: a number that the model
reads out of a tensor counts for all that follows, and a tensor of unknown origin depends on all layers run so far.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from batchnorm.toolkit.batches import tensors_in

_NUMBER_OUT_OF_TENSOR = "aten::_local_scalar_dense"


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
        self._paused = False

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

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler, in over a second, to tell it to keep away

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not look meanwhile: what is computed is not the model's."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        layers = self.of((args, kwargs))
        result = func(*args, **kwargs)
        if func._schema.name == _NUMBER_OUT_OF_TENSOR:
            self._of_python = layers
        for tensor in tensors_in(result):
            self._of_storage[_storage(tensor)] = layers
        for position, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written = args[position] if position < len(args) else kwargs.get(argument.name)
                for tensor in tensors_in(written):
                    self._of_storage[_storage(tensor)] = layers
        return result


def _storage(tensor: Tensor) -> Any:
    """Return what views of the same memory have in common.

    The weak reference keeps a storage's address from being used again, by one of which nothing is known.
    """
    try:
        return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
    except NotImplementedError:  # sparse and other tensors without one
        return id(tensor)
