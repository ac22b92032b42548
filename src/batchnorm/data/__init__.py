"""Where examples come from: files, packages and downloads become a `Dataset`."""

from batchnorm.data.catalogue import IdxEntry
from batchnorm.data.dataset import Dataset, Examples, ExamplesLike, loss_of
from batchnorm.data.idx import read_idx, write_idx
from batchnorm.data.sources import availability, data_dir_of, load_dataset, load_default_dataset
from batchnorm.data.streaming import FAR, StreamedExamples, Table, dense, row_blocks

__all__ = [
    "FAR",
    "Dataset",
    "Examples",
    "ExamplesLike",
    "IdxEntry",
    "StreamedExamples",
    "Table",
    "availability",
    "data_dir_of",
    "dense",
    "load_dataset",
    "load_default_dataset",
    "loss_of",
    "read_idx",
    "row_blocks",
    "write_idx",
]
