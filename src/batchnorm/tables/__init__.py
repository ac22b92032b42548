"""Tables of one's own: files become rows, rows a trained run, and a run predictions.

The names are loaded when they are first used: whether a folder holds a run on a table is known without pyarrow.
"""

from typing import TYPE_CHECKING

from batchnorm.lazy import lazy_exports

if TYPE_CHECKING:
    from batchnorm.tables.fitting import Split as Split
    from batchnorm.tables.fitting import evaluate_table as evaluate_table
    from batchnorm.tables.fitting import train_table as train_table
    from batchnorm.tables.opening import load_run as load_run
    from batchnorm.tables.predicting import Predictions as Predictions
    from batchnorm.tables.reading import open_table as open_table
    from batchnorm.tables.reading import read_tables as read_tables
    from batchnorm.tables.runs import TableRun as TableRun
    from batchnorm.tables.runs import score_lines as score_lines
    from batchnorm.tables.writing import write_predictions as write_predictions

_HOME = {
    "Predictions": "batchnorm.tables.predicting",
    "Split": "batchnorm.tables.fitting",
    "TableRun": "batchnorm.tables.runs",
    "evaluate_table": "batchnorm.tables.fitting",
    "load_run": "batchnorm.tables.opening",
    "open_table": "batchnorm.tables.reading",
    "read_tables": "batchnorm.tables.reading",
    "score_lines": "batchnorm.tables.runs",
    "train_table": "batchnorm.tables.fitting",
    "write_predictions": "batchnorm.tables.writing",
}
__all__ = list(_HOME)

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
