"""How a model of any kind is run on batches of any kind: what every function of the toolkit has in common."""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from batchnorm.errors import InputError
from batchnorm.toolkit.model.layers import norm_layers, refuse_lazy, refuse_unusable, tracking
from batchnorm.toolkit.model.nested import map_nested
from batchnorm.toolkit.model.restoring import inference, without_gradients

Forward = Callable[[nn.Module, Any], Any]


class Feed:
    """Batches, and how a model is run on one of them.

    Parameters
    ----------
    model : torch.nn.Module
        Without wrappers (see `open_model`).
    batches : iterable
        Of tensors; of tuples or lists that begin with the model's input; or of dicts, whose entries are passed by name
        where the model's `forward` has a parameter of that name. An iterator, which can be gone through only once, is
        read when it is first needed and kept in memory.
    n_batches : int, optional
        How many of them are used in every pass: the first ones. No more are read, so that there may be endless ones.
    forward : callable, optional
        ``forward(model, batch)`` runs the model on any other kind of batch.
    device : torch.device or str, optional
        Where the tensors of a batch are moved; by default to the model's first parameter or buffer.
    around : callable, optional
        Returns a context manager, within which each forward pass runs.

    Raises
    ------
    InputError
        If `batches` is not an iterable of batches, or `n_batches` no number of them; in a pass, if there are fewer.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        *,
        n_batches: int | None = None,
        forward: Forward | None = None,
        device: torch.device | str | None = None,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ):
        if isinstance(batches, Tensor | Mapping):
            what = f"one tensor of shape {tuple(batches.shape)}" if isinstance(batches, Tensor) else "one dict"
            raise InputError(f"batches is {what}, expected an iterable of batches: give a list, such as [batch]")
        if not isinstance(batches, Iterable):
            raise InputError(f"batches is a {type(batches).__name__}, expected an iterable of batches")
        if n_batches is not None and not _counts(n_batches):
            raise InputError(f"n_batches is {n_batches!r}, expected a whole number from 1, or None for all batches")
        self.model, self._around = model, around
        self._batches, self._n_batches, self._forward, self._seen = batches, n_batches, forward, 0
        self._device = torch.device(device) if device is not None else device_of(model)

    def __iter__(self) -> Iterator[Any]:
        """Go through the batches, each time from the first."""
        if isinstance(self._batches, Iterator):
            self._batches = list(islice(self._batches, self._n_batches))
        seen = 0
        for batch in islice(self._batches, self._n_batches):
            seen += 1
            yield map_nested(lambda leaf: _on_device(leaf, self._device), batch)
        if self._n_batches is not None and seen < self._n_batches:
            raise self._too_few(seen)
        self._seen = seen

    def _too_few(self, seen: int) -> InputError:
        remedy = (
            "an earlier pass had them all, so give a list, or another object that yields the same ones each time"
            if self._seen
            else "ask for fewer, or leave n_batches out to use all that there are"
        )
        return InputError(f"the batches ended after {seen}, n_batches is {self._n_batches}: {remedy}")

    @property
    def length(self) -> int:
        """How many batches there are; 0 as long as that is not known."""
        if self._n_batches is not None:
            return self._n_batches
        try:
            return len(self._batches)  # type: ignore[arg-type]
        except TypeError:  # an iterable without a length, or a loader of one
            return self._seen

    def run(self, batch: Any) -> Any:
        """Return the model's output for a batch that this object has yielded.

        The model gets copies of the tensors: it may work in place on them, and the batch is run more than once.
        """
        return self.consume(map_nested(_copied, batch))

    def consume(self, batch: Any) -> Any:
        """Do as `run` does, on the batch's own tensors."""
        with eager(), self._around():
            if self._forward is not None:
                return self._forward(self.model, batch)
            if isinstance(batch, tuple | list):
                if not batch:
                    raise InputError("a batch is an empty tuple, expected one that begins with the model's input")
                _check_one_input(self.model)
                return self.model(batch[0])
            if isinstance(batch, Mapping):
                return self.model(**_arguments(self.model, batch))
            return self.model(batch)


def _counts(number: Any) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool) and int(number) >= 1  # numpy's, too


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's first parameter or buffer is that holds values; the CPU if it has none."""
    devices = [tensor.device for tensor in (*model.parameters(), *model.buffers())]
    own = (device for device in devices if device.type != "meta")  # as of weights that are loaded when they are used
    return next(own, devices[0] if devices else torch.device("cpu"))


def _on_device(leaf: Any, device: torch.device) -> Any:
    """Return a tensor or array as a tensor on a device, and anything else as it is."""
    if isinstance(leaf, Tensor):
        return leaf.to(device)
    return torch.as_tensor(leaf).to(device) if hasattr(leaf, "__array__") else leaf


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf


def _check_one_input(model: nn.Module) -> None:
    parameters = inspect.signature(model.forward).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(required) > 1:
        raise InputError(
            f"a batch is a tuple, of which the model gets the first part, but {type(model).__name__}.forward needs "
            f"{', '.join(required)}: say how to run it, such as "
            f"forward=lambda model, batch: model(*batch[:{len(required)}])"
        )


def _arguments(model: nn.Module, batch: Mapping[Any, Any]) -> dict[Any, Any]:
    parameters = inspect.signature(model.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(batch)
    chosen = {key: value for key, value in batch.items() if key in parameters}
    if not chosen:
        raise InputError(
            f"a batch is a dict of {', '.join(map(repr, batch))}, but {type(model).__name__}.forward takes "
            f"{', '.join(parameters)}: say how to run it, such as "
            f"forward=lambda model, batch: model(batch[{next(iter(batch), 'x')!r}]), or model(batch)"
        )
    return chosen


def eager() -> AbstractContextManager[Any]:
    """Have compiled parts run as they were written: compiled code calls no hooks."""
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def materialize(feed: Feed) -> None:
    """Have the lazy layers of a model become what they will be: its first batch tells them.

    Raises
    ------
    InputError
        If it does not reach one of them that is a batch norm; if there are running statistics that cannot be read or
        written.
    """
    if any(isinstance(module, LazyModuleMixin) for module in feed.model.modules()):
        with inference(feed.model), without_gradients(feed.model):
            for batch in feed:
                feed.run(batch)
                break
    refuse_lazy(norm_layers(feed.model))
    refuse_unusable(tracking(norm_layers(feed.model)))
