"""Which layer feeds which: traced from a model's code, or seen in a run."""

from batchnorm.toolkit.structure.made_up_input import generated_batch
from batchnorm.toolkit.structure.observation import Observation, observe
from batchnorm.toolkit.structure.sites import Site, find_sites
from batchnorm.toolkit.structure.tracing import Call, Scope, Trace, asks, hooked, is_leaf, passes_on, trace, users

__all__ = [
    "Call",
    "Observation",
    "Scope",
    "Site",
    "Trace",
    "asks",
    "find_sites",
    "generated_batch",
    "hooked",
    "is_leaf",
    "observe",
    "passes_on",
    "trace",
    "users",
]
