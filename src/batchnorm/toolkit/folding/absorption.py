"""Which linear layer can take up a batch norm's scale and shift, for every input; and the taking up.

In inference a batch norm is y = s x + t per channel. The linear layer before it, or after it, can do that too, if it
gets all that the batch norm gets, and nobody else sees what is between the two.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from fractions import Fraction
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd

from batchnorm.functional import fold_into_following, fold_into_preceding
from batchnorm.toolkit.folding.neighbours import LINEAR, LinearLayer, Way, downstream, flattening, neighbour, upstream
from batchnorm.toolkit.folding.own_input import is_linear_in_the_end
from batchnorm.toolkit.folding.refusals import Refusal
from batchnorm.toolkit.folding.remainder import become_remainder, is_identity, remainder
from batchnorm.toolkit.model import affine, as_tracking, deep_copy
from batchnorm.toolkit.structure import Observation, Trace, hooked, is_leaf

__all__ = ["Absorption"]

_SAY_LITTLE = ("untraceable", "no-neighbour")  # of one side; the other side's reason says more
_TORCHS_FORWARD = {_BatchNorm.forward, SyncBatchNorm.forward}


class Absorption:
    """Folds the batch norms of a model, in place.

    Parameters
    ----------
    model : torch.nn.Module
    trace : Trace
        Of the model.
    observation : Observation
        Of a run of the model.
    """

    def __init__(self, model: nn.Module, trace: Trace, observation: Observation):
        self._model, self._trace, self._observation = model, trace, observation
        self._names = {module: name for name, module in model.named_modules()}
        self._holders = Counter(id(p) for module in self._names for p in module._parameters.values() if p is not None)
        self._reasons: dict[nn.Module, list[str]] = {}
        self._takers: dict[nn.Module, nn.Module] = {}
        self._remainders: dict[nn.Module, Graph] = {}

    @torch.no_grad()
    def run(self) -> tuple[dict[str, str], dict[str, str]]:
        """Fold all that can be folded.

        Returns
        -------
        folded : dict of str to str
            Which layer each batch norm was taken up by.
        kept : dict of str to str
            For which of `REASONS` each of the others was not.
        """
        norms = [module for module in self._names if isinstance(module, _BatchNorm)]
        able = [norm for norm in norms if self._attempt(norm, self._checked)]
        self._fold(able, self._into_preceding, self._into_following)
        self._fold(able, self._into_preceding_norm)
        return (
            {self._names[norm]: self._names[self._takers[norm]] for norm in norms if norm in self._takers},
            {self._names[norm]: _most_telling(self._reasons[norm]) for norm in norms if norm not in self._takers},
        )

    def _fold(self, norms: list[_BatchNorm], *ways: Callable[[_BatchNorm], nn.Module]) -> None:
        """Try ways to fold each layer until no more go: what is folded passes values on, and brings others together."""
        reasons = {norm: self._reasons.get(norm, []) for norm in norms}
        progress = True
        while progress:
            progress = False
            for norm in (norm for norm in norms if norm not in self._takers):
                self._reasons[norm] = list(reasons[norm])
                taker = next(filter(None, (self._attempt(norm, way) for way in ways)), None)
                if taker is not None:
                    self._takers[norm] = taker
                    self._become_what_is_left(norm)
                    progress = True

    def _attempt(self, norm: _BatchNorm, way: Callable[[_BatchNorm], nn.Module]) -> nn.Module | None:
        try:
            return way(norm)
        except Refusal as refusal:
            self._reasons.setdefault(norm, []).append(str(refusal))
            return None

    def _into_preceding(self, norm: _BatchNorm) -> nn.Module:
        neighbouring, ways = neighbour(self._model, self._trace, norm, upstream)
        linear = self._linear_at(norm, neighbouring, ways)
        if not (_is_torchs(linear) or is_linear_in_the_end(linear)):
            raise Refusal("own-forward")
        self._check_dimension(norm, linear, "out", ways)
        scale, shift = affine(as_tracking(norm))
        weight, bias = _double(linear.weight), _double_bias(linear)
        return _given(linear, *fold_into_preceding(weight, bias, scale, shift, **_layout(linear)))

    def _into_following(self, norm: _BatchNorm) -> nn.Module:
        neighbouring, ways = neighbour(self._model, self._trace, norm, downstream)
        linear = self._linear_at(norm, neighbouring, ways)
        if norm in self._remainders or not _is_torchs(linear):
            raise Refusal("own-forward")
        scale, shift = affine(as_tracking(norm))
        if isinstance(linear, nn.Linear) and all(flattening(way) == (1, -1) for way in ways):
            positions = linear.in_features // norm.num_features
            if any(prod(shape[1:]) != linear.in_features for shape in self._observation.shapes[norm]):
                raise Refusal("dimension")
            scale, shift = scale.repeat_interleave(positions), shift.repeat_interleave(positions)
        else:
            self._check_dimension(norm, linear, "in", ways)
        if shift.any():
            _check_shift_is_constant(linear)
        if any(len([*way.node.args, *way.node.kwargs]) != 1 for way in ways if way.node is not None):
            raise Refusal("transposed")  # given an output size
        weight, bias = _double(linear.weight), _double_bias(linear)
        return _given(linear, *fold_into_following(weight, bias, scale, shift, **_layout(linear)))

    def _into_preceding_norm(self, norm: _BatchNorm) -> nn.Module:
        before, ways = neighbour(self._model, self._trace, norm, upstream)
        if not isinstance(before, _BatchNorm):
            raise Refusal("no-neighbour")
        self._checked(before)
        if type(before).forward not in _TORCHS_FORWARD:
            raise Refusal("own-forward")
        self._check_places(before, ways)
        self._check_weight(before)
        if before.weight is None:
            before.affine, before.weight = True, nn.Parameter(torch.ones_like(before.running_var))
        return _given(
            before, *fold_into_preceding(_double(before.weight), _double_bias(before), *affine(as_tracking(norm)))
        )

    def _checked(self, norm: _BatchNorm) -> nn.Module:
        """Return a batch norm that is a scale and a shift, and perhaps something after them."""
        if not self._observation.calls[norm]:
            raise Refusal("unreached")
        if norm.training:
            raise Refusal("training")
        if hooked(norm):
            raise Refusal("hooks")
        if norm.running_mean is None or norm.running_var is None:
            raise Refusal("no-statistics")
        self._check_forward(norm)
        self._check_known(norm)
        return norm

    def _check_forward(self, norm: _BatchNorm) -> None:
        if type(norm).forward in _TORCHS_FORWARD and "forward" not in vars(norm):
            return
        graph = remainder(norm)
        if graph is None and not _is_affine(norm, self._observation.shapes[norm][0]):
            raise Refusal("own-forward")
        if graph is not None and not is_identity(graph):
            self._remainders[norm] = graph

    def _become_what_is_left(self, norm: nn.Module) -> None:
        if norm in self._remainders:
            become_remainder(norm, self._remainders[norm])
        else:
            _become_identity(norm)

    def _linear_at(self, norm: nn.Module, module: nn.Module, ways: list[Way]) -> LinearLayer:
        """Return the module that ways lead to, if it is a linear layer that can take up what others do."""
        if not isinstance(module, LINEAR):
            if hooked(module) and (not is_leaf(module) or isinstance(module, nn.Identity | _DropoutNd)):
                raise Refusal("hooks")
            raise Refusal("no-neighbour" if is_leaf(module) or module in self._takers else "untraceable")
        self._check_weight(module)
        if hooked(module):
            raise Refusal("hooks")
        self._check_places(module, ways)
        self._check_known(module)
        return module

    def _check_weight(self, module: nn.Module) -> None:
        own = [module._parameters.get(name) for name in ("weight", "bias")]
        if own[0] is None and getattr(module, "weight", None) is not None:
            raise Refusal("parametrized")
        if own[1] is None and getattr(module, "bias", None) is not None:
            raise Refusal("parametrized")
        if any(self._holders[id(parameter)] > 1 for parameter in own if parameter is not None):
            raise Refusal("shared")

    def _check_places(self, taker: nn.Module, ways: list[Way]) -> None:
        """Check that a layer is called nowhere else, and what is on the way used by nobody else."""
        if {way.node for way in ways} != {call.node for call in self._trace.calls[taker]}:
            raise Refusal("shared")
        if not all(way.private for way in ways):
            raise Refusal("several-users")

    def _check_known(self, module: nn.Module) -> None:
        """Check that the known calls of a layer are all there are, and nobody uses its parameters otherwise."""
        calls = self._trace.calls.get(module, [])
        runs = [1 if call.scope.whole else self._observation.calls[call.scope.module] for call in calls]
        known = sum(Fraction(run, call.scope.ways) for run, call in zip(runs, calls, strict=True))
        if not calls or known != self._observation.calls[module]:
            raise Refusal("untraceable")
        if not self._trace.read.isdisjoint(module.modules()):
            raise Refusal("read")

    def _check_dimension(self, norm: _BatchNorm, linear: LinearLayer, side: str, ways: list[Way]) -> None:
        """Check that a batch norm's channels are the features or channels of a linear layer on one of its sides.

        A Linear's features are the values that lie together in rows of that length, whatever the shape of the rest. So
        are a batch norm's if its input has two dimensions: other shapes on the way between the two change nothing.
        """
        rank = 2 if isinstance(linear, nn.Linear) else 2 + len(linear.kernel_size)
        if not isinstance(linear, nn.Linear) and any(way.reshapes for way in ways):
            rank = _rank_with_channels_kept(rank, side, ways)
        if _channels(linear, side) != norm.num_features or any(
            len(shape) != rank for shape in self._observation.shapes[norm]
        ):
            raise Refusal("dimension")


def _rank_with_channels_kept(rank: int, side: str, ways: list[Way]) -> int:
    """Return how many dimensions are left where positions behind the channels are flattened."""
    dims = {flattening(way) for way in ways}
    start, end = (len(dims) == 1 and dims.pop()) or (0, 0)
    if side == "in" or start < 2 or not start <= (end := end % rank) < rank:
        raise Refusal("dimension")
    return rank - (end - start)


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def _double_bias(layer: LinearLayer | _BatchNorm) -> Tensor | None:
    return None if layer.bias is None else _double(layer.bias)


def _most_telling(reasons: Iterable[str]) -> str:
    return min(reasons, key=lambda reason: _SAY_LITTLE.index(reason) + 1 if reason in _SAY_LITTLE else 0)


def _channels(linear: LinearLayer, side: str) -> int:
    channels: int = getattr(linear, f"{side}_{'features' if isinstance(linear, nn.Linear) else 'channels'}")
    return channels


def _layout(linear: LinearLayer) -> dict[str, Any]:
    return {"groups": getattr(linear, "groups", 1), "transposed": isinstance(linear, _ConvTransposeNd)}


def _is_torchs(linear: nn.Module) -> bool:
    """Tell whether a layer computes what torch's layer of its kind computes."""
    kind = next(kind for kind in LINEAR if isinstance(linear, kind))
    methods = ("forward", "_conv_forward", "_output_padding")
    return all(
        getattr(type(linear), method, None) is getattr(kind, method, None) and method not in vars(linear)
        for method in methods
    )


def _is_affine(norm: _BatchNorm, shape: tuple[int, ...]) -> bool:
    """Tell whether a layer of which the code does not show it computes s x + t on inputs of all sizes."""
    if "forward" in vars(norm):
        return False
    layer = as_tracking(norm)
    scale, shift = affine(layer)
    per_channel = (-1, *[1] * (len(shape) - 2))
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(4, *shape[1:], generator=generator, dtype=torch.float64)
    y = y * 10 ** (4 * torch.rand(y.shape, generator=generator, dtype=torch.float64) - 2)
    s, t = scale.reshape(per_channel), shift.reshape(per_channel)
    x = ((y - t) / torch.where(s == 0, 1.0, s)).to(layer.running_mean.dtype)
    try:
        returned = deep_copy(norm)(x.to(layer.running_mean.device))
    except Exception:  # it wants something else than its input alone
        return False
    if not isinstance(returned, Tensor) or returned.shape != x.shape:
        return False
    terms = (s * x).abs() + t.abs() + (s * _double(layer.running_mean).reshape(per_channel)).abs()
    rounding = 64 * torch.finfo(returned.dtype).eps * terms
    return bool(((_double(returned) - (s * x + t)).abs() <= rounding).all())


def _check_shift_is_constant(linear: LinearLayer) -> None:
    """Check that a convolution makes the same of a constant input at each position."""
    if isinstance(linear, _ConvTransposeNd):
        if prod(linear.kernel_size) != 1 or prod(linear.stride) != 1 or any(linear.output_padding):
            raise Refusal("transposed")
    elif not isinstance(linear, nn.Linear) and linear.padding_mode == "zeros" and linear.padding != "valid":
        extents = (d * (k - 1) for d, k in zip(linear.dilation, linear.kernel_size, strict=True))
        if any(extents if linear.padding == "same" else linear.padding):
            raise Refusal("padding")


def _given(layer: LinearLayer | _BatchNorm, weight: Tensor, bias: Tensor) -> nn.Module:
    """Return a layer, having given it a weight and a bias in the dtype that it has."""
    old = layer.weight
    new = torch.empty_like(old).copy_(weight)  # keeps the memory format
    added = bias.to(old)
    if not (new.isfinite().all() and added.isfinite().all()):
        raise Refusal("not-finite")
    learns_bias = (layer.bias if layer.bias is not None else old).requires_grad
    layer.weight = nn.Parameter(new, requires_grad=old.requires_grad)
    layer.bias = nn.Parameter(added, requires_grad=learns_bias)
    taken: nn.Module = layer
    return taken


def _become_identity(norm: nn.Module) -> None:
    """Turn a layer into an identity, whoever refers to it."""
    norm.__class__ = nn.Identity
    vars(norm).clear()
    vars(norm).update(vars(nn.Identity().eval()))
