"""Which layer feeds which: traced from a model's code on symbols, or observed in a run on a batch.

`find_sites` tells the user. `trace`, `own_forward` (of one layer) and `observe` are for whoever changes a model by what
they know of it. Where nobody gives an input, `made_up_batch` makes one.
"""

from batchnorm.toolkit.structure.made_up_input import made_up_batch
from batchnorm.toolkit.structure.observation import Observation, observe
from batchnorm.toolkit.structure.own_forward import own_forward
from batchnorm.toolkit.structure.sites import Site, Sites, find_sites
from batchnorm.toolkit.structure.tracing import Call, Scope, Trace, asks, hooked, is_leaf, passes_on, trace, users

__all__ = [
    "Call",
    "Observation",
    "Scope",
    "Site",
    "Sites",
    "Trace",
    "asks",
    "find_sites",
    "hooked",
    "is_leaf",
    "made_up_batch",
    "observe",
    "own_forward",
    "passes_on",
    "trace",
    "users",
]
