"""What a training has look into its network now and then, on the same examples each time."""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from batchnorm.data import ExamplesLike, as_columns
from batchnorm.dynamics.distribution import rounded
from batchnorm.dynamics.observing import observe
from batchnorm.dynamics.watching import layers_in
from batchnorm.errors import in_words
from batchnorm.losses import Loss, mean_loss
from batchnorm.network import input_dtype
from batchnorm.toolkit.model import open_model, undisturbed

_MOST_LAYERS, _MOST_RECORDS = 1000, 4000  # of a network, and of all looks into it: each is kilobytes in a run folder
_MOST_EXAMPLES, _FEWEST_EXAMPLES, _MOST_NUMBERS = 500, 32, 2**22  # of a sample, and of its inputs


class Observer:
    """Looks into a network before its training and after some epochs of it.

    A look changes nothing, and draws nothing: a training with looks gives the same weights as one without. Where one
    fails, as a network of someone else's may let it, there is a warning, and no further look.

    Parameters
    ----------
    network : torch.nn.Module
    examples : ExamplesLike
        What is trained on, with labels as they are learnt.
    sample : array, shape (sample,)
        The places of those that are looked at.
    loss : Loss
        What the training minimises.
    epochs : sequence of int
        After which ones it looks, in order, as far as the training may go; into a deep network after fewer, into one of
        more than a thousand layers never.
    warn : callable
        Is told where a look fails.
    tell : callable
        Is given each look, once it may be told of.
    """

    def __init__(
        self,
        network: nn.Module,
        examples: ExamplesLike,
        sample: NDArray[np.int64],
        loss: Loss,
        epochs: Sequence[int],
        warn: Callable[[str], None],
        tell: Callable[[dict[str, Any]], None] = lambda look: None,
    ):
        self.looks: list[dict[str, Any]] = []
        self._tell, self._n_told = tell, 0
        self._network, self._examples, self._loss, self._warn = network, examples, loss, warn
        self._sample = torch.from_numpy(sample)
        n_layers = max(1, len(layers_in(network)))
        self._due = {-1, *thinned(epochs, max(1, _MOST_RECORDS // n_layers))} if n_layers <= _MOST_LAYERS else set()
        self._before: dict[str, Tensor] | None = None
        self._failed = False

    def go_on(self, looks: Iterable[dict[str, Any]], step: int) -> None:
        """Take up the looks of a training that goes on after so many steps; later ones come again."""
        self.looks = [look for look in looks if look["step"] <= step]
        self.tell()

    def before_last_step(self, epoch: int) -> None:
        """Take note of the weights before the last step of an epoch."""
        if self._is_due(epoch):
            with suppress(Exception):  # what cannot be copied has no ratio
                self._before = {name: tensor.clone() for name, tensor in self._weights().items()}

    def look(self, epoch: int, step: int) -> None:
        """Look after an epoch, −1 before the first, and so many steps of the training, if it is time to."""
        if not self._is_due(epoch):
            return
        try:
            layers = self._observed()
        except Exception as error:  # whatever a network of someone else's does: the training goes on
            self._failed = True
            self._warn(f"the layers are not looked into: {in_words(error)}")
            return
        self.looks.append({"epoch": epoch, "step": step, "layers": layers})

    def tell(self) -> None:
        """Hand on the looks that nobody was told of, as copies."""
        for look in self.looks[self._n_told :]:
            self._tell(copy.deepcopy(look))
        self._n_told = len(self.looks)

    def _is_due(self, epoch: int) -> bool:
        return not self._failed and epoch in self._due and all(look["epoch"] != epoch for look in self.looks)

    def _observed(self) -> list[dict[str, Any]]:
        inputs, labels = self._examples.batch(self._sample.to(self._examples.labels.device), input_dtype(self._network))
        layers = observe(self._network, inputs, labels, loss=partial(_loss, self._loss))
        before, self._before = self._before, None
        if before is not None:
            after = self._weights()
            for layer in layers:
                layer["update_ratio"] = _ratio(before.get(layer["name"]), after.get(layer["name"]))
        return layers

    @torch.no_grad()
    def _weights(self) -> dict[str, Tensor]:
        network = open_model(self._network).module
        is_computed = any(map(parametrize.is_parametrized, network.modules()))
        # As by spectral_norm, whose buffers move with that.
        with undisturbed(network) if is_computed else nullcontext():
            return {name: cast(Tensor, layer.weight).detach() for name, layer in layers_in(network).items()}


def thinned(epochs: Sequence[int], most: int) -> list[int]:
    """Return every second, third, … of epochs, so that there are at most so many, and the last."""
    return sorted({*epochs[:: max(1, math.ceil(len(epochs) / most))], *epochs[-1:]})


def sample_of(n_examples: int, n_features: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw the examples that are looked at: at most five hundred, of large ones fewer."""
    size = min(n_examples, _MOST_EXAMPLES, max(_FEWEST_EXAMPLES, _MOST_NUMBERS // max(1, n_features)))
    return np.sort(random.choice(n_examples, size, replace=False))


def _loss(loss: Loss, outputs: Any, labels: Tensor) -> Tensor:
    return mean_loss(as_columns(outputs, labels), labels, loss)


def _ratio(before: Tensor | None, after: Tensor | None) -> float | None:
    """Return the size of a step relative to that of the weight."""
    if before is None or after is None or before.shape != after.shape:
        return None
    moved, size = (float(torch.linalg.vector_norm(t.double())) for t in (after.double() - before.double(), before))
    return rounded(moved / size) if size else None
