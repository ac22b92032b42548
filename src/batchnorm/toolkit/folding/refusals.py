"""What folding refuses: why a batch norm stays, in a word and in a sentence."""

REASONS = {
    "dimension": "it does not normalise the features or channels of the linear layer beside it",
    "hooks": "it, its neighbour or a module between them has hooks, which would see other values",
    "interleaved": "something is computed between it and the layer that follows, and could change its input",
    "no-neighbour": "neither what feeds it nor what it feeds is a linear or convolution layer",
    "no-statistics": "it has no running statistics: it normalises with those of each batch",
    "not-finite": "the folded weights would not be finite numbers in the dtype that they have",
    "own-forward": "it, or its neighbour, has a forward of its own that computes something else",
    "padding": "the convolution that follows pads with zeros, which the shift would have to be added to",
    "parametrized": "its neighbour's weight is computed from other parameters",
    "read": "other code reads its parameters, or its neighbour's",
    "several-users": "what is between it and its neighbour is used elsewhere too",
    "shared": "its neighbour also stands elsewhere, or has a weight that another layer has",
    "training": "it is in training mode",
    "transposed": "the transposed convolution that follows spreads the shift unevenly",
    "unreached": "the example does not reach it",
    "untraceable": "the code around it cannot be traced, so who else uses the values is not known",
}


class Refusal(Exception):  # noqa: N818
    """Why a batch norm is not folded: one of `REASONS`."""
