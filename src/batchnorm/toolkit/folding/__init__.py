"""Batch norm folded into the layers beside it, wherever that holds for every input.

`neighbours` finds the layer before or after a batch norm, `absorption` folds it in or says by which of `REASONS` not,
`folding` copies the model and verifies the result.
"""

from batchnorm.toolkit.folding.absorption import REASONS
from batchnorm.toolkit.folding.folding import FoldedModel, Folding, fold

__all__ = ["REASONS", "FoldedModel", "Folding", "fold"]
