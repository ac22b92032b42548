"""Running statistics for layers that have none."""

import torch
from torch import Tensor, nn

from batchnorm.toolkit.behaviors import ChangedLayers
from batchnorm.toolkit.model import open_model, refuse_lazy


def track_statistics(model: nn.Module) -> ChangedLayers:
    """Give each batch-norm layer without running statistics the buffers for them, as yet with mean 0 and variance 1.

    Such a layer normalises with the statistics of the batch even in inference, so that its output for an example
    depends on the others. `recalibrate` the model afterwards.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    ChangedLayers
        The layers that now have running statistics: a sequence of their qualified names.

    Raises
    ------
    InputError
        If a layer is lazy and not yet initialised.

    Examples
    --------
    >>> print(track_statistics(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False))))
    layer '1' given running statistics
    """
    opened = open_model(model)
    layers = opened.layers
    refuse_lazy(layers)
    changed = {
        name: layer for name, layer in layers.items() if not layer.track_running_stats or layer.running_mean is None
    }
    for layer in changed.values():
        layer.track_running_stats = True
        if layer.running_mean is None:
            like = layer.weight if layer.weight is not None else _like(opened.module)
            layer.register_buffer("running_mean", like.new_zeros(layer.num_features))
            layer.register_buffer("running_var", like.new_ones(layer.num_features))
            layer.register_buffer("num_batches_tracked", torch.tensor(0, device=like.device))
    return ChangedLayers("given running statistics", changed)


def _like(model: nn.Module) -> Tensor:
    """Return a floating-point tensor of a model, which tells dtype and device."""
    own = (tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point())
    return next(own, torch.empty(0))
