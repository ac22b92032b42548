"""Where learning happens: the network, the training step, the loop, the run folder."""

from batchnorm.training.checks import check_device
from batchnorm.training.fitting import evaluate_run, fit, load_run, resume
from batchnorm.training.identity import check_dataset
from batchnorm.training.interruption import deferred_interrupts
from batchnorm.training.loop import batch_slices
from batchnorm.training.monitor import Monitor, Monitors, ProgressMonitor, monitor_for
from batchnorm.training.run import Run
from batchnorm.training.schedules import learning_rate
from batchnorm.training.seeds import fit_seeds, summarize
from batchnorm.training.stopped import load_stopped
from batchnorm.training.surroundings import own_surroundings
from batchnorm.training.tensorboard import TensorBoardMonitor
from batchnorm.training.threads import threads_for

__all__ = [
    "Monitor",
    "Monitors",
    "ProgressMonitor",
    "Run",
    "TensorBoardMonitor",
    "batch_slices",
    "check_dataset",
    "check_device",
    "deferred_interrupts",
    "evaluate_run",
    "fit",
    "fit_seeds",
    "learning_rate",
    "load_run",
    "load_stopped",
    "monitor_for",
    "own_surroundings",
    "resume",
    "summarize",
    "threads_for",
]
