"""A linear layer whose own forward computes torch's linear map of something that it makes of its input: pads, say."""

import torch
from torch import nn
from torch.fx import Graph, Node
from torch.nn import functional
from torch.nn.modules.conv import _ConvTransposeNd

from batchnorm.toolkit.folding.neighbours import LinearLayer
from batchnorm.toolkit.model import deep_copy
from batchnorm.toolkit.structure import own_forward, users

__all__ = ["is_linear_in_the_end"]

_CONVOLUTIONS = {
    functional.conv1d, functional.conv2d, functional.conv3d,
    functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d,
}  # fmt: skip


def is_linear_in_the_end(layer: LinearLayer) -> bool:
    """Tell whether a layer returns torch's linear map with its weight and bias, used for nothing else, of anything.

    So it can take up what follows. It may be given a bias, so both must be so, without a bias and with one.
    """
    biased = deep_copy(layer)
    if biased.bias is None:
        channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        biased.bias = nn.Parameter(torch.zeros(channels, dtype=layer.weight.dtype, device=layer.weight.device))
    return all(
        graphs and all(_ends_linearly(graph, one) for graph in graphs)
        for one in {layer, biased}
        for graphs in [own_forward(one)]
    )


def _ends_linearly(graph: Graph, layer: LinearLayer) -> bool:
    last = next(node for node in graph.nodes if node.op == "output").args[0]
    if not isinstance(last, Node) or last.target not in {functional.linear, *_CONVOLUTIONS}:
        return False
    names = ["input", "weight", "bias", "stride", "padding"]
    names += ["output_padding", "groups", "dilation"] if isinstance(layer, _ConvTransposeNd) else ["dilation", "groups"]
    given = dict(zip(names, last.args, strict=False)) | last.kwargs
    own = {name: [node for node in graph.nodes if (node.op, node.target) == ("get_attr", name)] for name in names[1:3]}
    if any(users(node) != [last] for nodes in own.values() for node in nodes):
        return False
    if [given.get("weight")] != own["weight"] or [given.get("bias")] != (own["bias"] or [None]):
        return False
    return bool((layer.bias is None) == (not own["bias"]) and given.get("groups", 1) == getattr(layer, "groups", 1))
