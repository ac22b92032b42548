"""Where examples come from: files, packages and downloads become a `Dataset`."""

from batchnorm.data.catalogue import IdxEntry, is_known
from batchnorm.data.dataset import Dataset
from batchnorm.data.examples import Examples, ExamplesLike, as_targets, loss_of
from batchnorm.data.idx import read_idx, write_idx
from batchnorm.data.own import (
    ArrayFile,
    ImageFiles,
    Picture,
    changes_of_files,
    load_again,
    load_own,
    open_unlabelled,
    read_image,
)
from batchnorm.data.representation import png_address
from batchnorm.data.scratch import MappedRows, scratch_file
from batchnorm.data.signature import Signature
from batchnorm.data.sources import availability, data_dir_of, load_dataset, load_default_dataset
from batchnorm.data.streaming import FAR, StreamedExamples, Table, dense, row_blocks
from batchnorm.data.targets import (
    NETWORK_OUTPUTS,
    OUTPUTS,
    TargetScale,
    as_columns,
    names_classes,
    task_of,
)

__all__ = [
    "FAR",
    "NETWORK_OUTPUTS",
    "OUTPUTS",
    "ArrayFile",
    "Dataset",
    "Examples",
    "ExamplesLike",
    "IdxEntry",
    "ImageFiles",
    "MappedRows",
    "Picture",
    "Signature",
    "StreamedExamples",
    "Table",
    "TargetScale",
    "as_columns",
    "as_targets",
    "availability",
    "changes_of_files",
    "data_dir_of",
    "dense",
    "is_known",
    "load_again",
    "load_dataset",
    "load_default_dataset",
    "load_own",
    "loss_of",
    "names_classes",
    "open_unlabelled",
    "png_address",
    "read_idx",
    "read_image",
    "row_blocks",
    "scratch_file",
    "task_of",
    "write_idx",
]
