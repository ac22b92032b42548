"""How any model is run, on batches of any kind, and given back as it was."""

from batchnorm.toolkit.model.feed import Feed, Forward, device_of, tensors_in, unwrapped
from batchnorm.toolkit.model.layers import (
    affine,
    deep_copy,
    give_statistics,
    materialize,
    norm_layers,
    statistics_of,
    variance_convention,
)
from batchnorm.toolkit.model.restoring import (
    gpus_of,
    has_hooks,
    inference,
    left_alone,
    modes_restored,
    random_state_restored,
    set_modes,
    undisturbed,
)
from batchnorm.toolkit.model.workers import Workers

__all__ = [
    "Feed",
    "Forward",
    "Workers",
    "affine",
    "deep_copy",
    "device_of",
    "give_statistics",
    "gpus_of",
    "has_hooks",
    "inference",
    "left_alone",
    "materialize",
    "modes_restored",
    "norm_layers",
    "random_state_restored",
    "set_modes",
    "statistics_of",
    "tensors_in",
    "undisturbed",
    "unwrapped",
    "variance_convention",
]
