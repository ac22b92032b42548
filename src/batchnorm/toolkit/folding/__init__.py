"""Batch norm folded into the layers beside it, wherever that holds for every input.

`neighbours` finds the layer before or after a batch norm, `absorption` folds the batch norm into it, or says by one of
the `refusals` why not, `remainder` is what a layer does besides, `folding` copies the model and verifies the result.
"""

from batchnorm.toolkit.folding.folding import FoldedModel, Folding, fold
from batchnorm.toolkit.folding.refusals import REASONS

__all__ = ["REASONS", "FoldedModel", "Folding", "fold"]
