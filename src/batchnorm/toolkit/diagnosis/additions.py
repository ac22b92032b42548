"""Which silent layers stand at the end of a residual branch, where a γ of 0 is how training is meant to begin."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from batchnorm.toolkit.model import Feed, NormLayer, tensors_in

SILENT_SCALE = 1e-4  # |γ| up to here lets nothing through
_ADDITIONS = {"aten::add", "aten::add_", "aten::sub", "aten::sub_"}
_PRODUCTS = {"aten::mul", "aten::mul_"}  # with whatever


@torch.no_grad()
def added(feed: Feed, layers: Mapping[str, NormLayer]) -> frozenset[str]:
    """Return which of the layers that let nothing through are added to something else, seen on the first batch.

    Parameters
    ----------
    feed : Feed
        Its model must be in inference mode.
    layers : mapping of str to layer
    """
    silent = {
        name: layer
        for name, layer in layers.items()
        if layer.weight is not None and bool((layer.weight.detach().abs() <= SILENT_SCALE).all())
    }
    batch = next(iter(feed), None) if silent else None
    if batch is None:
        return frozenset()
    watch = _Watch(feed.model)
    hooks = [
        cast(nn.Module, layer).register_forward_hook(lambda _, __, output, name=name: watch.returned(name, output))
        for name, layer in silent.items()
    ]
    try:
        with watch:
            feed.run(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return frozenset(watch.added)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Follows what silent layers return until something that does not come of them alone is added."""

    def __init__(self, model: nn.Module):
        super().__init__()  # type: ignore[no-untyped-call]
        self.added: set[str] = set()
        self._own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
        self._silent: dict[int, tuple[Tensor, frozenset[str]]] = {}  # the tensor, so that its number stays its own

    def returned(self, name: str, output: Any) -> None:
        """Take note of what a silent layer returns."""
        for tensor in tensors_in(output):
            self._silent[id(tensor)] = tensor, frozenset({name})

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler, in over a second, to tell it to keep away

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [tensor for tensor in tensors_in((args, kwargs or {})) if id(tensor) not in self._own]
        silent = [self._silent[id(tensor)][1] for tensor in inputs if id(tensor) in self._silent]
        others = len(inputs) - len(silent)
        if silent and others and func._schema.name in _ADDITIONS:
            self.added.update(*silent)
        stays_silent = silent and (not others or func._schema.name in _PRODUCTS)
        for tensor in tensors_in(result):
            if stays_silent:
                self._silent[id(tensor)] = tensor, frozenset().union(*silent)
            else:
                self._silent.pop(id(tensor), None)  # written to
        return result
