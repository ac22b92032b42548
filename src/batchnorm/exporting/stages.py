"""The input stage and the outputs of an estimator as torch modules, for torch's own exporter to write.

They compute what `data.Table` and the estimators do, in the same precision and order of rounding; `columns` does so for
what `inputs` does.

Constants are buffers: the exporter rounds other numbers to float32, and whole ones are divided in it.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from batchnorm.data import FAR
from batchnorm.inputs import deviation_of, scale_of


class Scaling(nn.Module):
    """A table of numbers (batch, columns), standardised and drawn in.

    Parameters
    ----------
    estimator : BatchNormEstimator
    dtype : torch.dtype
        Of the network.
    fills : bool
        Whether a number that is missing is the training's median, as in a table without columns of other kinds.
    """

    mean: Tensor
    deviation: Tensor
    fill: Tensor
    bound: Tensor

    def __init__(self, estimator: Any, dtype: torch.dtype, *, fills: bool):
        super().__init__()
        moments, self.dtype = estimator._inputs, dtype
        self.fills, self.draws_in = fills and bool(moments.n), estimator._bound is not None
        self.register_buffer("mean", moments.mean.cpu().clone())
        self.register_buffer("deviation", deviation_of(moments).cpu())
        self.register_buffer("fill", moments.mean.cpu().to(dtype))
        self.register_buffer("bound", torch.tensor(estimator._bound or 0.0, dtype=dtype))

    def forward(self, cells: Tensor) -> Tensor:
        """Return what the network takes."""
        if self.fills:
            cells = torch.where(cells.isnan(), self.fill, cells)
        centered = (cells.double() - self.mean).to(self.dtype)
        scaled = (centered.double() / self.deviation).to(self.dtype)
        if not self.draws_in:
            return scaled
        scaled = scaled.clamp(-FAR, FAR)
        return scaled / ((scaled / self.bound).square() + 1).sqrt()


class ClassOutputs(nn.Module):
    """A classifier's outputs: the number of the class, or 0 or 1 of each label, and probabilities."""

    rates: Tensor

    def __init__(self, estimator: Any):
        super().__init__()
        self.unsmoothed, self.share, self.several = estimator._unsmoothed, estimator._smoothing, estimator._multilabel
        self.register_buffer("rates", estimator._targets.mean.cpu().clone())

    def forward(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return labels and probabilities (batch, classes)."""
        logits = self.unsmoothed(outputs, self.share, self.rates)
        return ((logits > 0).long(), logits.sigmoid()) if self.several else (logits.argmax(1), logits.exp())


class ValueOutputs(nn.Module):
    """A regressor's outputs: values in the unit of its targets."""

    scale: Tensor
    mean: Tensor
    largest: Tensor

    def __init__(self, estimator: Any, dtype: torch.dtype):
        super().__init__()
        moments = estimator._outputs_scale(estimator._targets)
        self.is_log, self.dtype = estimator.out_activation_ == "exp", dtype
        self.register_buffer("scale", scale_of(moments).cpu())
        self.register_buffer("mean", moments.mean.cpu().clone())
        self.register_buffer("largest", torch.tensor(np.finfo(np.float64).max).log())

    def forward(self, outputs: Tensor) -> tuple[Tensor]:
        """Return values (batch,) or (batch, outputs)."""
        values = outputs.double() * self.scale + self.mean
        if self.is_log:
            values = torch.minimum(torch.maximum(values, -self.largest), self.largest).exp()
        values = values.to(self.dtype)
        return (values[:, 0] if values.shape[1] == 1 else values,)


class InSingle(nn.Module):
    """A network of float64 that computes in float32."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.float()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs in float64."""
        outputs: Tensor = self.network(inputs.float()).double()
        return outputs


class WithStage(nn.Module):
    """A network behind its input stage."""

    def __init__(self, columns: nn.Module | None, scaling: Scaling | None, network: nn.Module, outputs: nn.Module):
        super().__init__()
        self.columns, self.scaling, self.network, self.outputs = columns, scaling, network, outputs

    def forward(self, inputs: Any) -> Any:
        """Return the outputs for groups of columns, a table or, without any stage, for scaled inputs."""
        cells = inputs if self.columns is None else self.columns(inputs)
        return self.outputs(self.network(cells if self.scaling is None else self.scaling(cells)))
