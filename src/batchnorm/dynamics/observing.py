"""One look into a network, which is afterwards what it was."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize

from batchnorm.data import as_columns, as_targets
from batchnorm.dynamics.watching import Seen, layers_in, watched
from batchnorm.errors import InputError, check_kind, raised_by_network
from batchnorm.kernels.draws import global_generators_kept
from batchnorm.losses import Loss, mean_loss
from batchnorm.markup import captioned_table
from batchnorm.printing import aligned, printable
from batchnorm.results import SequenceResult
from batchnorm.toolkit.model import (
    Feed,
    Forward,
    modes_restored,
    open_model,
    refuse_lazy,
    refuse_meta,
    repeatable,
    set_modes,
    undisturbed,
)

LossFunction = Callable[[Any, Any], Tensor]  # of outputs and targets


class ObservedLayers(SequenceResult[dict[str, Any]]):
    """What `observe_layers` saw: a sequence of dicts, one per linear or convolution layer, in the order of execution.

    Each has

    - "name" and "units", "norm", the name of the batch norm that follows it, and "activation", the class of what comes
      next;
    - "before", "after" and "outputs", the distributions of what the layer, the batch norm and the activation give:
      "low" and "high", with "counts" in 40 equal bins between them, "mean", "sd" and five "quantiles" (0.05, 0.25, 0.5,
      0.75, 0.95);
    - "dead", the share of units where the activation is flat for every example, and "saturated", the share of examples
      and units where it is: flat is a slope below a hundredth of its steepest;
    - "weight_norm", the size of the weight, "gradient_norm" and "gradient", size and distribution of the mean loss's
      gradient with respect to it;
    - "gamma", "beta", "running_mean", "running_var" of the batch norm, and "sample_mean" and "sample_var" (biased) of
      what it was given: minimum, quartiles and maximum over the units;
    - "update_ratio", the size of a step relative to the weight, where a training looks.

    None stands for what there is not, and for NaN and infinite.

    Parameters
    ----------
    layers : iterable of dict
    unreached : tuple of str
        The layers that were not called as modules, or gave no real numbers.
    """

    def __init__(self, layers: Iterable[dict[str, Any]], unreached: tuple[str, ...] = ()):
        super().__init__(layers)
        self.unreached = unreached

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON knows."""
        return {"layers": list(self), "unreached": list(self.unreached)}

    def __str__(self) -> str:
        lines = aligned([_COLUMNS, *map(_cells, self)])
        return "\n".join(lines + ([self._not_seen] if self.unreached else []))

    @property
    def _not_seen(self) -> str:
        return f"not seen: {', '.join(map(printable, self.unreached))}"

    def _repr_html_(self) -> str:
        caption = f"{type(self).__name__}{f'; {self._not_seen}' if self.unreached else ''}"
        return captioned_table(caption, _COLUMNS, map(_cells, self))


_COLUMNS = ("layer", "units", "before", "after", "activation", "dead", "saturated", "gradient norm")


def _cells(layer: dict[str, Any]) -> tuple[str, ...]:
    shares = ("–" if layer[kind] is None else f"{layer[kind]:.1%}" for kind in ("dead", "saturated"))
    gradient = layer["gradient_norm"]
    return (
        printable(layer["name"] or "(the model)"),
        str(layer["units"]),
        *(_mean_and_sd(layer[kind]) for kind in ("before", "after")),
        printable(layer["activation"] or "–"),
        *shares,
        "–" if gradient is None else f"{gradient:.3g}",
    )


def _mean_and_sd(found: dict[str, Any] | None) -> str:
    if found is None or found["mean"] is None or found["sd"] is None:
        return "–"
    return f"{found['mean']:.3g} ± {found['sd']:.3g}"


def observe_layers(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    *,
    loss: LossFunction | None = None,
    forward: Forward | None = None,
) -> ObservedLayers:
    """Look at what a model does with a batch in training: distributions in its layers, flat activations, gradients.

    Batch norm normalises with the moments of this batch. Dropout does nothing. The model's parameters and their
    gradients, buffers, modes and hooks, and the random generators are afterwards what they were. A model in training
    mode is run in the modes of its modules; another is put into training mode for the time of the look.

    Seen are the layers of torch's classes, and those derived from them, that are called as modules. A batch norm or an
    activation belongs to a layer where it is a module that is given that layer's very output, or what dropout or
    another normalisation, such as `torch.nn.GroupNorm`, has made of it: an activation that is called as a function, as
    ``F.relu``, is not seen. Of a layer that is called more than once, its first call is seen; its gradient is that of
    all of them.

    Parameters
    ----------
    model : torch.nn.Module
        Without TorchScript.
    inputs : Tensor, tuple or dict
        A batch as `diagnose` takes them: the model's input, a tuple that begins with it, or its arguments by name.
        With batch norm of at least two examples.
    targets : Tensor
        What `Examples` take for labels: classes, whole numbers (batch,); labels, `bool` (batch, labels); or values,
        floating point (batch, outputs) or (batch,), in the unit of the model's outputs. With `loss` whatever it takes.
    loss : callable, optional
        ``loss(outputs, targets)`` returns the mean loss, a number. By default cross-entropy of classes, the binary one
        summed over labels, half the squared error of values.
    forward : callable, optional
        ``forward(model, inputs)`` runs the model on any other kind of batch.

    Returns
    -------
    ObservedLayers

    Raises
    ------
    InputError
        If the model cannot be looked into, as TorchScript; has no layers that are called; or cannot be run so.

    Examples
    --------
    >>> import batchnorm as bn
    >>> examples = bn.load_dataset("digits").train
    >>> inputs, targets = examples.batch(torch.arange(200))
    >>> layers = bn.observe_layers(bn.DenseNetwork(64, (32,), 10), inputs, targets)
    >>> [(layer["norm"], layer["activation"], layer["units"]) for layer in layers]
    [('1', 'ReLU', 32), (None, None, 10)]
    """
    check_kind("model", model, nn.Module, "give an instance of a torch.nn.Module")
    if loss is None:
        check_kind("targets", targets, Tensor, "use torch.as_tensor")
    elif not callable(loss):
        raise InputError(f"loss is {loss!r}, expected a function of outputs and targets, such as F.cross_entropy")
    layers = observe(model, inputs, targets, loss=loss, forward=forward)
    names = {layer["name"] for layer in layers}
    return ObservedLayers(layers, tuple(name for name in layers_in(open_model(model).module) if name not in names))


def observe(
    network: nn.Module,
    inputs: Any,
    targets: Any,
    *,
    loss: LossFunction | None = None,
    forward: Forward | None = None,
) -> list[dict[str, Any]]:
    """Return what `observe_layers` does, as a plain list."""
    network = open_model(network).module
    layers = layers_in(network)
    if not layers:
        raise InputError(
            f"{type(network).__name__} has no linear or convolution layer of torch.nn: there is nothing to look at"
        )
    refuse_lazy(layers)
    for name, layer in layers.items():
        refuse_meta((f"{name}.{kind}".lstrip("."), parameter) for kind, parameter in layer.named_parameters())
    feed = Feed(network, [inputs], forward=forward)
    batch = next(iter(feed))
    if loss is None:
        targets = _usual(targets)
    with _in_training(network), raised_by_network("the model cannot be looked into"):
        with watched(network, layers) as seen:
            outputs = feed.run(batch)
        if not seen:
            name = type(network).__name__
            raise InputError(f"no linear or convolution layer of {name} is called as a module and gives real numbers")
        # A copy, as autograd keeps nothing that was made in inference mode.
        targets = targets.clone() if isinstance(targets, Tensor) else targets
        gradients = _gradients(list(seen.values()), outputs, targets, loss)
        return [found.to_dict(gradient) for found, gradient in zip(seen.values(), gradients, strict=True)]


def _usual(targets: Tensor) -> Tensor:
    """Return targets as the losses of this package take them."""
    if not len(targets):
        raise InputError("there are no targets, expected one for each example of the batch")
    try:
        return as_targets(targets[:, None] if targets.is_floating_point() and targets.dim() == 1 else targets)
    except InputError as error:
        raise InputError(f"{error}; or say what the loss is of other ones, by loss=") from error


@contextmanager
def _in_training(network: nn.Module) -> Iterator[None]:
    """Have a network compute what it does in training, with nothing dropped, and leave it as it was."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # first: what is copied below is worked on
        for context in (modes_restored(network), undisturbed(network), global_generators_kept(), repeatable(network)):
            stack.enter_context(context)
        stack.enter_context(_other_generators_kept())
        stack.enter_context(torch.enable_grad())
        if any(parametrize.is_parametrized(module) for module in network.modules()):
            stack.enter_context(parametrize.cached())  # a weight that is computed is the same one each time
        if not network.training:
            set_modes(network, True)
        for module in network.modules():
            if isinstance(module, _DropoutNd):
                module.training = False
        yield


@contextmanager
def _other_generators_kept() -> Iterator[None]:
    """Give Python's and numpy's global generators their states back: a model may draw from them."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def _gradients(seen: list[Seen], outputs: Any, targets: Any, loss: LossFunction | None) -> list[Tensor | None]:
    """Return the gradient of each layer's weight; None where it has none, as it is frozen or leads nowhere."""
    if loss is None:
        outputs = as_columns(outputs, targets)
        if not isinstance(outputs, Tensor):
            raise InputError(f"the model returns a {type(outputs).__name__}: say what its loss is, by loss=")
        total = mean_loss(outputs, targets.to(outputs.device), Loss.of(targets, 0.0))
    else:
        total = loss(outputs, targets)
        if not isinstance(total, Tensor) or total.numel() != 1:
            returned = tuple(total.shape) if isinstance(total, Tensor) else type(total).__name__
            raise InputError(f"loss returned {returned}, expected a tensor of one number, the mean loss")
    learnt = [found.weight for found in seen if found.weight.requires_grad]
    if not learnt or not total.requires_grad:
        return [None] * len(seen)
    found = iter(torch.autograd.grad(total, learnt, allow_unused=True))
    return [next(found) if one.weight.requires_grad else None for one in seen]
