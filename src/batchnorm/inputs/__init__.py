"""The input stage: from tables as people have them to the numbers that a network reads."""

from batchnorm.inputs.columns import Columns
from batchnorm.inputs.frames import INFINITY, Frame, array_frame, is_missing, kind_of, open_frame, read_numbers
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

__all__ = [
    "BOUND",
    "INFINITY",
    "MEMORY",
    "NORMAL_RANGE",
    "Columns",
    "Frame",
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
    "scale_of",
    "standardizer",
    "table_moments",
    "unscaled",
]
