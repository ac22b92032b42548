"""What can be wrong with a batch-norm layer: one rule per fault, from what was measured to a finding."""

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from batchnorm.toolkit.behaviors import is_frozen
from batchnorm.toolkit.diagnosis.evidence import Comparison, Evidence, Severity

_INITIAL_WEIGHT = 0.05  # what may be left of the initial mean 0 and variance 1 in a running average
_FEW_ELEMENTS = 16  # per channel in a batch
_FEW_EXAMPLES = 4
_OTHER_MOMENTUM = 0.5  # from here on it looks like the weight of the old value
_LARGE_EPS, _SHARE_OF_CHANNELS = 10.0, 0.1
_DEAD_SCALE = 1e-4


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a layer.

    Parameters
    ----------
    layer : str
        Qualified name.
    cause : str
        What is wrong, in one of the words that docs/toolkit.md lists.
    severity : {"error", "warning"}
        An error makes outputs wrong; a warning says what probably does, or will.
    why : str
        A sentence: what was found, and why it matters.
    remedy : str
        The call that mends it.
    """

    layer: str
    cause: str
    severity: Severity
    why: str
    remedy: str


Found = Iterator[Finding]


def findings(evidence: Evidence) -> list[Finding]:
    """Return all that is wrong with a layer, by all rules."""
    return [finding for rule in _RULES for finding in rule(evidence)]


def _finding(of: Evidence, cause: str, severity: Severity, why: str, remedy: str) -> Finding:
    return Finding(of.name, cause, severity, why, remedy)


def _recalibrate(of: Evidence) -> str:
    """Say how to give a layer new statistics, one that is meant to keep its own too."""
    call = "batchnorm.recalibrate(model, batches)"
    if is_frozen(of.layer):
        return f"batchnorm.unfreeze({of.code}); {call}; batchnorm.freeze({of.code})"
    if of.layer.momentum == 0:
        return f"{of.code}.momentum = 0.1; {call}; {of.code}.momentum = 0"
    return f"model.eval(); {call}" if of.keeps_statistics else call


# Modes.


def _mode(of: Evidence) -> Found:
    on_purpose = is_frozen(of.layer) or (of.layer.weight is not None and not of.layer.weight.requires_grad)
    if of.training and (not of.model_training or of.expected_training is False):
        yield _finding(
            of, "training-left-on", "error",
            "the layer is in training mode while the model is used for inference: it normalises with the batch, so "
            "that an example's output depends on the others, and every call moves its running statistics",
            "model.eval()",
        )  # fmt: skip
    elif not of.training and (of.model_training or of.expected_training) and not on_purpose:
        yield _finding(
            of, "inference-in-training", "warning",
            "the layer is in inference mode while the model trains: its statistics stay what they are while the "
            "weights before it move away from them",
            f"model.train(), or, if it is meant to stay: batchnorm.freeze({of.code})",
        )  # fmt: skip


# The buffers.


def _absent(of: Evidence) -> Found:
    if of.running is None:
        yield _finding(
            of, "no-statistics", "warning",
            "the layer has no running statistics: in inference too it normalises with the batch, so that an example's "
            "output depends on the others",
            f"batchnorm.track_statistics(model); {_recalibrate(of)}",
        )  # fmt: skip
    elif not of.layer.track_running_stats:
        yield _finding(
            of, "not-tracking", "warning",
            "the layer has running statistics and uses them in inference, but training does not update them "
            "(track_running_stats=False)",
            f"{of.code}.track_running_stats = True; {_recalibrate(of)}",
        )  # fmt: skip


def _invalid(of: Evidence) -> Found:
    if of.running is None:
        return
    mean, var = of.running
    if bad := int((~(mean.isfinite() & var.isfinite())).sum()):
        yield _finding(
            of, "nan-statistics", "error",
            f"the running statistics of {_channels(bad, of)} are NaN or infinite: one bad batch in training is enough, "
            "for an average never forgets it; every output behind it is NaN",
            _recalibrate(of),
        )  # fmt: skip
    if bad := int((var < 0).sum()):
        yield _finding(
            of, "negative-variance", "error",
            f"the running variance of {_channels(bad, of)} is negative, which no data gives: the buffers were damaged "
            "or averaged wrongly, and 1/√(var + ε) is NaN or of no meaning",
            _recalibrate(of),
        )  # fmt: skip
    zero = var == 0
    if not zero.any() or of.seen is None or not of.finite:
        return
    varying = zero & (of.seen.moments.var > 0)
    if bad := int(varying.sum()):
        yield _finding(
            of, "zero-variance", "error",
            f"the running variance of {_channels(bad, of)} is 0, though what reaches it varies: inference multiplies "
            f"it by 1/√ε = {of.layer.eps**-0.5:.3g}",
            _recalibrate(of),
        )  # fmt: skip
    if bad := int((zero & ~varying).sum()):
        yield _finding(
            of, "constant-input", "warning",
            f"{_channels(bad, of)} receives one and the same value always, and carries nothing: what feeds it is dead",
            f"initialise what feeds {of.name!r} anew, or remove the channels",
        )  # fmt: skip


def _statistics(of: Evidence) -> Found:
    """Look for what explains that running and population statistics differ: one cause, the most particular one."""
    comparison = of.comparison
    if comparison is None or not of.layer.track_running_stats or not _valid(of):
        return  # not known, or said by another rule
    if comparison.initial:
        if not comparison.fits_closely:
            yield _finding(
                of, "never-updated", "error",
                f"the running statistics are the initial mean 0 and variance 1: {comparison}; the layer does not "
                "normalise in inference",
                _recalibrate(of),
            )  # fmt: skip
    elif not comparison.deviates:
        return
    elif of.keeps_statistics:
        yield _finding(
            of, "frozen-but-drifting", comparison.severity,
            f"the layer is frozen, but what reaches it has moved away from its statistics: {comparison}",
            _recalibrate(of),
        )  # fmt: skip
    elif (left := _initial_weight(of)) > _INITIAL_WEIGHT and _fits_without(left, of, comparison):
        yield _finding(
            of, "few-updates", comparison.severity,
            f"the running statistics have seen {of.updates} batches only, so that the initial 0 and 1 still count for "
            f"{left:.0%} of them: {comparison}",
            _recalibrate(of),
        )  # fmt: skip
    else:
        yield _finding(
            of, "other-statistics", comparison.severity,
            f"the running statistics are not those of these data: {comparison}; other data or preprocessing, averaged "
            "or changed weights, or stale buffers do that",
            _recalibrate(of),
        )  # fmt: skip


def _valid(of: Evidence) -> bool:
    return not any(_invalid(of))


def _initial_weight(of: Evidence) -> float:
    """Return how much of a running average is still what it began with; 0 if the number of updates is not known."""
    momentum = of.layer.momentum
    return float((1 - momentum) ** of.updates) if momentum is not None and of.updates else 0.0


def _fits_without(initial_weight: float, of: Evidence, comparison: Comparison) -> bool:
    """Tell whether running statistics fit better without what is left in them of the initial 0 and 1."""
    assert of.running is not None
    mean, var = of.running
    rest = 1 - initial_weight
    without = replace(of, running=(mean / rest, (var - initial_weight) / rest)).comparison
    return without is not None and without.typical_shift + without.typical_factor < (
        comparison.typical_shift + comparison.typical_factor
    )


# How it was trained.


def _momentum(of: Evidence) -> Found:
    momentum = of.layer.momentum
    if momentum is not None and momentum >= _OTHER_MOMENTUM and of.running is not None:
        converted = f"batchnorm.convert_momentum({momentum}, 'keras')" if momentum < 1 else "0.1"
        yield _finding(
            of, "momentum", "warning",
            f"momentum is {momentum:g}: in torch that is the weight of the newest batch, so that the running "
            "statistics are those of the last few batches; in Keras and TensorFlow it would be the old value's",
            f"{of.code}.momentum = {converted}; {_recalibrate(of)}",
        )  # fmt: skip


def _batch_size(of: Evidence) -> Found:
    if of.seen is None or of.keeps_statistics or of.expected_training is False:
        return
    if any(elements == 1 for _, elements in of.seen.batches):
        yield _finding(
            of, "single-element", "error",
            "a batch has a single element per channel: training raises on it, and it has no variance",
            "DataLoader(…, drop_last=True), or batches whose sizes leave no rest of one",
        )  # fmt: skip
        return
    examples = statistics.median(examples for examples, _ in of.seen.batches)
    elements = statistics.median(elements for _, elements in of.seen.batches)
    if elements < _FEW_ELEMENTS or examples < _FEW_EXAMPLES:
        yield _finding(
            of, "tiny-batch", "warning",
            f"a batch has {examples:g} examples, {elements:g} elements per channel: in training its mean and variance "
            "are mostly noise, which inference does not have",
            "larger batches; batchnorm.synchronize(model) where several workers train; batchnorm.freeze(model) to "
            "fine-tune",
        )  # fmt: skip


def _twice(of: Evidence) -> Found:
    momentum = of.layer.momentum
    if of.recomputed and momentum is not None:  # a plain mean stays the same
        yield _finding(
            of, "updated-twice", "warning",
            "the backward pass runs the layer again (activation checkpointing), so that each training step updates its "
            "running statistics twice: they forget twice as fast as momentum says (a smaller one makes up for it; the "
            "second update stays)",
            f"{of.code}.momentum = {1 - math.sqrt(1 - min(momentum, 1.0)):.4g}",
        )  # fmt: skip


# What reaches it, and what it does with it.


def _input(of: Evidence) -> Found:
    if of.seen is not None and not of.finite:
        yield _finding(
            of, "nan-input", "error",
            "what reaches the layer holds NaN or infinite values: from the data, or from a layer before it",
            "[name for name, value in model.state_dict().items() if not torch.isfinite(value).all()] are bad weights; "
            "if there are none, look at the data",
        )  # fmt: skip


def _eps(of: Evidence) -> Found:
    if of.seen is None or not of.finite:
        return
    var = of.seen.moments.var
    small = (var > 0) & (of.layer.eps > _LARGE_EPS * var)
    if small.double().mean() >= _SHARE_OF_CHANNELS:
        yield _finding(
            of, "large-eps", "warning",
            f"ε = {of.layer.eps:g} is more than {_LARGE_EPS:g} times the variance of "
            f"{_channels(int(small.sum()), of)}: they come out with a standard deviation far below 1, not normalised",
            f"train with inputs of a larger scale, or with a smaller {of.code}.eps",
        )  # fmt: skip


def _dead(of: Evidence) -> Found:
    if of.layer.weight is None:
        return
    if dead := int((of.layer.weight.detach().abs() <= _DEAD_SCALE).sum()):
        yield _finding(
            of, "dead-channels", "warning",
            f"|γ| of {_channels(dead, of)} is at most {_DEAD_SCALE:g}: whatever comes in, β comes out",
            f"{of.code}.weight.data[{of.code}.weight.abs() <= {_DEAD_SCALE:g}] = 1, to train them again; or "
            "remove the channels",
        )  # fmt: skip


def _shared(of: Evidence) -> Found:
    if of.seen is None or len(of.seen.calls) < 2 or not of.finite:
        return
    first, *others = of.seen.calls
    eps = of.layer.eps
    for place, other in enumerate(others, 2):
        shift = (other.mean - first.mean).abs() / (torch.minimum(first.var, other.var) + eps).sqrt()
        ratio = (other.var + eps) / (first.var + eps)
        errors = torch.full_like(ratio, of.noise), torch.full_like(ratio, 2 * of.noise)
        comparison = Comparison(shift, ratio, of.noise, errors, initial=False)
        if comparison.deviates:
            yield _finding(
                of, "shared-layer", "warning",
                f"the layer is used {len(of.seen.calls)} times in a forward pass, on inputs with different statistics "
                f"(use {place} against use 1: {comparison}); its running statistics fit none of them",
                f"give each place a layer of its own: copy.deepcopy({of.code})",
            )  # fmt: skip
            return


def _channels(n: int, of: Evidence) -> str:
    return f"{n} of {of.layer.num_features} channels"


_RULES: tuple[Callable[[Evidence], Found], ...] = (
    _input, _mode, _absent, _invalid, _statistics, _momentum, _batch_size, _twice, _eps, _dead, _shared,
)  # fmt: skip
