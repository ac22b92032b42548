"""How much memory a forward pass holds while it waits."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from batchnorm.toolkit.model import tensors_in


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Sees every tensor that torch makes, and knows which of them are still there.

    Parameters
    ----------
    held : iterable of Tensor
        Are there before, and count.
    owned : iterable of Tensor
        Are there whether or not the pass is run, and do not count: parameters, buffers.
    """

    def __init__(self, held: Iterable[Tensor], owned: Iterable[Tensor]):
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes: dict[StorageWeakRef, int] = {}
        self._owned: set[StorageWeakRef] = set()
        for tensor in owned:
            self._owned.update(ref for ref, _ in _storage(tensor))
        for tensor in held:
            self._note(tensor)

    @property
    def bytes(self) -> int:
        """How much the tensors hold that are there now."""
        self._sizes = {
            storage: size
            for storage, size in self._sizes.items()
            if not storage.expired()  # type: ignore[no-untyped-call]
        }
        return sum(self._sizes.values())

    def _note(self, tensor: Tensor) -> None:
        self._sizes.update((ref, size) for ref, size in _storage(tensor) if ref not in self._owned)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler, in over a second, to tell it to keep away

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            self._note(tensor)
        return result


def _storage(tensor: Tensor) -> list[tuple[StorageWeakRef, int]]:
    """Return a tensor's memory and its size; sparse and other tensors without one have none to be told of."""
    try:
        storage = tensor.untyped_storage()
    except NotImplementedError:
        return []
    return [(StorageWeakRef(storage), storage.nbytes())]  # type: ignore[no-untyped-call]
