"""The end of a training: exact population statistics, of any network in which they can be measured."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from batchnorm.data import Examples
from batchnorm.errors import in_words
from batchnorm.evaluation import BLOCK_SIZE, AnyEvaluation, evaluate
from batchnorm.network import input_dtype
from batchnorm.toolkit.model import TrackingLayer, open_model, tracking, write
from batchnorm.toolkit.statistics import recalibrate


@dataclass(frozen=True, eq=False)
class Population:
    """A network's population statistics, and what it measures with them.

    Parameters
    ----------
    statistics : dict of str to Tensor
        By the names of the running averages in the network's `state_dict`.
    evaluation : Evaluation, LabelsEvaluation, ValuesEvaluation or None
        None if the network has no batch norm, or there is an obstacle.
    obstacle : str or None
        Why there are none.
    """

    statistics: dict[str, Tensor] = field(default_factory=dict)
    evaluation: AnyEvaluation | None = None
    obstacle: str | None = None


def measure_population(network: nn.Module, training: Examples, test: Examples) -> Population:
    """Measure a network with the population statistics of its training set; it keeps its running averages.

    It is the network itself that is measured, as not every module can be copied. Whatever goes wrong is an obstacle
    and no error: the training is done, and its results do not hang on this.
    """
    try:
        with _recalibrated(network, training) as statistics:
            if statistics is None:
                return Population()
            evaluation = evaluate(network, test)
            if not math.isfinite(evaluation.loss):
                raise ValueError(f"with them the loss on the test set is {evaluation.loss}")
            return Population(statistics, evaluation)
    except Exception as error:
        return Population(obstacle=f"no population statistics: {in_words(error)}")


@contextmanager
def _recalibrated(network: nn.Module, training: Examples) -> Iterator[dict[str, Tensor] | None]:
    """Have a network normalise with population statistics; yield these by name, or None where nothing uses any.

    In place: what is compiled goes on reading the same memory.
    """
    blocks = training.blocks(BLOCK_SIZE, input_dtype(network))
    changes = recalibrate(network, blocks, distributed=False, progress=False).changes
    opened = open_model(network)
    tracked = tracking(opened.layers)
    layers = {name: tracked[name] for name in changes}  # in the order of execution
    try:
        yield _named(network, opened.path, layers) if layers else None
    finally:
        for name, layer in layers.items():
            write(layer.running_mean, changes[name].mean_before)
            write(layer.running_var, changes[name].var_before)


def _named(network: nn.Module, path: str, layers: Mapping[str, TrackingLayer]) -> dict[str, Tensor]:
    """Return copies of layers' statistics, by what the network's `state_dict` calls them: hooks may rename them."""
    state = network.state_dict(keep_vars=True)
    keys = {id(value): key for key, value in reversed(state.items())}  # of a shared layer the first
    named = {
        keys.get(id(value), ".".join(filter(None, (path, name, buffer)))): value.clone()
        for name, layer in layers.items()
        for buffer, value in (("running_mean", layer.running_mean), ("running_var", layer.running_var))
    }
    return {key: value for key, value in named.items() if key in state}
