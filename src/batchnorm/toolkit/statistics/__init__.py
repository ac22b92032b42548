"""Population statistics: what reaches each layer, measured exactly over all data and all workers.

`recalibrate` gives them to a model. `measure` has all batches walk through it together (`lockstep`), each in a thread
that waits at every layer (`walk`), as long as what is `alive` meanwhile fits in memory. Otherwise it goes through the
data level by level (`population`), each level in one pass (`passes`), in the order that `dependence` sees.
`track_statistics` is for layers that have none.
"""

from batchnorm.toolkit.statistics.lockstep import MEMORY
from batchnorm.toolkit.statistics.population import Method, measure
from batchnorm.toolkit.statistics.reached import Reached
from batchnorm.toolkit.statistics.recalibration import Change, Recalibration, recalibrate
from batchnorm.toolkit.statistics.tracking import track_statistics

__all__ = ["MEMORY", "Change", "Method", "Reached", "Recalibration", "measure", "recalibrate", "track_statistics"]
