"""Which trainings look into their layers, and at what."""

import numpy as np
from torch import nn

from batchnorm.config import TrainingConfig
from batchnorm.data import Examples
from batchnorm.dynamics import Observer, sample_of, thinned
from batchnorm.losses import Loss
from batchnorm.network import DenseNetwork
from batchnorm.training.monitor import Monitor

_MOST_LOOKS = 25  # besides the first: each takes its time, and is some kilobytes in a run folder
_STREAM = 2  # of the seed's: nothing else is drawn from it


def looks_by_default(network: nn.Module) -> bool:
    """Tell whether what a network computes is known to be looked into at little cost."""
    return isinstance(network, DenseNetwork) and network.alteration() is None


def make_observer(network: nn.Module, training: Examples, config: TrainingConfig, monitor: Monitor) -> Observer:
    """Return what looks into a network while it is trained, on examples that the seed draws."""
    random = np.random.default_rng([config.seed, _STREAM])
    examples = training.as_learnt()
    evaluated = sorted({*range(0, config.epochs, config.evaluate_every), config.epochs - 1})
    return Observer(
        network,
        examples,
        sample_of(len(examples), examples.n_features, random),
        Loss.of(examples.labels, config.label_smoothing),
        thinned(evaluated, _MOST_LOOKS),
        warn=monitor.warn,
        tell=monitor.looked,
    )
