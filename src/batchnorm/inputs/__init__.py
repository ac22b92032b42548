"""The input stage: from tables as people have them to the numbers that a network reads."""

from batchnorm.inputs.scaling import (
    BOUND,
    NORMAL_RANGE,
    deviation_of,
    followed,
    is_constant,
    moments_with,
    quantiles,
    scale_of,
    standardizer,
    table_moments,
    unscaled,
)

__all__ = [
    "BOUND",
    "NORMAL_RANGE",
    "deviation_of",
    "followed",
    "is_constant",
    "moments_with",
    "quantiles",
    "scale_of",
    "standardizer",
    "table_moments",
    "unscaled",
]
