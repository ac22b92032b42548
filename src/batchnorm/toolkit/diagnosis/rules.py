"""What can be wrong with a batch-norm layer: one rule per fault, from what was measured to what is said of it.

Thresholds stand right above the rule that uses them; those for wrong running statistics, which several rules share,
above the first of these. To add a fault, write a rule here, plant it in tests/planted.py, and give it a row in
docs/toolkit.md. Findings come in the order of the rules.
"""

import math
from collections.abc import Callable

from batchnorm.toolkit.behaviors import is_frozen
from batchnorm.toolkit.diagnosis.additions import SILENT_SCALE
from batchnorm.toolkit.diagnosis.evidence import Comparison, Evidence
from batchnorm.toolkit.diagnosis.finding import Fault, Finding, Severity

Rule = Callable[[Evidence], Fault | None]
RULES: dict[str, Rule] = {}  # by cause


def findings(evidence: Evidence) -> list[Finding]:
    """Return all that is wrong with a layer, by all rules."""
    return [
        Finding(evidence.name, cause, *fault) for cause, look in RULES.items() if (fault := look(evidence)) is not None
    ]


def rule(cause: str) -> Callable[[Rule], Rule]:
    """Have a function look for the cause at every layer: it returns None where it finds nothing wrong."""

    def register(look: Rule) -> Rule:
        RULES[cause] = look
        return look

    return register


# What reaches the layer.


@rule("nan-input")
def _nan_input(evidence: Evidence) -> Fault | None:
    if evidence.reached is None or evidence.population is not None:
        return None
    return Fault(
        "error",
        why="what reaches the layer holds NaN or infinite values: from the data, or from a layer before it",
        remedy=(
            "[name for name, value in model.state_dict().items() if not torch.isfinite(value).all()] names bad "
            "weights; if there are none, look at the data"
        ),
    )


# The mode that it is in.


@rule("training-left-on")
def _training_left_on(evidence: Evidence) -> Fault | None:
    if not evidence.training or (evidence.model_training and evidence.expected_training is not False):
        return None
    return Fault(
        "error",
        why=(
            "the layer is in training mode while the model is used for inference: it normalises with the batch, so "
            "that an example's output depends on the others, and every call moves its running statistics"
        ),
        remedy="model.eval()",
    )


@rule("inference-in-training")
def _inference_in_training(evidence: Evidence) -> Fault | None:
    if evidence.training or not (evidence.model_training or evidence.expected_training):
        return None
    weight = evidence.layer.weight
    if is_frozen(evidence.layer) or (weight is not None and not weight.requires_grad):
        return None  # on purpose
    return Fault(
        "warning",
        why=(
            "the layer is in inference mode while the model trains: its statistics stay what they are while the "
            "weights before it move away from them"
        ),
        remedy=f"model.train(), or, if it is meant to stay: batchnorm.freeze({evidence.code})",
    )


# Its buffers.


@rule("no-statistics")
def _no_statistics(evidence: Evidence) -> Fault | None:
    if evidence.running is not None:
        return None
    return Fault(
        "warning",
        why=(
            "the layer has no running statistics: even in inference it normalises with the batch, so that an example's "
            "output depends on the others"
        ),
        remedy=f"batchnorm.track_statistics(model); {_recalibrate(evidence)}",
    )


@rule("not-tracking")
def _not_tracking(evidence: Evidence) -> Fault | None:
    if evidence.running is None or evidence.layer.track_running_stats:
        return None
    return Fault(
        "warning",
        why=(
            "the layer has running statistics and uses them in inference, but training does not update them "
            "(track_running_stats=False)"
        ),
        remedy=f"{evidence.code}.track_running_stats = True; {_recalibrate(evidence)}",
    )


@rule("nan-statistics")
def _nan_statistics(evidence: Evidence) -> Fault | None:
    if evidence.running is None:
        return None
    bad = {channel for tensor in evidence.running for channel in (~tensor.isfinite()).nonzero().flatten().tolist()}
    if not bad:
        return None
    return Fault(
        "error",
        why=(
            f"the running statistics of {_channels(len(bad), evidence)} are NaN or infinite: one bad batch in training "
            "is enough, because an average never forgets it; every output behind it is NaN"
        ),
        remedy=_recalibrate(evidence),
    )


@rule("negative-variance")
def _negative_variance(evidence: Evidence) -> Fault | None:
    bad = 0 if evidence.running is None else int((evidence.running[1] < 0).sum())
    if not bad:
        return None
    return Fault(
        "error",
        why=(
            f"the running variance of {_channels(bad, evidence)} is negative, which no data gives: the buffers were "
            "damaged or averaged wrongly, and 1/√(var + ε) is NaN or meaningless"
        ),
        remedy=_recalibrate(evidence),
    )


@rule("zero-variance")
def _zero_variance(evidence: Evidence) -> Fault | None:
    if evidence.running is None or evidence.population is None or evidence.layer.running_var is None:
        return None
    stored = evidence.population.var.to(evidence.layer.running_var.dtype)  # which may round it to 0
    bad = int(((evidence.running[1] == 0) & (stored > 0)).sum())
    if not bad:
        return None
    eps = evidence.layer.eps
    does = f"multiplies it by 1/√ε = {eps**-0.5:.3g}" if eps > 0 else "divides it by 0"
    return Fault(
        "error",
        why=(
            f"the running variance of {_channels(bad, evidence)} is 0, though what reaches it varies: inference {does}"
        ),
        remedy=_recalibrate(evidence),
    )


@rule("constant-input")
def _constant_input(evidence: Evidence) -> Fault | None:
    if evidence.running is None or evidence.population is None:
        return None
    constant = int(((evidence.running[1] == 0) & (evidence.population.var == 0)).sum())
    if not constant:
        return None
    return Fault(
        "warning",
        why=(
            f"{_channels(constant, evidence)} always receives the same value, and carries nothing: what feeds it is "
            "dead"
        ),
        remedy="initialise what feeds it again, or remove the channels",
    )


_BETWEEN_BATCHES = 0.25  # part of the variance that lies between batches,
_OF_CHANCE = 11.0  # divided by the examples in a batch: what chance may add (a χ² of one degree of freedom, 99.9 %)
_WORSE = 1.1  # times the loss that the batch's own statistics give


@rule("batches-differ")
def _batches_differ(evidence: Evidence) -> Fault | None:
    between = evidence.between_batches
    if between is None or evidence.running is None or not _training_batches(evidence):
        return None
    examples, _ = evidence.typical_batch
    if between <= _BETWEEN_BATCHES + _OF_CHANCE / max(examples, 1):
        return None
    gap = evidence.gap
    measured = gap is not None and gap.kind == "loss"
    if gap is not None and measured and not gap.population > _WORSE * gap.batch:
        return None  # they differ, and the model does not live on it
    return Fault(
        "error" if measured else "warning",
        why=(
            f"batches differ far more than chance: {between:.0%} of the variance of what reaches the layer lies "
            "between them, as if each came from a source of its own; no running statistics can stand for what each of "
            "them is normalised by in training"
        ),
        remedy=(
            "mix the sources in every batch, as DataLoader(…, shuffle=True) over all of them does; where they must "
            "stay apart, a batch norm for each, or a normalisation of one example at a time, such as nn.GroupNorm"
        ),
    )


# Running statistics that are not those of the population: one cause explains it, the most particular one.

# Off by more than this in a typical channel, or in any single one by more than what the sample explains, is a fault.
_TYPICAL_SHIFT = 0.3  # of means, in standard deviations: root mean square over the channels
_TYPICAL_FACTOR = 1.5  # of variances, in either direction: median over the channels
_LARGEST_SHIFT = 0.5  # of a single channel's mean, in standard deviations
_LARGEST_FACTOR = 2.0  # by which a single channel's running variance is too small
_STANDARD_ERRORS = 4.0  # of a single channel, that chance may explain
# From here on, in a typical channel, it is an error; below, a warning.
_GRAVE_SHIFT, _GRAVE_FACTOR = 1.0, 4.0
_SHARE_OF_A_GRAVE_GAP = 0.05  # by one layer: an error, too
# Up to here, in a typical channel, statistics that nobody has ever updated fit well enough.
_CLOSE_SHIFT, _CLOSE_FACTOR = 0.05, 1.1


@rule("never-updated")
def _never_updated(evidence: Evidence) -> Fault | None:
    found = _comparison(evidence) if evidence.is_initial else None
    if found is None:
        return None
    if found.typical_shift < _CLOSE_SHIFT and found.typical_factor < _CLOSE_FACTOR:
        return None
    return Fault(
        "error",
        why=(
            f"the running statistics are the initial mean 0 and variance 1: {found}; the layer does not normalise in "
            "inference"
        ),
        remedy=_recalibrate(evidence),
    )


@rule("frozen-but-drifting")
def _frozen_but_drifting(evidence: Evidence) -> Fault | None:
    found = _deviation(evidence) if evidence.keeps_statistics else None
    if found is None:
        return None
    return Fault(
        _severity(evidence, found),
        why=f"the layer is frozen, but what reaches it has moved away from its statistics: {found}",
        remedy=_recalibrate(evidence),
    )


_INITIAL_WEIGHT = 0.05  # what may be left of the initial mean 0 and variance 1 in a running average


@rule("dropout")
def _dropout(evidence: Evidence) -> Fault | None:
    found = _deviation(evidence)
    if found is None or not _of_dropout(evidence):
        return None
    return Fault(
        _severity(evidence, found),
        why=(
            "dropout before the layer makes what reaches it vary more in training than in inference, and the running "
            f"statistics are those of training: {found}"
        ),
        remedy=f"put the dropout behind the last batch norm; for the model as it is: {_recalibrate(evidence)}",
    )


def _of_dropout(evidence: Evidence) -> bool:
    """Tell whether running statistics are those of training, with dropout on."""
    found = evidence.comparison_with_dropout
    return found is not None and not _differs(found) and not evidence.keeps_statistics


@rule("few-updates")
def _few_updates(evidence: Evidence) -> Fault | None:
    found = _deviation(evidence)
    if found is None or evidence.keeps_statistics or _of_dropout(evidence):
        return None
    if not _begun_too_recently(evidence, found):
        return None
    return Fault(
        _severity(evidence, found),
        why=(
            f"the running statistics have seen only {evidence.updates} batches, so that the initial 0 and 1 still "
            f"count for {evidence.initial_weight:.0%} of them: {found}"
        ),
        remedy=_recalibrate(evidence),
    )


@rule("other-statistics")
def _other_statistics(evidence: Evidence) -> Fault | None:
    found = _deviation(evidence)
    if found is None or evidence.keeps_statistics or _of_dropout(evidence) or _begun_too_recently(evidence, found):
        return None
    return Fault(
        _severity(evidence, found),
        why=(
            f"the running statistics are not those of these data: {found}; other data or preprocessing, averaged or "
            "changed weights, or stale buffers cause that"
        ),
        remedy=_recalibrate(evidence),
    )


def _comparison(evidence: Evidence) -> Comparison | None:
    """Return how running and population statistics differ; None where that is not known, or other rules say it."""
    told = (_not_tracking, _nan_statistics, _negative_variance, _zero_variance, _batches_differ)
    return None if any(look(evidence) for look in told) else evidence.comparison


def _deviation(evidence: Evidence) -> Comparison | None:
    """Return how running and population statistics differ, if they are not the initial ones and not alike."""
    found = evidence.comparison
    return None if found is None or evidence.is_initial or not _differs(found) else _comparison(evidence)


def _differs(found: Comparison) -> bool:
    """Tell whether two statistics differ by more than chance and the lag of a running average explain."""
    of_mean, of_var = (_STANDARD_ERRORS * error for error in found.errors)
    # A running variance that is larger than the data's may come of rare values, of which these data have none.
    shift = found.shift / found.ratio.clamp(min=1).sqrt()
    return not bool(
        found.typical_shift <= _TYPICAL_SHIFT + found.noise
        and found.typical_factor <= _TYPICAL_FACTOR * (1 + found.noise)
        and (shift <= _LARGEST_SHIFT + of_mean).all()
        and (-found.ratio.log() <= math.log(_LARGEST_FACTOR) + of_var).all()
    )


def _severity(evidence: Evidence, found: Comparison) -> Severity:
    """Judge by what it does to the outputs or the loss; where that was not measured, by how far statistics are off."""
    gap = evidence.gap
    if gap is not None and gap.is_grave and (gap.share(evidence.name) or 0.0) >= _SHARE_OF_A_GRAVE_GAP:
        return "error"
    grave = not (found.typical_shift < _GRAVE_SHIFT and found.typical_factor < _GRAVE_FACTOR)
    return "error" if grave else "warning"


def _begun_too_recently(evidence: Evidence, found: Comparison) -> bool:
    """Tell whether running statistics would fit better without what is left in them of the initial 0 and 1."""
    if evidence.initial_weight <= _INITIAL_WEIGHT:
        return False
    rest = evidence.comparison_without_initial
    return rest is not None and rest.typical_shift + rest.typical_factor < found.typical_shift + found.typical_factor


# How it trains.

_OTHER_MOMENTUM = 0.5  # from here on, a momentum looks like the weight of the old value


@rule("momentum")
def _momentum(evidence: Evidence) -> Fault | None:
    momentum = evidence.layer.momentum
    if momentum is None or 0 <= momentum < _OTHER_MOMENTUM or evidence.running is None:
        return None
    if 0 <= momentum <= 1:
        matter = (
            "in torch that is the weight of the newest batch, so that the running statistics are those of the last few "
            "batches; in Keras and TensorFlow it would be the old value's"
        )
    else:
        matter = "as the weight of the newest batch it should be from 0 to 1; these running statistics are no average"
    converted = f"batchnorm.convert_momentum({momentum}, 'keras')" if 0 < momentum < 1 else "0.1"
    return Fault(
        "warning",
        why=f"momentum is {momentum:g}: {matter}",
        remedy=f"{evidence.code}.momentum = {converted}; {_recalibrate(evidence)}",
    )


@rule("single-element")
def _single_element(evidence: Evidence) -> Fault | None:
    if all(elements > 1 for _, elements in _training_batches(evidence)):
        return None
    return Fault(
        "error",
        why="a batch has a single element per channel: training raises on it, and it has no variance",
        remedy="DataLoader(…, drop_last=True), or a batch size that leaves no last batch of one",
    )


# A typical batch with fewer than either gives statistics that are mostly noise.
_FEW_EXAMPLES = 4
_FEW_ELEMENTS = 16  # per channel


@rule("tiny-batch")
def _tiny_batch(evidence: Evidence) -> Fault | None:
    if not _training_batches(evidence) or _single_element(evidence):
        return None
    examples, elements = evidence.typical_batch
    if examples >= _FEW_EXAMPLES and elements >= _FEW_ELEMENTS:
        return None
    return Fault(
        "warning",
        why=(
            f"a batch has {examples:g} examples, {elements:g} elements per channel: in training its mean and variance "
            "are mostly noise, which inference does not have"
        ),
        remedy=(
            "larger batches; batchnorm.synchronize(model) where several workers train; batchnorm.freeze(model) to "
            "fine-tune"
        ),
    )


def _training_batches(evidence: Evidence) -> list[tuple[int, int]]:
    """Return examples and elements per channel of the batches; none for a layer that does not train on them."""
    if evidence.reached is None or evidence.keeps_statistics or evidence.expected_training is False:
        return []
    return evidence.reached.batches


_TOO_HEAVY = 1.05  # times the momentum: the weight of the newest batch after a step


@rule("updated-twice")
def _updated_twice(evidence: Evidence) -> Fault | None:
    momentum, weight = evidence.layer.momentum, evidence.weight_of_a_step
    if weight is None or momentum is None or not 0 < momentum < 1:
        return None  # a plain mean, what stays, and the last batch alone are the same after the second time
    if weight <= _TOO_HEAVY * momentum or _makes_up_for_it(momentum):
        return None
    return Fault(
        "warning",
        why=(
            "the backward pass runs the layer again (activation checkpointing), so that each training step updates its "
            "running statistics twice: they forget twice as fast as momentum says (a smaller one makes up for it; the "
            "second update stays)"
        ),
        remedy=f"{evidence.code}.momentum = {1 - math.sqrt(1 - momentum):.6g}",
    )


def _makes_up_for_it(momentum: float) -> bool:
    """Tell whether a momentum is one that nobody would choose for itself: that by which two updates are a plain one."""
    of_two = 1 - (1 - momentum) ** 2
    return any(_digits(of_two, tolerance) < _digits(momentum, tolerance) for tolerance in (1e-3, 2e-5))


def _digits(value: float, tolerance: float) -> int:
    """Return how many significant digits a number takes."""
    return next(n for n in range(1, 17) if abs(float(f"{value:.{n - 1}e}") - value) <= tolerance * value)


# What it does with what reaches it.

_LARGE_EPS = 10.0  # times the variance of a channel
_SHARE_OF_CHANNELS = 0.1  # in which ε is as large as that


@rule("large-eps")
def _large_eps(evidence: Evidence) -> Fault | None:
    if evidence.population is None:
        return None
    var, eps = evidence.population.var, evidence.layer.eps
    small = (var > 0) & (eps > _LARGE_EPS * var)
    if small.double().mean() < _SHARE_OF_CHANNELS:
        return None
    return Fault(
        "warning",
        why=(
            f"ε = {eps:g} is more than {_LARGE_EPS:g} times the variance of {_channels(int(small.sum()), evidence)}: "
            "they come out with a standard deviation far below 1, not normalised"
        ),
        remedy=f"train with inputs of a larger scale, or with a smaller {evidence.code}.eps",
    )


@rule("dead-channels")
def _dead_channels(evidence: Evidence) -> Fault | None:
    weight, code = evidence.layer.weight, evidence.code
    dead = 0 if weight is None else int((weight.detach().abs() <= SILENT_SCALE).sum())
    if not dead or evidence.is_added:  # as deep residual networks are made to begin
        return None
    return Fault(
        "warning",
        why=f"|γ| of {_channels(dead, evidence)} is at most {SILENT_SCALE:g}: whatever comes in, β comes out",
        remedy=(
            f"{code}.weight.data[{code}.weight.abs() <= {SILENT_SCALE:g}] = 1, to train them again; or remove the "
            "channels"
        ),
    )


@rule("shared-layer")
def _shared_layer(evidence: Evidence) -> Fault | None:
    differing = [(place, found) for place, found in enumerate(evidence.comparisons_of_calls(), 2) if _differs(found)]
    if evidence.reached is None or not differing:
        return None
    place, found = differing[0]
    return Fault(
        "warning",
        why=(
            f"the layer is used {len(evidence.reached.calls)} times in a forward pass, on inputs with different "
            f"statistics (use {place} against use 1: {found}); one set of running statistics fits none of them"
        ),
        remedy=f"give each place a layer of its own: copy.deepcopy({evidence.code})",
    )


# Words that several rules use.


def _channels(n: int, evidence: Evidence) -> str:
    return f"{n} of {evidence.channels} channels"


def _recalibrate(evidence: Evidence) -> str:
    """Say how to give a layer new statistics, one that is meant to keep its own too."""
    call, code = "batchnorm.recalibrate(model, batches)", evidence.code
    if is_frozen(evidence.layer):
        return f"batchnorm.unfreeze({code}); {call}; batchnorm.freeze({code})"
    if evidence.layer.momentum == 0:
        return f"{code}.momentum = 0.1; {call}; {code}.momentum = 0"
    return f"model.eval(); {call}" if evidence.keeps_statistics else call
