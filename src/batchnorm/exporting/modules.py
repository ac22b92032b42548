"""Any `torch.nn.Module` in inference form, with an input and the outputs that it must have."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchnorm.errors import InputError, raised_by_network
from batchnorm.toolkit import fold
from batchnorm.toolkit.model import Feed, inference, map_nested, open_model, tensors_in
from batchnorm.toolkit.structure import made_up_batch

_PRECISIONS = (torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Subject:
    """What is exported.

    Parameters
    ----------
    module : torch.nn.Module
        In inference mode, on the CPU.
    args : tuple
    kwargs : dict
        An input of several rows.
    expected : list of array
        The outputs for it.
    notes : tuple of str
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    expected: list[NDArray[Any]]
    notes: tuple[str, ...]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors of the input, in their order."""
        return [*tensors_in(self.args), *tensors_in(self.kwargs)]

    @property
    def n_rows(self) -> int:
        """How many examples the input has."""
        return len(self.tensors[0])


def open_module(model: nn.Module, example: Any, rows: int | None) -> Subject:
    """Return a model with its batch norms folded, and what it computes on an example, or on made-up input.

    Raises
    ------
    InputError
        As `fold`; or if it computes in half precision, or on something that is no tensor of several rows.
    """
    module = open_model(model).module
    if module.training:
        raise InputError(
            "the model is in training mode, where batch norm depends on the batch: call model.eval() first"
        )
    _check_precision(module)
    batch = made_up_batch(module) if example is None else example
    if rows is not None:
        batch = map_nested(lambda leaf: leaf[:rows], batch)
    lean = fold(model, batch)
    notes = tuple(str(lean.folding).splitlines()[1:])
    feed = Feed(module, [batch])
    batch = next(iter(feed))
    with inference(module), torch.no_grad(), raised_by_network("the model cannot take the example"):
        outputs = feed.run(batch)
    args, kwargs = _call(module, batch)
    sizes = {len(tensor) if tensor.dim() else 0 for tensor in tensors_in((args, kwargs))}
    if len(sizes) != 1 or sizes == {0}:
        raise InputError(f"the tensors of the example have {sorted(sizes)} rows, expected one number of them, from 1")
    del lean.folding
    expected = [tensor.cpu().numpy() for tensor in tensors_in(outputs)]
    return Subject(lean.cpu(), args, kwargs, expected, tuple(note.strip() for note in notes))


def _check_precision(module: nn.Module) -> None:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype not in _PRECISIONS:
            raise InputError(f"{name} is of type {tensor.dtype}, expected float32 or float64: export model.float()")


def _call(module: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return how `Feed` runs a model on a batch: its arguments, and those by name."""
    batch = map_nested(_to_cpu, batch)
    if isinstance(batch, Mapping):
        parameters = inspect.signature(module.forward).parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        return (), {str(key): value for key, value in batch.items() if takes_all or key in parameters}
    return (batch[0] if isinstance(batch, tuple | list) else batch,), {}


def _to_cpu(leaf: Any) -> Any:
    return leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf
