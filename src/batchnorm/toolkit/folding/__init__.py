"""Batch norm folded into the layers beside it, wherever that holds for every input."""

from batchnorm.toolkit.folding.absorption import REASONS
from batchnorm.toolkit.folding.folding import Folding, fold

__all__ = ["REASONS", "Folding", "fold"]
