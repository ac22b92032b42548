"""Batch norm folded into the layers beside it, wherever that holds for every input.

`neighbours` finds the layer before or after a batch norm, `absorption` folds the batch norm into it, or says by one of
the `refusals` why not, `folding` copies the model and verifies the result. Of layers with a forward of their own,
`own_input` and `remainder` tell what they do before the linear map and after the batch norm.
"""

from batchnorm.toolkit.folding.folding import FoldedModel, Folding, fold
from batchnorm.toolkit.folding.refusals import REASONS

__all__ = ["REASONS", "FoldedModel", "Folding", "fold"]
