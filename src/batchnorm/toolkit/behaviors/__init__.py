"""How a batch-norm layer behaves, changed in place and changed back without a trace: frozen, synchronised.

`variants` says how a layer's class is changed; each behaviour is a class that is mixed in.
"""

from batchnorm.toolkit.behaviors.freezing import Freezing, freeze, is_frozen, keeps_statistics, unfreeze
from batchnorm.toolkit.behaviors.synchronization import is_synchronized, synchronize, unsynchronize
from batchnorm.toolkit.behaviors.variants import ChangedLayers

__all__ = [
    "ChangedLayers",
    "Freezing",
    "freeze",
    "is_frozen",
    "is_synchronized",
    "keeps_statistics",
    "synchronize",
    "unfreeze",
    "unsynchronize",
]
