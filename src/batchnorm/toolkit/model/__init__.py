"""How any model is run, on batches of any kind, and given back as it was.

`open_model` is the door: it takes a user's model out of its wrappers, and refuses what is `opaque`. A `Feed` runs it on
batches; `restoring` gives modes, buffers, attributes and random state back; `layers` knows batch norm, `Overlooked`
what is like it and none of these layers; `Workers` are the processes that measure together.
"""

from batchnorm.toolkit.model.copying import deep_copy
from batchnorm.toolkit.model.feed import Feed, Forward, device_of, eager, materialize
from batchnorm.toolkit.model.layers import (
    NormLayer,
    TrackingLayer,
    affine,
    as_tracking,
    give_statistics,
    inputs_seen,
    listed,
    norm_layers,
    normalize_with,
    refuse_lazy,
    refuse_meta,
    statistics_in,
    statistics_of,
    tracking,
    variance_convention,
    without_derivatives,
    write,
)
from batchnorm.toolkit.model.nested import map_nested, tensors_in
from batchnorm.toolkit.model.opening import OpenedModel, open_model, unwrapped
from batchnorm.toolkit.model.overlooked import Overlooked, overlooked_in_words
from batchnorm.toolkit.model.restoring import (
    State,
    gpus_of,
    has_hooks,
    inference,
    left_alone,
    modes_restored,
    random_state_restored,
    random_states,
    repeatable,
    set_modes,
    undisturbed,
    without_gradients,
)
from batchnorm.toolkit.model.workers import Workers

__all__ = [
    "Feed",
    "Forward",
    "NormLayer",
    "OpenedModel",
    "Overlooked",
    "State",
    "TrackingLayer",
    "Workers",
    "affine",
    "as_tracking",
    "deep_copy",
    "device_of",
    "eager",
    "give_statistics",
    "gpus_of",
    "has_hooks",
    "inference",
    "inputs_seen",
    "left_alone",
    "listed",
    "map_nested",
    "materialize",
    "modes_restored",
    "norm_layers",
    "normalize_with",
    "open_model",
    "overlooked_in_words",
    "random_state_restored",
    "random_states",
    "refuse_lazy",
    "refuse_meta",
    "repeatable",
    "set_modes",
    "statistics_in",
    "statistics_of",
    "tensors_in",
    "tracking",
    "undisturbed",
    "unwrapped",
    "variance_convention",
    "without_derivatives",
    "without_gradients",
    "write",
]
