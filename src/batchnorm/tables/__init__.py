"""Tables of one's own: files become rows, rows a trained run, and a run predictions.

The names are loaded when they are first used.
"""

from typing import TYPE_CHECKING

from batchnorm.errors import importing
from batchnorm.lazy import lazy_exports

if TYPE_CHECKING:
    from batchnorm.tables.files import FORMATS as FORMATS
    from batchnorm.tables.files import TableFile as TableFile
    from batchnorm.tables.files import open_table as open_table
    from batchnorm.tables.files import read_tables as read_tables
    from batchnorm.tables.files import table_paths as table_paths
    from batchnorm.tables.files import write_predictions as write_predictions
    from batchnorm.tables.fitting import evaluate_table as evaluate_table
    from batchnorm.tables.fitting import rows_tested_on as rows_tested_on
    from batchnorm.tables.fitting import train_table as train_table
    from batchnorm.tables.folder import TableFolder as TableFolder
    from batchnorm.tables.folder import holds_table as holds_table
    from batchnorm.tables.opening import load_run as load_run
    from batchnorm.tables.opening import resume as resume
    from batchnorm.tables.parts import Split as Split
    from batchnorm.tables.predicting import Predictions as Predictions
    from batchnorm.tables.predicting import first_rows as first_rows
    from batchnorm.tables.predicting import outputs_of as outputs_of
    from batchnorm.tables.predicting import strange_values as strange_values
    from batchnorm.tables.predicting_examples import ExamplePredictions as ExamplePredictions
    from batchnorm.tables.predicting_examples import open_examples as open_examples
    from batchnorm.tables.predicting_examples import outputs_of_examples as outputs_of_examples
    from batchnorm.tables.resuming import resume_table as resume_table
    from batchnorm.tables.rows import InputColumn as InputColumn
    from batchnorm.tables.rows import input_columns as input_columns
    from batchnorm.tables.rows import shortened as shortened
    from batchnorm.tables.rows import table_of_rows as table_of_rows
    from batchnorm.tables.runs import TableRun as TableRun
    from batchnorm.tables.runs import list_table_runs as list_table_runs

_HOME = {
    "ExamplePredictions": "batchnorm.tables.predicting_examples",
    "FORMATS": "batchnorm.tables.files",
    "InputColumn": "batchnorm.tables.rows",
    "Predictions": "batchnorm.tables.predicting",
    "Split": "batchnorm.tables.parts",
    "TableFolder": "batchnorm.tables.folder",
    "TableFile": "batchnorm.tables.files",
    "TableRun": "batchnorm.tables.runs",
    "first_rows": "batchnorm.tables.predicting",
    "evaluate_table": "batchnorm.tables.fitting",
    "input_columns": "batchnorm.tables.rows",
    "holds_table": "batchnorm.tables.folder",
    "list_table_runs": "batchnorm.tables.runs",
    "load_run": "batchnorm.tables.opening",
    "open_examples": "batchnorm.tables.predicting_examples",
    "open_table": "batchnorm.tables.files",
    "outputs_of": "batchnorm.tables.predicting",
    "read_tables": "batchnorm.tables.files",
    "outputs_of_examples": "batchnorm.tables.predicting_examples",
    "rows_tested_on": "batchnorm.tables.fitting",
    "shortened": "batchnorm.tables.rows",
    "strange_values": "batchnorm.tables.predicting",
    "table_of_rows": "batchnorm.tables.rows",
    "resume": "batchnorm.tables.opening",
    "resume_table": "batchnorm.tables.resuming",
    "table_paths": "batchnorm.tables.files",
    "train_table": "batchnorm.tables.fitting",
    "write_predictions": "batchnorm.tables.files",
}
__all__ = list(_HOME)

_load, __dir__ = lazy_exports(__name__, _HOME)


def __getattr__(name: str) -> object:
    needed = "pyarrow, charset-normalizer and scikit-learn"
    with importing("tables", f"tables of your own, and files of predictions, need {needed}"):
        return _load(name)
