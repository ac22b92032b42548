"""Population statistics: what reaches each layer, measured exactly over all data and all workers."""

from batchnorm.toolkit.statistics.population import Method, Observed, measure
from batchnorm.toolkit.statistics.recalibration import Change, Recalibration, recalibrate, track_statistics

__all__ = ["Change", "Method", "Observed", "Recalibration", "measure", "recalibrate", "track_statistics"]
