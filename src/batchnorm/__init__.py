"""Batch normalisation in practice: train batch-normalised networks, and keep training and inference apart.

The public names are loaded when they are first used, so that ``batchnorm --help`` need not wait for torch.
"""

from typing import TYPE_CHECKING

from batchnorm import forking as forking  # whatever is used first: its hook must be there before a fork
from batchnorm.lazy import lazy_exports
from batchnorm.version import __version__ as __version__

if TYPE_CHECKING:
    from batchnorm import functional as functional
    from batchnorm.comparing import Comparison as Comparison
    from batchnorm.comparing import compare as compare
    from batchnorm.config import TrainingConfig as TrainingConfig
    from batchnorm.config import recipes as recipes
    from batchnorm.data import Dataset as Dataset
    from batchnorm.data import Examples as Examples
    from batchnorm.data import load_dataset as load_dataset
    from batchnorm.dynamics import ObservedLayers as ObservedLayers
    from batchnorm.dynamics import observe_layers as observe_layers
    from batchnorm.errors import BatchnormError as BatchnormError
    from batchnorm.errors import InputError as InputError
    from batchnorm.estimator import BatchNormClassifier as BatchNormClassifier
    from batchnorm.estimator import BatchNormRegressor as BatchNormRegressor
    from batchnorm.evaluation import Evaluation as Evaluation
    from batchnorm.evaluation import LabelsEvaluation as LabelsEvaluation
    from batchnorm.evaluation import ValuesEvaluation as ValuesEvaluation
    from batchnorm.evaluation import evaluate as evaluate
    from batchnorm.exporting import Exported as Exported
    from batchnorm.exporting import export as export
    from batchnorm.network import BatchNorm1d as BatchNorm1d
    from batchnorm.network import DenseNetwork as DenseNetwork
    from batchnorm.reporting import Report as Report
    from batchnorm.reporting import write_report as write_report
    from batchnorm.tables import TableRun as TableRun
    from batchnorm.tables import load_run as load_run
    from batchnorm.tables import resume as resume
    from batchnorm.toolkit import Change as Change
    from batchnorm.toolkit import ChangedLayers as ChangedLayers
    from batchnorm.toolkit import Diagnosis as Diagnosis
    from batchnorm.toolkit import Finding as Finding
    from batchnorm.toolkit import FoldedModel as FoldedModel
    from batchnorm.toolkit import Folding as Folding
    from batchnorm.toolkit import Freezing as Freezing
    from batchnorm.toolkit import Gap as Gap
    from batchnorm.toolkit import LayerReport as LayerReport
    from batchnorm.toolkit import Loading as Loading
    from batchnorm.toolkit import Recalibration as Recalibration
    from batchnorm.toolkit import Site as Site
    from batchnorm.toolkit import Sites as Sites
    from batchnorm.toolkit import convert_kernel as convert_kernel
    from batchnorm.toolkit import convert_momentum as convert_momentum
    from batchnorm.toolkit import convert_variance as convert_variance
    from batchnorm.toolkit import diagnose as diagnose
    from batchnorm.toolkit import find_sites as find_sites
    from batchnorm.toolkit import fold as fold
    from batchnorm.toolkit import freeze as freeze
    from batchnorm.toolkit import load_flax as load_flax
    from batchnorm.toolkit import load_keras as load_keras
    from batchnorm.toolkit import recalibrate as recalibrate
    from batchnorm.toolkit import synchronize as synchronize
    from batchnorm.toolkit import track_statistics as track_statistics
    from batchnorm.toolkit import unfreeze as unfreeze
    from batchnorm.toolkit import unsynchronize as unsynchronize
    from batchnorm.training import Monitor as Monitor
    from batchnorm.training import Monitors as Monitors
    from batchnorm.training import ProgressMonitor as ProgressMonitor
    from batchnorm.training import Run as Run
    from batchnorm.training import TensorBoardMonitor as TensorBoardMonitor
    from batchnorm.training import fit as fit

_HOME = {
    "BatchNorm1d": "batchnorm.network",
    "BatchNormClassifier": "batchnorm.estimator",
    "BatchNormRegressor": "batchnorm.estimator",
    "BatchnormError": "batchnorm.errors",
    "Change": "batchnorm.toolkit",
    "ChangedLayers": "batchnorm.toolkit",
    "Comparison": "batchnorm.comparing",
    "Dataset": "batchnorm.data",
    "DenseNetwork": "batchnorm.network",
    "Diagnosis": "batchnorm.toolkit",
    "Evaluation": "batchnorm.evaluation",
    "Examples": "batchnorm.data",
    "Exported": "batchnorm.exporting",
    "Finding": "batchnorm.toolkit",
    "FoldedModel": "batchnorm.toolkit",
    "Folding": "batchnorm.toolkit",
    "Freezing": "batchnorm.toolkit",
    "InputError": "batchnorm.errors",
    "LabelsEvaluation": "batchnorm.evaluation",
    "Gap": "batchnorm.toolkit",
    "LayerReport": "batchnorm.toolkit",
    "Loading": "batchnorm.toolkit",
    "Monitor": "batchnorm.training",
    "Monitors": "batchnorm.training",
    "ObservedLayers": "batchnorm.dynamics",
    "ProgressMonitor": "batchnorm.training",
    "Recalibration": "batchnorm.toolkit",
    "Report": "batchnorm.reporting",
    "Run": "batchnorm.training",
    "Site": "batchnorm.toolkit",
    "Sites": "batchnorm.toolkit",
    "TableRun": "batchnorm.tables",
    "TensorBoardMonitor": "batchnorm.training",
    "TrainingConfig": "batchnorm.config",
    "ValuesEvaluation": "batchnorm.evaluation",
    "compare": "batchnorm.comparing",
    "convert_kernel": "batchnorm.toolkit",
    "convert_momentum": "batchnorm.toolkit",
    "convert_variance": "batchnorm.toolkit",
    "diagnose": "batchnorm.toolkit",
    "evaluate": "batchnorm.evaluation",
    "export": "batchnorm.exporting",
    "find_sites": "batchnorm.toolkit",
    "fit": "batchnorm.training",
    "fold": "batchnorm.toolkit",
    "freeze": "batchnorm.toolkit",
    "functional": "batchnorm",
    "load_dataset": "batchnorm.data",
    "load_flax": "batchnorm.toolkit",
    "load_keras": "batchnorm.toolkit",
    "load_run": "batchnorm.tables",
    "observe_layers": "batchnorm.dynamics",
    "recalibrate": "batchnorm.toolkit",
    "recipes": "batchnorm.config",
    "resume": "batchnorm.tables",
    "synchronize": "batchnorm.toolkit",
    "track_statistics": "batchnorm.toolkit",
    "unfreeze": "batchnorm.toolkit",
    "unsynchronize": "batchnorm.toolkit",
    "write_report": "batchnorm.reporting",
}
__all__ = list(_HOME)

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
