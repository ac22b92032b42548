"""Models with a fault that was put there, each with its healthy twin: what `diagnose` must find, and not find.

``python tests/planted.py`` prints the table of docs/toolkit.md.
"""

import copy
import functools
import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from batchnorm.toolkit.model.layers import norm_layers

SEEDS = (10, 11, 12)  # drawn when the thresholds had been fixed
STEPS, BATCH, N_BATCHES = 120, 32, 8


class Block(nn.Module):
    """Linear or convolution, batch norm, ReLU; around it a shortcut where sizes allow."""

    def __init__(self, linear, norm, shortcut=False, activation=F.relu):
        super().__init__()
        self.linear, self.norm, self.shortcut, self.activation = linear, norm, shortcut, activation
        self.checkpointed = False

    def forward(self, x):
        y = checkpoint(self.inner, x, use_reentrant=False) if self.checkpointed else self.inner(x)
        y = x + y if self.shortcut else y
        return self.activation(y) if self.activation else y

    def inner(self, x):
        return self.norm(self.linear(x))


def dense():
    return nn.Sequential(
        Block(nn.Linear(6, 16), nn.BatchNorm1d(16)),
        Block(nn.Linear(16, 16), nn.BatchNorm1d(16), shortcut=True),
        Block(nn.Linear(16, 12), nn.BatchNorm1d(12)),
        nn.Linear(12, 3),
    )


def convolutional():
    return nn.Sequential(
        Block(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8)),
        Block(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), shortcut=True),
        Block(nn.Conv2d(8, 10, 3, stride=2, bias=False), nn.BatchNorm2d(10)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(10, 3),
    )


class Branch(nn.Module):
    """Blocks with a shortcut around them."""

    def __init__(self, *blocks, activation=None):
        super().__init__()
        self.blocks, self.activation = nn.Sequential(*blocks), activation

    def forward(self, x):
        y = x + self.blocks(x)
        return self.activation(y) if self.activation else y


def conv(fan_in, fan_out, size, *, groups=1, activation=F.relu):
    linear = nn.Conv2d(fan_in, fan_out, size, padding=size // 2, groups=groups, bias=False)
    return Block(linear, nn.BatchNorm2d(fan_out), activation=activation)


def classifier(*blocks):
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def residual():
    """As ResNet's basic blocks."""

    def branch():
        return Branch(conv(8, 8, 3), conv(8, 8, 3, activation=None), activation=F.relu)

    return classifier(conv(2, 8, 3), branch(), branch())


def inverted_residual():
    """As MobileNet's second version: wide inside, by depthwise convolutions, and linear where it ends."""

    def branch():
        return Branch(
            conv(8, 24, 1, activation=F.relu6),
            conv(24, 24, 3, groups=24, activation=F.relu6),
            conv(24, 8, 1, activation=None),
        )

    return classifier(conv(2, 8, 3, activation=F.relu6), branch(), branch())


BUILDERS = {
    "dense": (dense, (6,)),
    "convolutional": (convolutional, (2, 8, 8)),
    "residual": (residual, (2, 8, 8)),
    "inverted residual": (inverted_residual, (2, 8, 8)),
}


def draw(shape, n, generator):
    labels = torch.randint(3, (n,), generator=generator)
    centres = torch.linspace(-1, 1, 3)[labels].reshape(-1, *[1] * len(shape))
    return torch.randn(n, *shape, generator=generator) + centres + 0.5, labels


def train(build, shape, seed, *, rate=0.05, batch=BATCH, steps=STEPS):
    """Return a trained network in inference mode, and what draws its examples."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = build().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    for _ in range(steps):
        x, labels = draw(shape, batch, generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return model.eval(), generator


@functools.cache
def _trained(architecture, seed):
    build, shape = BUILDERS[architecture]
    model, generator = train(build, shape, seed)
    return model, [draw(shape, BATCH, generator) for _ in range(N_BATCHES)]


def cross_entropy(output, batch):
    return F.cross_entropy(output, batch[1])


@dataclass
class Case:
    """A model to diagnose; which (layer, cause) there are in it."""

    model: nn.Module
    batches: list
    expected: set = field(default_factory=set)
    options: dict[str, Any] = field(default_factory=dict)

    def diagnose(self):
        return bn.diagnose(self.model, self.batches, **self.options)

    def found(self):
        return {(finding.layer, finding.cause) for finding in self.diagnose().findings}

    @property
    def layers(self):
        return list(norm_layers(self.model))

    @property
    def places(self):
        """The layers that faults are planted in."""
        return self.layers[0], self.layers[len(self.layers) // 2], self.layers[-1]

    @property
    def blocks(self):
        return [module for module in self.model.modules() if isinstance(module, Block)]

    def settle(self, keep=()):
        """Give the layers the statistics that they would have had, but for those whose fault this is."""
        kept = {name: copy.deepcopy(self.model.get_submodule(name).state_dict()) for name in keep}
        bn.recalibrate(self.model, self.batches)
        for name, state in kept.items():
            self.model.get_submodule(name).load_state_dict(state)


def healthy(architecture, seed):
    model, batches = _trained(architecture, seed)
    return Case(copy.deepcopy(model), list(batches))


FAULTS = {}


def fault(cause):
    def register(plant):
        FAULTS[cause] = plant
        return plant

    return register


def plant(cause, architecture, seed, place):
    """Return a model with a fault in its first, middle or last layer."""
    case = healthy(architecture, seed)
    torch.manual_seed(1000 * seed + place)
    name = case.places[place]
    case.expected = {(name, cause)}
    FAULTS[cause](case, case.model.get_submodule(name), case.model.get_submodule(name.removesuffix(".norm")))
    return case


@fault("never-updated")
def _(case, norm, block):
    norm.reset_running_stats()


@fault("few-updates")
def _(case, norm, block):
    name = case.expected.copy().pop()[0]
    others = {n: copy.deepcopy(case.model.get_submodule(n).state_dict()) for n in case.layers if n != name}
    with torch.no_grad():
        block.linear.weight.mul_(3)  # away from what the initial values happen to fit
    norm.reset_running_stats()
    case.model.train()
    for x, _ in case.batches[:4]:
        case.model(x)
    case.model.eval()
    for n, state in others.items():
        case.model.get_submodule(n).load_state_dict(state)


@fault("nan-statistics")
def _(case, norm, block):
    norm.running_var[1] = torch.nan


@fault("negative-variance")
def _(case, norm, block):
    norm.running_var[1] = -0.2


@fault("zero-variance")
def _(case, norm, block):
    norm.running_var[1] = 0


@fault("constant-input")
def _(case, norm, block):
    with torch.no_grad():
        block.linear.weight[1] = 0
    case.settle()


@fault("nan-input")
def _(case, norm, block):
    with torch.no_grad():
        block.linear.weight[0, 0] = torch.nan


@fault("large-eps")
def _(case, norm, block):
    with torch.no_grad():
        block.linear.weight.mul_(1e-4)
    case.settle()


@fault("momentum")
def _(case, norm, block):
    norm.momentum = 0.99
    others = [module for module in case.model.modules() if module is not norm]
    for module in others:
        module.training = False
    norm.training = True
    for x, _ in case.batches:
        case.model(x)
    case.model.eval()


@fault("tiny-batch")
def _(case, norm, block):
    x, labels = (torch.cat(parts) for parts in zip(*case.batches, strict=True))
    case.batches = list(zip(x.split(2), labels.split(2), strict=True))
    case.expected = {(name, "tiny-batch") for name in case.layers}


@fault("single-element")
def _(case, norm, block):
    x, labels = case.batches[-1]
    if x.dim() > 2:
        size = 3 - 2 * case.blocks[0].linear.padding[0]  # of which the first convolution leaves a single position
        x = x[:, :, :size, :size]
        case.model = nn.Sequential(case.model[0], nn.Flatten(), nn.Linear(8, 3)).eval()
        case.batches = [(x[:, :, :size, :size], labels) for x, labels in case.batches]
        case.settle()
    case.batches[-1] = (x[:1], labels[:1])
    case.expected = {(name, "single-element") for name in case.layers}


@fault("training-left-on")
def _(case, norm, block):
    norm.train()


@fault("inference-in-training")
def _(case, norm, block):
    case.model.train()
    norm.eval()


@fault("no-statistics")
def _(case, norm, block):
    block.norm = type(norm)(norm.num_features, track_running_stats=False).eval()
    block.norm.weight, block.norm.bias = norm.weight, norm.bias


@fault("not-tracking")
def _(case, norm, block):
    norm.track_running_stats = False


@fault("frozen-but-drifting")
def _(case, norm, block):
    bn.freeze(norm)
    with torch.no_grad():
        block.linear.weight.mul_(2)
    case.settle()


@fault("updated-twice")
def _(case, norm, block):
    block.checkpointed = True


@fault("batches-differ")
def _(case, norm, block):
    """Two sources, of which each batch has one: the layer is trained and recalibrated on what they are together."""
    source = Source()
    block.linear = nn.Sequential(block.linear, source)
    case.batches = [(x, labels, i) for i, (x, labels) in enumerate(case.batches)]
    case.options["forward"] = source.run
    bn.recalibrate(case.model, case.batches, forward=source.run)


class Source(nn.Module):
    """What another source of the data does to a feature: shifts it, in every other batch."""

    shift = 0.0

    def forward(self, x):
        return x + self.shift

    def run(self, model, batch):
        self.shift = (8.0, -8.0)[batch[2] % 2]
        return model(batch[0])


@fault("dropout")
def _(case, norm, block):
    block.linear = nn.Sequential(nn.Dropout(0.93), block.linear)
    with torch.no_grad():
        for layer in norms_of(case.model):
            layer.reset_running_stats()
            layer.momentum = None
        case.model.train()
        for _ in range(20):
            for x, _ in case.batches:
                case.model(x)
        case.model.eval()
    for layer in norms_of(case.model):
        layer.momentum = 0.1
    case.settle(keep=[name for name in case.layers if case.model.get_submodule(name) is norm])


def norms_of(model):
    return [model.get_submodule(name) for name in norm_layers(model)]


@fault("dead-channels")
def _(case, norm, block):
    with torch.no_grad():
        norm.weight[2] = 0
    case.settle()


@fault("other-statistics")
def _(case, norm, block):
    norm.running_mean.add_(2 * norm.running_var.sqrt())


@fault("shared-layer")
def _(case, norm, block):
    case.model = Siamese(case.model, block.norm.num_features, shift=4.0)
    case.settle()
    case.expected = {("shared", "shared-layer")}


class Siamese(nn.Module):
    """Two branches that share a batch norm: on inputs that are alike, or not."""

    def __init__(self, model, width, shift):
        super().__init__()
        self.model, self.shift = model, shift
        self.first, self.second = nn.Linear(3, 5), nn.Linear(3, 5)
        self.second.load_state_dict(self.first.state_dict())
        self.shared = nn.BatchNorm1d(5)
        self.eval()

    def forward(self, x):
        x = self.model(x)
        return self.shared(self.first(x)) - self.shared(self.second(x + self.shift))


def twin(cause, architecture, seed):
    """Return the healthy model that differs from the faulty one by the fault alone."""
    case = healthy(architecture, seed)
    torch.manual_seed(1000 * seed)
    if cause == "shared-layer":
        case.model = Siamese(case.model, 5, shift=0.0)
        case.settle()
    elif cause == "frozen-but-drifting":
        bn.freeze(case.blocks[0].norm)
    elif cause == "inference-in-training":
        case.model.train()
    elif cause == "updated-twice":
        for block in case.blocks:
            block.inner = functools.partial(lambda inner, x: inner(x) * 1, block.inner)  # not checkpointed
    return case


def results():
    """Return for each cause: cases, of these found, other findings in them, twins, of these silent."""
    rows = {}
    for cause in FAULTS:
        n = found = others = twins = silent = 0
        for architecture in BUILDERS:
            for seed in SEEDS:
                twins += 1
                silent += not twin(cause, architecture, seed).found()
                for place in range(3):
                    case = plant(cause, architecture, seed, place)
                    seen = case.found()
                    n += len(case.expected)
                    found += len(seen & case.expected)
                    others += len(seen - case.expected)
        rows[cause] = n, found, others, twins, silent
    return rows


def table():
    """Return the results as the rows of a table."""
    lines = ["| fault | planted | found (recall) | precision | twins | of these silent |", "|---|---|---|---|---|---|"]
    totals = [0] * 5
    for cause, row in results().items():
        lines.append(_line(f"`{cause}`", row))
        totals = [a + b for a, b in zip(totals, row, strict=True)]
    return "\n".join([*lines, _line("all", totals)])


def _line(name, row):
    n, found, others, twins, silent = row
    precision = found / (found + others) if found + others else 0.0
    return f"| {name} | {n} | {found} ({found / n:.0%}) | {precision:.1%} | {twins} | {silent} |"


SHIFTS, FACTORS = (0.25, 0.5, 1.0, 2.0), (1.5, 2.0, 4.0, 10.0)


def sizes():
    """Return, as the rows of a table, how often a wrong mean or variance is found, by how wrong it is."""

    def found(change):
        n = 0
        for architecture, seed, place in itertools.product(BUILDERS, SEEDS, range(3)):
            case = healthy(architecture, seed)
            name = case.places[place]
            change(case.model.get_submodule(name))
            n += (name, "other-statistics") in case.found()
        return n

    n = len(BUILDERS) * len(SEEDS) * 3
    rows = [
        *(
            (f"mean off by {k:g} σ", lambda norm, k=k: norm.running_mean.add_(k * norm.running_var.sqrt()))
            for k in SHIFTS
        ),
        *((f"variance off by {k:g} ×", lambda norm, k=k: norm.running_var.mul_(k)) for k in FACTORS),
    ]
    lines = [f"| {what} | {found(change)} of {n} |" for what, change in rows]
    return "\n".join(["| all channels of a layer | found |", "|---|---|", *lines])


RATES, BATCHES, LENGTHS, NUMBERS = (0.01, 0.1, 0.5), (8, 32, 128), (60, 300), (2, 8)


def false_alarms():
    """Return what is found in healthy networks, trained in many ways."""
    networks, found = 0, Counter()
    for name, (build, shape) in BUILDERS.items():
        for rate, batch, steps, n_batches in itertools.product(RATES, BATCHES, LENGTHS, NUMBERS):
            model, generator = train(build, shape, 7, rate=rate, batch=batch, steps=steps)
            report = bn.diagnose(model, [draw(shape, batch, generator) for _ in range(n_batches)])
            found.update({(name, batch, finding.cause) for finding in report.findings})
            networks += 1
    for seed in range(20):  # behind a ReLU, of which some channels are nearly always 0
        torch.manual_seed(seed)
        model = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(64)).train()
        for _ in range(300):
            model(rare())
        report = bn.diagnose(model.eval(), [rare() for _ in range(N_BATCHES)])
        found.update({("rare values", 64, finding.cause) for finding in report.findings})
        networks += 1
    return networks, dict(found)


def rare():
    """Return a batch whose channels are above 0 in half of the examples to nearly none."""
    return torch.randn(64, 64) - torch.linspace(0, 2.5, 64)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(table(), sizes(), false_alarms(), sep="\n\n")
