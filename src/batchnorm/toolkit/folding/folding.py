"""Batch norm in inference is an affine map: the linear layer beside it can do its work."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from batchnorm.errors import BatchnormError, InputError, with_class
from batchnorm.markup import captioned_table
from batchnorm.results import Result
from batchnorm.toolkit.folding.absorption import Absorption
from batchnorm.toolkit.folding.refusals import REASONS
from batchnorm.toolkit.model import (
    Feed,
    Forward,
    OpenedModel,
    deep_copy,
    norm_layers,
    open_model,
    refuse_lazy,
    refuse_meta,
    tensors_in,
    tracking,
)
from batchnorm.toolkit.structure import made_up_batch, observe, trace

__all__ = ["FoldedModel", "Folding", "fold"]


@dataclass(frozen=True)
class Folding(Result):
    """What `fold` has done.

    Attributes
    ----------
    folded : mapping of str to str
        By the qualified name of each batch norm that is gone, the layer that computes it now.
    kept : mapping of str to str
        By the qualified name of each of the others, why it stayed: one of `REASONS`, which says it in a sentence.
    deviation : float
        The largest difference in an output on the example, relative to the largest absolute value of that output.
    """

    folded: Mapping[str, str]
    kept: Mapping[str, str]
    deviation: float

    def __str__(self) -> str:
        count = len(self.folded) + len(self.kept)
        lines = [f"{len(self.folded)} of {count} batch norms folded; the outputs deviate by {self.deviation:.1g}"]
        return "\n".join(
            lines + [f"  {name} stays: {REASONS[reason]} ({reason})" for name, reason in self.kept.items()]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON knows."""
        return {"folded": dict(self.folded), "kept": dict(self.kept), "deviation": self.deviation}

    def _repr_html_(self) -> str:
        rows = [(name, f"in {layer}") for name, layer in self.folded.items()]
        rows += [(name or "(the model)", f"stays: {REASONS[reason]}") for name, reason in self.kept.items()]
        return captioned_table(str(self).partition("\n")[0], ("batch norm", "now"), rows, words=("now",))


class FoldedModel(nn.Module):
    """What `fold` returns, as type checkers see it: a copy of the model, of the model's own class."""

    folding: Folding


def fold(
    model: nn.Module, example: Any = None, *, forward: Forward | None = None, device: torch.device | str | None = None
) -> FoldedModel:
    """Return a copy of a model that computes the same in inference, with every batch norm gone that can be.

    A batch norm in inference is y = s x + t per channel, with s = γ/√(var + ε) and t = β − s·mean. The linear or
    convolution layer before it becomes s (W x + b) + t, one after it W (s x + t) + b: grouped and transposed ones too,
    in float64, rounded once. Of batch norms in a row without such a neighbour the first takes up the others. What is
    folded becomes a `torch.nn.Identity`; of a subclass whose forward goes on from the batch norm, a
    `torch.fx.GraphModule` of the rest as it is in inference. A layer may gain a bias; all else stays as it is.

    A layer is folded only if the result is the same for every input, as the traced code of the model shows, for a model
    that is called as on the example: with the same options. What cannot be folded stays, and `folding.kept` says why.

    Parameters
    ----------
    model : torch.nn.Module
        In inference mode (``model.eval()``); it is not changed. Of a wrapped or compiled one, the model inside.
    example : batch, optional
        As for `recalibrate`: a tensor, a tuple that begins with the input, or a dict. Both models are run on it; by
        default on random input of a shape that the first layers expect.
    forward : callable, optional
        ``forward(model, batch)`` runs the model on any other kind of batch.
    device : torch.device or str, optional
        Where the example is moved; by default to the model's first parameter.

    Returns
    -------
    torch.nn.Module
        In the modes of `model`, with a record of what was done as its attribute `folding`, a `Folding`.

    Raises
    ------
    InputError
        If `model` is in training mode, cannot be copied or has lazy layers that are not initialised; if no input is
        given and none can be made up; or if it returns no tensors.
    BatchnormError
        If the outputs deviate by more than rounding.

    References
    ----------
    Ioffe and Szegedy 2015, arXiv:1502.03167, Algorithm 2, step 11.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> folded = fold(model)
    >>> folded[0], folded[1]
    (Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1)), Identity())
    >>> folded.folding.folded
    {'1': '0'}
    """
    folded = _copy(open_model(model))
    if not norm_layers(folded):
        folded.folding = Folding({}, {}, 0.0)
        return folded
    if example is None:
        example = made_up_batch(folded, forward=forward, device=device)
    feed = Feed(folded, [example], forward=forward, device=device)
    batch = next(iter(feed))
    before = observe(feed, batch)
    by, kept = Absorption(folded, trace(folded, before.signatures, feed=feed, batch=batch), before).run()
    try:
        deviation = _deviation(observe(feed, batch).output, before.output)
    except InputError:
        raise
    except Exception as error:
        raise BatchnormError(
            f"the model runs, but with its batch norms folded it raises {with_class(error)}; "
            "does its code use attributes of the layers?"
        ) from error
    _check_deviation(deviation, folded, before.output)
    folded.folding = Folding(by, kept, deviation)
    return folded


def _copy(model: OpenedModel) -> FoldedModel:
    module = model.module
    if module.training:
        raise InputError(
            "the model is in training mode, where batch norm depends on the batch: call model.eval() first"
        )
    refuse_lazy(dict(module.named_modules()))
    refuse_meta(module.named_parameters())
    refuse_meta(
        (f"{name}.{kind}".lstrip("."), getattr(layer, kind))
        for name, layer in tracking(norm_layers(module)).items()
        for kind in ("running_mean", "running_var")
    )
    return cast(FoldedModel, deep_copy(module))


def _deviation(new: Any, old: Any) -> float:
    """Return the largest difference between two outputs, relative to the largest value of each of their tensors."""
    pairs = list(zip(_numbers(new), _numbers(old), strict=True))
    if not pairs:
        raise InputError(
            "the model returns no tensors of floating point to compare: say how to run it, such as "
            "forward=lambda model, batch: model(batch).logits"
        )
    return max(_difference(a.to("cpu"), b.to("cpu")) for a, b in pairs)


def _numbers(output: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point() or tensor.is_complex()]


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return math.inf
    a, b = (t.to(torch.complex128 if t.is_complex() else torch.float64) for t in (a, b))
    same = (a == b) | (a.isnan() & b.isnan())  # infinite ones too
    difference = torch.where(same, 0.0, (a - b).abs())
    if not difference.any():
        return 0.0
    largest = b[b.isfinite()].abs().max().item() if b.isfinite().any() else 0.0
    relative = difference.max().item() / (largest or 1.0)
    return math.inf if math.isnan(relative) else relative


def _check_deviation(deviation: float, model: nn.Module, output: Any) -> None:
    kinds = {tensor.dtype for tensor in (*_numbers(output), *model.parameters()) if tensor.is_floating_point()}
    bound = min(16 * max(torch.finfo(kind).eps for kind in kinds) ** 0.5, 0.5)
    if not deviation <= bound:
        raise BatchnormError(
            f"with batch norm folded, the output on the example deviates by {deviation:.2g} relative to its largest "
            f"value, expected at most {bound:.2g}. Either it is not a function of the input alone, or rounding is that "
            "large in the model's dtype (then try model.double()), or this is a mistake of fold: please report it"
        )
