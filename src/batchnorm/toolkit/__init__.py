"""Batch normalisation in any `torch.nn.Module`: find it, diagnose it, recompute its statistics, change it, fold it.

The verbs are loaded when they are first used: recalibrating a model needs nothing of folding.
"""

from typing import TYPE_CHECKING

from batchnorm.lazy import lazy_exports

if TYPE_CHECKING:
    from batchnorm.toolkit.behaviors import ChangedLayers as ChangedLayers
    from batchnorm.toolkit.behaviors import Freezing as Freezing
    from batchnorm.toolkit.behaviors import freeze as freeze
    from batchnorm.toolkit.behaviors import synchronize as synchronize
    from batchnorm.toolkit.behaviors import unfreeze as unfreeze
    from batchnorm.toolkit.behaviors import unsynchronize as unsynchronize
    from batchnorm.toolkit.conventions import convert_kernel as convert_kernel
    from batchnorm.toolkit.conventions import convert_momentum as convert_momentum
    from batchnorm.toolkit.conventions import convert_variance as convert_variance
    from batchnorm.toolkit.diagnosis import Diagnosis as Diagnosis
    from batchnorm.toolkit.diagnosis import Finding as Finding
    from batchnorm.toolkit.diagnosis import Gap as Gap
    from batchnorm.toolkit.diagnosis import LayerReport as LayerReport
    from batchnorm.toolkit.diagnosis import diagnose as diagnose
    from batchnorm.toolkit.folding import FoldedModel as FoldedModel
    from batchnorm.toolkit.folding import Folding as Folding
    from batchnorm.toolkit.folding import fold as fold
    from batchnorm.toolkit.loading import Loading as Loading
    from batchnorm.toolkit.loading import load_flax as load_flax
    from batchnorm.toolkit.loading import load_keras as load_keras
    from batchnorm.toolkit.statistics import Change as Change
    from batchnorm.toolkit.statistics import Recalibration as Recalibration
    from batchnorm.toolkit.statistics import recalibrate as recalibrate
    from batchnorm.toolkit.statistics import track_statistics as track_statistics
    from batchnorm.toolkit.structure import Site as Site
    from batchnorm.toolkit.structure import Sites as Sites
    from batchnorm.toolkit.structure import find_sites as find_sites

_HOME = {
    "Change": "batchnorm.toolkit.statistics",
    "ChangedLayers": "batchnorm.toolkit.behaviors",
    "Diagnosis": "batchnorm.toolkit.diagnosis",
    "Finding": "batchnorm.toolkit.diagnosis",
    "FoldedModel": "batchnorm.toolkit.folding",
    "Folding": "batchnorm.toolkit.folding",
    "Freezing": "batchnorm.toolkit.behaviors",
    "Gap": "batchnorm.toolkit.diagnosis",
    "LayerReport": "batchnorm.toolkit.diagnosis",
    "Loading": "batchnorm.toolkit.loading",
    "Recalibration": "batchnorm.toolkit.statistics",
    "Site": "batchnorm.toolkit.structure",
    "Sites": "batchnorm.toolkit.structure",
    "convert_kernel": "batchnorm.toolkit.conventions",
    "convert_momentum": "batchnorm.toolkit.conventions",
    "convert_variance": "batchnorm.toolkit.conventions",
    "diagnose": "batchnorm.toolkit.diagnosis",
    "find_sites": "batchnorm.toolkit.structure",
    "fold": "batchnorm.toolkit.folding",
    "freeze": "batchnorm.toolkit.behaviors",
    "load_flax": "batchnorm.toolkit.loading",
    "load_keras": "batchnorm.toolkit.loading",
    "recalibrate": "batchnorm.toolkit.statistics",
    "synchronize": "batchnorm.toolkit.behaviors",
    "track_statistics": "batchnorm.toolkit.statistics",
    "unfreeze": "batchnorm.toolkit.behaviors",
    "unsynchronize": "batchnorm.toolkit.behaviors",
}
__all__ = list(_HOME)

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
