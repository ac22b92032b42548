"""The input stage: from tables as people have them to the numbers that a network reads."""

from batchnorm.inputs.columns import Columns
from batchnorm.inputs.frames import (
    INFINITY,
    Column,
    Frame,
    array_frame,
    is_missing,
    kind_of,
    open_frame,
    read_numbers,
    read_texts,
    read_times,
    zone_named,
)
from batchnorm.inputs.kinds import PARTS, Numbers, Times
from batchnorm.inputs.scaling import (
    BOUND,
    MEMORY,
    NORMAL_RANGE,
    deviation_of,
    deviations,
    followed,
    moments_with,
    quantiles,
    scale_of,
    standardizer,
    table_moments,
    unscaled,
)
from batchnorm.inputs.stored import StoredFrame, store_frame
from batchnorm.inputs.texts import Texts

__all__ = [
    "BOUND",
    "INFINITY",
    "MEMORY",
    "NORMAL_RANGE",
    "PARTS",
    "Column",
    "Columns",
    "Frame",
    "Numbers",
    "StoredFrame",
    "Texts",
    "Times",
    "array_frame",
    "deviation_of",
    "deviations",
    "followed",
    "is_missing",
    "kind_of",
    "moments_with",
    "open_frame",
    "quantiles",
    "read_numbers",
    "read_texts",
    "read_times",
    "scale_of",
    "standardizer",
    "store_frame",
    "table_moments",
    "unscaled",
    "zone_named",
]
