"""How a batch-norm layer behaves, changed in place and changed back: frozen, synchronised."""

from batchnorm.toolkit.behaviors.freezing import Freezing, freeze, is_frozen, keeps_statistics, unfreeze
from batchnorm.toolkit.behaviors.synchronization import is_synchronized, synchronize, unsynchronize

__all__ = [
    "Freezing",
    "freeze",
    "is_frozen",
    "is_synchronized",
    "keeps_statistics",
    "synchronize",
    "unfreeze",
    "unsynchronize",
]
