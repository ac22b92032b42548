"""Each row of the tables in docs/training.md, run."""

import copy
import dataclasses
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver

import batchnorm as bn
from batchnorm import InputError
from batchnorm.errors import BatchnormWarning, TrainingInterrupted
from batchnorm.training import evaluate_run
from batchnorm.training.engines import AutogradEngine, FusedEngine, make_engine
from conftest import REPOSITORY
from helpers import PLAIN, Around, InterruptAt, make_network, plain, same_weights
from test_surroundings import SURROUNDINGS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor"),
    pytest.mark.filterwarnings("ignore:quantized..linear_dynamic. an autograd kernel was not registered:UserWarning"),
    pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning"),
]
PAGE = (REPOSITORY / "docs" / "training.md").read_text()
STEADY = dataclasses.replace(PLAIN, momentum=0.9)
ADAMW = dataclasses.replace(PLAIN, optimizer="adamw", learning_rate=0.01)


def rows(section):
    table = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.MULTILINE)[1:])


def dense(**options):
    return bn.DenseNetwork(6, (8,), 3, generator=torch.Generator().manual_seed(0), **options)


def changed(network, change):
    change(network)
    return network


class SeveralTypes(Around):
    def __init__(self):
        super().__init__()
        self.net[3].double()

    def forward(self, x):
        return self.net[3](self.net[:3](x).double())


class ComplexWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.last = nn.Parameter(torch.randn(6, 8, dtype=torch.complex64)), nn.Linear(8, 3)

    def forward(self, x):
        return self.last((x.to(torch.complex64) @ self.weight).abs())


class Autocasting(Around):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.net(x)


class LateInInference(Around):
    def forward(self, x):
        if not hasattr(self, "late"):
            self.late = nn.Linear(3, 3)
        return self.late(self.net(x))


class LateInTraining(Around):
    def forward(self, x):
        if self.training and not hasattr(self, "late"):
            self.late = nn.Linear(3, 3)
        return self.late(self.net(x)) if hasattr(self, "late") else self.net(x)


class Growing(Around):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(0))
        self.register_buffer("last", None)

    def forward(self, x):
        if self.training:
            self.seen, self.last = torch.cat([self.seen, x.detach().mean(1)]), x.detach().mean(0)
        return self.net(x)


class ExtraTensor(Around):
    extra = torch.zeros(2)

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


class ExtraDict(ExtraTensor):
    def get_extra_state(self):
        return {"seen": 1}


class OwnState(Around):
    def load_state_dict(self, state):
        return super().load_state_dict(state)


class Quantized(Around):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it moves to another package
        return torch.ao.quantization.quantize_dynamic(plain(), {nn.Linear})


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(16, 8, sparse=True), nn.Linear(48, 3)

    def forward(self, x):
        return self.last(self.table((x * 2 + 8).clamp(0, 15).long()).flatten(1))


class AlwaysDropping(Around):
    def forward(self, x):
        return nn.functional.dropout(self.net(x), 0.1, training=True)


class Unsaved(Around):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.ones(6), persistent=False)  # which stays
        self.register_buffer("centre", torch.zeros(6), persistent=False)

    def forward(self, x):
        if self.training:
            self.centre = 0.9 * self.centre + 0.1 * x.detach().mean(0)
        return self.net(x * self.mask - self.centre)


class Warming(Around):
    def __init__(self):
        super().__init__()
        self.factor = 1.0

    def forward(self, x):
        if self.training:
            self.factor *= 1.02
        return self.net(x) * self.factor


class Drawing(Around):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x):
        return self.net(x + torch.randn(x.shape, generator=self.generator) / 10 if self.training else x)


class Observed(Around):
    def __init__(self):
        super().__init__()
        self.net.insert(3, FakeQuantize(MovingAverageMinMaxObserver))


class Detached(Around):
    def forward(self, x):
        return self.net(x).detach()


def tied():
    network = plain(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 8))
    network[1].weight = network[0].weight
    return network


def made_in(context, build):
    with context:
        return build()


def frozen(network, *names):
    for name, parameter in network.named_parameters():
        if not names or name in names:
            parameter.requires_grad_(False)
    return network


# By row of the table: what builds such modules, the configuration, and how they are refused.
MODULES = {
    "a `DenseNetwork`": ([dense], STEADY, None),
    "a `DenseNetwork` that was changed: a layer replaced, a weight set to None, hooks": (
        [
            lambda: changed(dense(), lambda n: n.__setitem__(2, nn.Tanh())),
            lambda: changed(dense(), lambda n: setattr(n[1], "weight", None)),
            lambda: changed(dense(), lambda n: n[0].register_forward_hook(lambda *_: None)),
        ],
        STEADY,
        None,
    ),
    "of `float64`": ([lambda: plain().double(), lambda: dense().double(), lambda: dense(dtype=torch.float64)],
                     STEADY, None),
    "of `bfloat16`": ([lambda: plain().bfloat16(), lambda: dense().bfloat16()], STEADY, None),
    "of `float16`": ([lambda: plain().half(), lambda: dense().half()], STEADY, None),
    "of several dtypes": ([SeveralTypes], STEADY, None),
    "with complex parameters": ([ComplexWeights], ADAMW, None),
    "that autocasts in its own `forward`": ([Autocasting], STEADY, None),
    "compiled: `torch.compile(module)`": (
        [lambda: torch.compile(plain(), backend="eager"), lambda: torch.compile(dense(), backend="eager")],
        STEADY, None),
    "wrapped: `DataParallel(module)`": ([lambda: nn.DataParallel(plain()), lambda: nn.DataParallel(dense())],
                                        STEADY, None),
    "scripted: `torch.jit.script(module)`": (
        [lambda: torch.jit.script(plain()), lambda: torch.jit.script(dense(dropout=0.1))], STEADY, None),
    "traced: `torch.jit.trace(module, example)`": (
        [lambda: torch.jit.trace(plain().eval(), torch.ones(2, 6))], STEADY, None),
    "lazy: `LazyLinear` and others": (
        [lambda: nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))], STEADY, None),
    "that makes parameters when it is first called in inference": ([LateInInference], STEADY, None),
    "that makes parameters in its first training step": ([LateInTraining], STEADY, "late.weight was made in the first"),
    "partly frozen": ([lambda: frozen(plain(), "0.weight"), lambda: frozen(dense(), "0.weight")], STEADY, None),
    "all frozen, or without parameters": (
        [lambda: frozen(plain()), lambda: frozen(dense()), lambda: nn.Linear(6, 3).requires_grad_(False)],
        STEADY,
        "no parameter of the network can be trained",
    ),
    "with tied parameters": ([tied], PLAIN, None),
    "with parameters that are not contiguous": (
        [
            lambda: changed(plain(), lambda n: setattr(n[0], "weight", nn.Parameter(torch.randn(6, 8).t()))),
            lambda: changed(dense(), lambda n: setattr(n[0], "weight", nn.Parameter(torch.randn(6, 8).t()))),
        ],
        STEADY,
        None,
    ),
    "with parameters whose elements share memory (`expand`)": (
        [lambda: changed(plain(), lambda n: setattr(n[1], "weight", nn.Parameter(torch.ones(1).expand(8))))],
        STEADY,
        "more than one element of the written-to tensor",
    ),
    "with batch norm without weight and bias (`affine=False`)": (
        [lambda: plain(nn.Linear(6, 8), nn.BatchNorm1d(8, affine=False))], STEADY, None),
    "with buffers that change their shape, or appear in training": ([Growing], STEADY, None),
    "with `get_extra_state` that returns a tensor": ([ExtraTensor], STEADY, None),
    "with `get_extra_state` that returns something else": ([ExtraDict], STEADY, None),
    "with a `state_dict` of its own (part of it, rounded, without `strict`)": ([OwnState], STEADY, None),
    "whose state has what cannot be written: quantized, `DTensor`": ([Quantized], STEADY, None),
    "with `SyncBatchNorm`": ([lambda: plain(nn.Linear(6, 8), nn.SyncBatchNorm(8))], STEADY, None),
    "whose last layer is quantized: `quantize_dynamic(module)`": (
        [quantized, lambda: changed(plain(), lambda n: n.__setitem__(3, quantized()[3]))],
        STEADY,
        "no parameter of the network has a gradient after a training step: .* quantized",
    ),
    "with sparse gradients: `Embedding(sparse=True)`": ([Embedded], PLAIN, None),
    "with buffers outside of its `state_dict` (`persistent=False`) that training changes": ([Unsaved], STEADY, None),
    "whose outputs depend on an attribute that training changes": ([Warming], STEADY, None),
    "with a `torch.Generator` of its own": ([Drawing], STEADY, None),
    "with observers that move in inference, too, as for quantization": ([Observed], STEADY, None),
    "with dropout in inference, too": ([AlwaysDropping], STEADY, None),
    "whose outputs are detached": ([Detached], STEADY, "cannot be trained: element 0 of tensors does not require grad"),
    "on the device meta": (
        [lambda: made_in(torch.device("meta"), plain), lambda: made_in(torch.device("meta"), dense),
         lambda: changed(plain(), lambda n: n.__setitem__(3, nn.Linear(8, 3, device="meta")))],
        STEADY,
        "is on the device meta, without values",
    ),
    "built in `torch.inference_mode()`": (
        [lambda: made_in(torch.inference_mode(), plain), lambda: made_in(torch.inference_mode(), dense)],
        STEADY,
        r"was made in torch\.inference_mode",
    ),
}  # fmt: skip
CASES = [(row, i) for row, (builds, _, _) in MODULES.items() for i in range(len(builds))]
CALLED_ONCE = {"that makes parameters when it is first called in inference"}
NOT_SAVED = {
    "with buffers outside of its `state_dict` (`persistent=False`) that training changes",
    "whose outputs depend on an attribute that training changes",
    "with a `torch.Generator` of its own",
    "with `get_extra_state` that returns something else",
    "whose state has what cannot be written: quantized, `DTensor`",
}


def same_state(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_each_row_of_the_table_of_modules_has_its_test():
    assert list(rows("Modules")) == list(MODULES)
    for row, (_, _, refused) in MODULES.items():
        assert rows("Modules")[row].startswith("no" if refused else "yes"), row


@pytest.mark.parametrize(("row", "i"), CASES)
def test_a_module_is_trained_or_refused_as_the_table_says(row, i, blobs, tmp_path):
    builds, config, refused = MODULES[row]
    torch.manual_seed(0)
    network = builds[i]()
    if refused:
        with pytest.raises(InputError, match=refused) as caught:
            bn.fit(network, blobs, config)
        assert "\n" not in str(caught.value)
        return
    fixed = {name: value.detach().clone() for name, value in network.named_parameters() if not value.requires_grad}
    folder = None if row in NOT_SAVED else tmp_path / "run"
    run = bn.fit(network, blobs, config, out=folder)
    assert run.history[-1]["train_loss"] < run.history[0]["train_loss"]
    assert run.test_accuracy > 0.5
    for name, value in fixed.items():
        assert torch.equal(network.get_parameter(name), value), name
    if folder:  # from the last checkpoint to the end once more
        (folder / "results.json").unlink()
        for go_on in (partial(bn.resume, folder, blobs), partial(bn.load_run, folder)):
            given = builds[i]()
            if row in CALLED_ONCE:
                given.eval()(blobs.train.inputs[:2])
            again = go_on(network=given)
            assert same_state(again.network, run.network)
            assert again.results == run.results


def test_which_engine_trains_what(blobs):
    def engine(network, **options):
        return type(make_engine(network, blobs.train, dataclasses.replace(STEADY, **options)))

    assert engine(dense()) is engine(dense().double()) is FusedEngine
    assert engine(dense().bfloat16()) is engine(dense().half()) is engine(plain()) is AutogradEngine


@pytest.mark.parametrize("build", [plain, dense], ids=["foreign", "own"])
def test_float64_is_trained_and_evaluated_in_float64(build, blobs):
    run = bn.fit(build().double(), blobs, STEADY)
    assert {value.dtype for value in run.network.state_dict().values()} == {torch.float64, torch.int64}
    assert {value.dtype for value in run.population.values()} == {torch.float64}
    single = bn.fit(build(), blobs, STEADY)
    assert run.results["test"]["running"]["loss"] != single.results["test"]["running"]["loss"]
    assert run.results["test"]["running"]["loss"] == pytest.approx(single.results["test"]["running"]["loss"], rel=1e-3)
    assert bn.evaluate(run.network, blobs.test).loss == run.results["test"]["running"]["loss"]


def test_optimisers_say_what_they_do_not_take(blobs):
    with pytest.raises(InputError, match=r"adam_eps is 1e-08, which is 0 in the network's torch.float16: set it to"):
        bn.fit(plain().half(), blobs, ADAMW)
    assert bn.fit(plain().half(), blobs, dataclasses.replace(ADAMW, adam_eps=1e-4)).test_accuracy > 0.5
    for config in (STEADY, ADAMW, dataclasses.replace(PLAIN, weight_decay=0.1)):
        with pytest.raises(InputError, match=r"table\.weight has sparse gradients, which plain SGD alone takes"):
            bn.fit(Embedded(), blobs, config)


@pytest.mark.parametrize("config", [STEADY, ADAMW], ids=["sgd", "adamw"])
def test_the_optimiser_of_complex_parameters_is_taken_up_in_the_middle_of_an_epoch(config, blobs, tmp_path):
    torch.manual_seed(0)
    begun = ComplexWeights()
    expected = bn.fit(copy.deepcopy(begun), blobs, config)
    with pytest.raises(TrainingInterrupted):
        bn.fit(begun, blobs, config, out=tmp_path / "run", monitor=InterruptAt(1, 4))
    assert same_state(bn.resume(tmp_path / "run", blobs, network=ComplexWeights()).network, expected.network)
    engine = AutogradEngine(ComplexWeights(), blobs.train, config)
    engine.step(np.arange(20), 0.01)
    name, kept = next((name, value) for name, value in engine.state_dict().items() if value.is_complex())
    with pytest.raises(ValueError, match=f"optimiser's {name} is torch.float32, expected complex numbers"):
        engine.load_state_dict(engine.state_dict() | {name: kept.real})


def test_a_buffer_that_is_not_saved_and_changes_is_refused(blobs, tmp_path):
    with pytest.raises(InputError, match=r"^training changes the buffer centre, which the network's state leaves out"):
        bn.fit(Unsaved(), blobs, STEADY, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"^training changes the buffer centre"):
        bn.fit(Unsaved(), blobs, dataclasses.replace(STEADY, early_stopping_patience=1))


@pytest.mark.parametrize("kind", [Warming, Drawing])
def test_what_is_not_in_the_state_goes_on_with_what_is_given(kind, blobs, tmp_path):
    run = bn.fit(kind(), blobs, STEADY, out=tmp_path / "run")
    with pytest.raises(TrainingInterrupted):
        bn.fit(kind(), blobs, STEADY, out=tmp_path / "stopped", monitor=InterruptAt(1, 4))
    resumed = bn.resume(tmp_path / "stopped", blobs, network=kind())
    assert not same_state(resumed.network, run.network)
    if kind is Warming:  # what is drawn in training alone changes no evaluation
        with pytest.warns(BatchnormWarning, match=r"^the loss on the test set is .* when the run ended: the network"):
            evaluate_run(tmp_path / "run", blobs, network=kind())
        evaluate_run(tmp_path / "run", blobs, "train", network=kind())


def test_observers_move_in_a_later_evaluation(blobs, tmp_path):
    run = bn.fit(Observed(), blobs, STEADY, out=tmp_path / "run")
    loaded = bn.load_run(tmp_path / "run", network=Observed()).network
    bn.evaluate(loaded, blobs.test)
    assert not same_state(loaded, run.network)


class Conjugated(Around):
    def __init__(self):
        super().__init__()
        turned = torch.randn(6, dtype=torch.complex64).conj()
        self.register_buffer("turned", turned)
        self.register_buffer("negated", turned.imag)

    def forward(self, x):
        return self.net(x + self.negated + self.turned.imag)


def test_buffers_with_the_bits_of_conjugation_and_negation_are_saved(blobs, tmp_path):
    begun = Conjugated()
    assert begun.turned.is_conj()
    assert begun.negated.is_neg()
    run = bn.fit(begun, blobs, PLAIN, out=tmp_path / "run")
    assert same_state(bn.load_run(tmp_path / "run", network=Conjugated()).network, run.network)


def test_extra_state_that_cannot_be_saved_is_named_before_anything_is_made(blobs, tmp_path):
    with pytest.raises(InputError, match="state has _extra_state, a dict, and only dense tensors are saved"):
        bn.fit(ExtraDict(), blobs, PLAIN, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    stopping = dataclasses.replace(PLAIN, early_stopping_patience=1, epochs=5)
    assert bn.fit(ExtraDict(), blobs, stopping).test_accuracy > 0.5


def test_grown_buffers_are_those_of_the_best_evaluation(blobs):
    run = bn.fit(Growing(), blobs, dataclasses.replace(STEADY, early_stopping_patience=1, epochs=30))
    assert run.results["stopped_early"]
    best = max(run.history, key=lambda record: record["validation_accuracy"])
    assert len(run.network.seen) == (best["epoch"] + 1) * len(blobs.train)


def test_numbers_of_numpy_reach_the_files(blobs, tmp_path):
    network = bn.DenseNetwork(
        np.int64(6), np.array([8, 4]), np.int32(3), dropout=np.float32(0.25), bn_eps=np.float64(0.01)
    )
    config = bn.TrainingConfig(
        epochs=np.int64(1), batch_size=np.uint8(50), learning_rate=np.float32(0.1), seed=np.int8(3)
    )
    seeded = dataclasses.replace(blobs, split_seed=np.int64(0))
    bn.fit(network, seeded, config, out=tmp_path / "run")
    assert same_weights(bn.load_run(tmp_path / "run").network, network)
    for wrong in (6.5, "6", None):
        with pytest.raises(InputError, match=r"in_features is .*, expected a whole number"):
            bn.DenseNetwork(wrong, (4,), 3)


def inside(name):
    def weights(blobs, config):
        network = make_network(blobs, config)
        with SURROUNDINGS[name]():
            return bn.fit(network, blobs, config).network

    return weights


def in_threads(blobs, config):
    with ThreadPoolExecutor(3) as pool:
        first, *others = (pool.submit(bn.fit, make_network(blobs, config), blobs, config) for _ in range(3))
        assert all(same_weights(other.result().network, first.result().network) for other in others)
        return first.result().network


def inside_vmap(blobs, config):
    network = make_network(blobs, config)
    torch.vmap(lambda x: (bn.fit(network, blobs, config), x)[1])(torch.ones(2))


def inside_fake_tensors(blobs, config):
    network = make_network(blobs, config)
    with FakeTensorMode():
        bn.fit(network, blobs, config)


def inside_cached(blobs, config):
    network = make_network(blobs, config)
    with torch.nn.utils.parametrize.cached():
        bn.fit(network, blobs, config)


CALLED = {
    "inside `torch.autocast`": inside("autocast to bfloat16"),
    "inside `torch.inference_mode`": inside("inference_mode"),
    "inside `torch.no_grad`": inside("no_grad"),
    "with another default dtype": inside("default dtype float64"),
    "with another default device": inside("default device meta"),
    "with deterministic algorithms": inside("deterministic algorithms"),
    "in anomaly mode": inside("anomaly mode"),
    "with flushed denormal numbers": inside("flushed denormals"),
    'with `np.errstate(all="raise")`': inside("numpy raises"),
    "in several threads at once": in_threads,
    "inside `torch.vmap`, `torch.func.grad` and others": inside_vmap,
    "inside `FakeTensorMode`": inside_fake_tensors,
    "inside `torch.nn.utils.parametrize.cached`": inside_cached,
}


def test_each_row_of_the_table_of_surroundings_has_its_test():
    assert list(rows("Surroundings")) == list(CALLED)


@pytest.mark.parametrize("row", CALLED)
def test_surroundings_give_what_the_table_says(row, blobs):
    config = dataclasses.replace(PLAIN, dropout=0.3)
    if rows("Surroundings")[row].startswith("the same weights"):
        expected = bn.fit(make_network(blobs, config), blobs, config).network
        assert same_weights(CALLED[row](blobs, config), expected)
    else:
        assert rows("Surroundings")[row] == "an `InputError`"
        with pytest.raises(InputError, match="call it outside"):
            CALLED[row](blobs, config)
