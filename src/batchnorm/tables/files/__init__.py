"""Tables in files, of every kind that is read, and files of predictions.

They are read with pyarrow, whatever they are called. A text file's encoding, delimiter, decimal point and types are
recognised; what was not as usual is said in a note. Whatever is wrong with a file ends in an `InputError` of one line
that names it.
"""

from batchnorm.tables.files.conversion import distinct
from batchnorm.tables.files.reading import TableFile, day_first_of, open_table, read_tables, rows_of, table_paths
from batchnorm.tables.files.recognition import FORMATS
from batchnorm.tables.files.writing import write_predictions

__all__ = [
    "FORMATS",
    "TableFile",
    "day_first_of",
    "distinct",
    "open_table",
    "read_tables",
    "rows_of",
    "table_paths",
    "write_predictions",
]
