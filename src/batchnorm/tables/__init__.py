"""Tables of users' own: files read with pyarrow, whatever they are called and however large, and predictions written.

A text file's encoding, delimiter, decimal point and types are recognised; what was not as usual is said in a note.
Whatever is wrong with a file ends in an `InputError` of one line that names it.
"""

from typing import TYPE_CHECKING

from batchnorm.errors import importing
from batchnorm.lazy import lazy_exports

if TYPE_CHECKING:
    from batchnorm.tables.reading import TableFile as TableFile
    from batchnorm.tables.reading import open_table as open_table
    from batchnorm.tables.reading import read_tables as read_tables
    from batchnorm.tables.reading import table_paths as table_paths
    from batchnorm.tables.recognition import FORMATS as FORMATS
    from batchnorm.tables.writing import write_predictions as write_predictions

_HOME = {
    "FORMATS": "batchnorm.tables.recognition",
    "TableFile": "batchnorm.tables.reading",
    "open_table": "batchnorm.tables.reading",
    "read_tables": "batchnorm.tables.reading",
    "table_paths": "batchnorm.tables.reading",
    "write_predictions": "batchnorm.tables.writing",
}
__all__ = list(_HOME)

_load, __dir__ = lazy_exports(__name__, _HOME)


def __getattr__(name: str) -> object:
    with importing("tables", "reading tables needs pyarrow and charset-normalizer"):
        return _load(name)
