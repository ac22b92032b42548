"""Models to fold, and what a fold must and must not change: for the tests of this folder."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchnorm.toolkit.folding.folding import fold

CONVOLUTIONS = {
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}
NORMS = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def statistics_given(model, seed=0):
    """Give all batch norms statistics, and γ of both signs."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            if layer.weight is not None:
                layer.weight.data.uniform_(0.5, 1.5, generator=generator)
                layer.weight.data[::3] *= -1
            for tensor, low, high in (
                (layer.bias, -1, 1), (layer.running_mean, -1, 1), (layer.running_var, 0.5, 2)
            ):  # fmt: skip
                if tensor is not None:
                    tensor.data.uniform_(low, high, generator=generator)
    return model


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()


def state_of(model):
    return [
        (name, type(module), module.training, dict(module._forward_hooks), dict(module._forward_pre_hooks),
         {key: (id(t), None if t is None else t.clone()) for key, t in (module._parameters | module._buffers).items()})
        for name, module in model.named_modules()
    ]  # fmt: skip


def assert_untouched(model, before):
    for (*old, tensors), (*new, now) in zip(before, state_of(model), strict=True):
        assert old == new
        for key, (identity, value) in tensors.items():
            assert now[key][0] == identity
            assert value is None or torch.equal(value, now[key][1])


class Functional(nn.Module):
    """Layers by name, and a forward of one's own."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def conv(**settings):
    return nn.Conv2d(3, 3, 3, **settings)


def norm(**settings):
    return nn.BatchNorm2d(3, **settings)


def assert_folds(model, x, expected, tolerance=1e-12):
    """Fold a model, in float64 and without changing it, and compare."""
    statistics_given(model).double().eval()
    before = state_of(model)
    folded = fold(model, x)
    assert_untouched(model, before)
    assert folded.folding.folded == expected
    with torch.no_grad():
        assert relative(folded(x.clone()), model(x.clone())) <= tolerance
    return folded


IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
