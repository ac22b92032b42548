"""Batch normalisation in practice: train batch-normalised networks, and keep training and inference apart.

The public names are loaded when they are first used, so that ``batchnorm --help`` need not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchnorm import functional as functional
    from batchnorm.data.dataset import Dataset as Dataset
    from batchnorm.data.dataset import Examples as Examples
    from batchnorm.data.sources import load_dataset as load_dataset
    from batchnorm.errors import BatchnormError as BatchnormError
    from batchnorm.errors import InputError as InputError
    from batchnorm.estimator.classifier import BatchNormClassifier as BatchNormClassifier
    from batchnorm.estimator.regressor import BatchNormRegressor as BatchNormRegressor
    from batchnorm.evaluation import Evaluation as Evaluation
    from batchnorm.evaluation import evaluate as evaluate
    from batchnorm.progress import ProgressMonitor as ProgressMonitor
    from batchnorm.toolkit.conventions import convert_kernel as convert_kernel
    from batchnorm.toolkit.conventions import convert_momentum as convert_momentum
    from batchnorm.toolkit.conventions import convert_variance as convert_variance
    from batchnorm.toolkit.conventions import load_flax as load_flax
    from batchnorm.toolkit.conventions import load_keras as load_keras
    from batchnorm.toolkit.diagnosis import diagnose as diagnose
    from batchnorm.toolkit.folding import fold as fold
    from batchnorm.toolkit.freezing import freeze as freeze
    from batchnorm.toolkit.freezing import unfreeze as unfreeze
    from batchnorm.toolkit.recalibration import recalibrate as recalibrate
    from batchnorm.toolkit.recalibration import track_statistics as track_statistics
    from batchnorm.toolkit.sites import find_sites as find_sites
    from batchnorm.toolkit.synchronization import synchronize as synchronize
    from batchnorm.toolkit.synchronization import unsynchronize as unsynchronize
    from batchnorm.training.config import TrainingConfig as TrainingConfig
    from batchnorm.training.fit import Run as Run
    from batchnorm.training.fit import fit as fit
    from batchnorm.training.fit import load_run as load_run
    from batchnorm.training.fit import resume as resume
    from batchnorm.training.monitor import Monitor as Monitor
    from batchnorm.training.network import BatchNorm1d as BatchNorm1d
    from batchnorm.training.network import DenseNetwork as DenseNetwork
    from batchnorm.training.recipes import recipes as recipes

__version__ = "0.1.0"

_HOME = {
    "BatchNorm1d": "training.network",
    "BatchNormClassifier": "estimator.classifier",
    "BatchNormRegressor": "estimator.regressor",
    "BatchnormError": "errors",
    "Dataset": "data.dataset",
    "DenseNetwork": "training.network",
    "Evaluation": "evaluation",
    "Examples": "data.dataset",
    "InputError": "errors",
    "Monitor": "training.monitor",
    "ProgressMonitor": "progress",
    "Run": "training.fit",
    "TrainingConfig": "training.config",
    "convert_kernel": "toolkit.conventions",
    "convert_momentum": "toolkit.conventions",
    "convert_variance": "toolkit.conventions",
    "diagnose": "toolkit.diagnosis",
    "evaluate": "evaluation",
    "find_sites": "toolkit.sites",
    "fit": "training.fit",
    "fold": "toolkit.folding",
    "freeze": "toolkit.freezing",
    "load_dataset": "data.sources",
    "load_flax": "toolkit.conventions",
    "load_keras": "toolkit.conventions",
    "load_run": "training.fit",
    "recalibrate": "toolkit.recalibration",
    "recipes": "training.recipes",
    "resume": "training.fit",
    "synchronize": "toolkit.synchronization",
    "track_statistics": "toolkit.recalibration",
    "unfreeze": "toolkit.freezing",
    "unsynchronize": "toolkit.synchronization",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name == "functional":  # the one module that is meant to be used as such
        return importlib.import_module("batchnorm.functional")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
