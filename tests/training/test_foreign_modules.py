"""Modules of someone else's: what is wrapped, compiled, hooked or cannot be copied is trained to the end."""

import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import batchnorm as bn
from batchnorm import InputError
from batchnorm.training import fit_seeds
from helpers import PLAIN, Around, plain

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit",
    "ignore::torch.jit.TracerWarning",
    "ignore:Guards may run slower:RuntimeWarning",  # on Python 3.13.0
    "ignore:.*weight_norm.* is deprecated:FutureWarning",
)


def compiled():
    return torch.compile(plain(), backend="eager")


def with_first(change):
    network = plain()
    network[0] = change(network[0])
    return network


class KeepsAnActivation(Around):
    def forward(self, x):
        self.last = self.net[:2](x)
        return self.net[2:](self.last)


class CannotBeCopied(Around):
    def __init__(self):
        super().__init__()
        self.lock, self.generator = threading.Lock(), torch.Generator()
        self.rows = (row for row in "abc")


class OneNormTwice(Around):
    def __init__(self):
        super().__init__()
        self.again = self.net[1]

    def forward(self, x):
        return self.net[2:](self.again(self.net[1](self.net[0](x))))


class NormOfItsOwn(nn.Module):
    """Normalises in inference alone."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(6))
        self.register_buffer("running_var", torch.ones(6))

    def forward(self, x):
        return x if self.training else (x - self.running_mean) / self.running_var.sqrt()


def renamed_in_its_state():
    network = plain()

    def rename(module, state, prefix, metadata):
        for name in list(state):
            state[f"mine.{name}"] = state.pop(name)

    def rename_back(module, state, *args):
        for name in list(state):
            state[name.removeprefix("mine.")] = state.pop(name)

    network._register_state_dict_hook(rename)
    network.register_load_state_dict_pre_hook(rename_back)
    return network


def copied_in_its_state():
    network = plain()

    def copy(module, state, prefix, metadata):
        state.update({name: tensor.clone() for name, tensor in state.items()})

    network._register_state_dict_hook(copy)
    return network


# And the name of their batch norm's statistics.
WITH_STATISTICS = {
    "compiled": (compiled, "_orig_mod.1"),
    "DataParallel": (lambda: nn.DataParallel(plain()), "module.1"),
    "DataParallel of a compiled one": (lambda: nn.DataParallel(compiled()), "module._orig_mod.1"),
    "a compiled part": (lambda: nn.Sequential(compiled()), "0._orig_mod.1"),
    "AveragedModel": (lambda: torch.optim.swa_utils.AveragedModel(plain()), "module.1"),
    "a compiled DenseNetwork": (lambda: torch.compile(bn.DenseNetwork(6, (8,), 3), backend="eager"), "_orig_mod.1"),
    "keeps an activation": (KeepsAnActivation, "net.1"),
    "cannot be copied": (CannotBeCopied, "net.1"),
    "one norm twice": (OneNormTwice, "net.1"),
    "weight_norm by a hook": (lambda: with_first(nn.utils.weight_norm), "1"),
    "weight_norm": (lambda: with_first(parametrizations.weight_norm), "1"),
    "spectral_norm by a hook": (lambda: with_first(nn.utils.spectral_norm), "1"),
    "spectral_norm": (lambda: with_first(parametrizations.spectral_norm), "1"),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm.convert_sync_batchnorm(plain()), "1"),
    "a norm of its own": (lambda: nn.Sequential(NormOfItsOwn(), plain()), "1.1"),
    "traced by fx": (lambda: torch.fx.symbolic_trace(plain()), "1"),
    "renamed in its state": (renamed_in_its_state, "mine.1"),
    "copied in its state": (copied_in_its_state, "1"),
}


@pytest.mark.parametrize("kind", WITH_STATISTICS)
def test_population_statistics_go_by_the_networks_own_names(kind, blobs, tmp_path):
    make, name = WITH_STATISTICS[kind]
    network = make()
    run = bn.fit(network, blobs, PLAIN, out=tmp_path / "run")
    assert list(run.population) == [f"{name}.running_mean", f"{name}.running_var"]
    assert "note" not in run.results

    # The network is left with its running averages, and measures the results with either.
    assert bn.evaluate(network, blobs.test).loss == run.results["test"]["running"]["loss"]
    assert network.load_state_dict(run.population, strict=False).unexpected_keys == []
    assert bn.evaluate(network, blobs.test).loss == run.results["test"]["population"]["loss"]

    loaded = bn.load_run(tmp_path / "run", network=make())
    assert all(torch.equal(loaded.population[key], value) for key, value in run.population.items())
    assert bn.evaluate(loaded.network, blobs.test).loss == run.results["test"]["running"]["loss"]


def test_statistics_outside_of_the_state_are_measured_but_have_no_name(blobs):
    network = plain()
    network[1].register_buffer("running_mean", torch.zeros(8), persistent=False)
    run = bn.fit(network, blobs, PLAIN)
    assert list(run.population) == ["1.running_var"]
    assert set(run.results["test"]) == {"running", "population"}


class NotToBeLookedAt(Around):
    """Fails where its batch norm is watched."""

    def forward(self, x):
        if self.net[1]._forward_pre_hooks:
            raise OSError("not to be\nlooked at")
        return super().forward(x)


class Warned(bn.Monitor):
    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)


WITHOUT_STATISTICS = {
    "scripted": (lambda: torch.jit.script(plain()), "the model is TorchScript"),
    "traced": (lambda: torch.jit.trace(plain(), torch.zeros(4, 6)), "the model is TorchScript"),
    "a scripted part": (lambda: nn.Sequential(torch.jit.script(plain())), "part '0' of the model is TorchScript"),
    "raises": (NotToBeLookedAt, "OSError: not to be looked at"),
}


@pytest.mark.parametrize("kind", WITHOUT_STATISTICS)
def test_where_there_are_no_population_statistics_the_results_say_why(kind, blobs, tmp_path):
    make, why = WITHOUT_STATISTICS[kind]
    network, monitor = make(), Warned()
    run = bn.fit(network, blobs, PLAIN, out=tmp_path / "run", monitor=monitor)
    assert run.population == {}
    assert set(run.results["test"]) == {"running"}
    assert run.results["note"].startswith(f"no population statistics: {why}")
    assert monitor.warnings == [run.results["note"]]
    assert run.results["note"] in str(run)
    assert bn.evaluate(network, blobs.test).loss == run.results["test"]["running"]["loss"]
    loaded = bn.load_run(tmp_path / "run", network=make())
    assert loaded.results == run.results


def test_seeds_of_which_some_have_no_population_statistics_are_summarised(blobs, tmp_path, monkeypatch):
    from batchnorm.training import fitting, population

    measured = []

    def measure(network, *examples):
        measured.append(network)
        whole = population.measure_population(network, *examples)
        return whole if len(measured) == 1 else population.Population(obstacle="no population statistics: a test")

    monkeypatch.setattr(fitting, "measure_population", measure)
    with pytest.warns(UserWarning, match="no population statistics: a test"):
        fit_seeds(blobs, PLAIN, 2, out=tmp_path / "runs")
    assert (tmp_path / "runs" / "summary.json").is_file()


def with_constant_column(dataset, value):
    parts = [part.batch(slice(None)) for part in dataset.parts.values()]
    parts = [bn.Examples(torch.cat([x, torch.full((len(x), 1), value)], 1), labels) for x, labels in parts]
    return bn.Dataset("constant", *parts, class_names=dataset.class_names)


@pytest.mark.parametrize("value", [1e4, 1e8, -1e12])
def test_a_large_constant_column_gets_the_best_statistics_that_float32_has(value, blobs):
    """What reaches the batch norm is itself as coarse as its mean is rounded to."""
    dataset = with_constant_column(blobs, value)
    run = bn.fit(bn.DenseNetwork(7, (8,), 3, generator=torch.Generator().manual_seed(0)), dataset, PLAIN)
    assert set(run.results["test"]) == {"running", "population"}
    assert "note" not in run.results
    x = dataset.train.inputs @ run.network[0].weight.detach().T
    assert torch.equal(run.population["1.running_mean"], x.double().mean(0).float())


def test_what_would_fail_after_the_training_fails_before_it(blobs, tmp_path):
    class NoSingleExample(Around):
        def forward(self, x):
            return super().forward(x).squeeze(0)

    class NoRealBatch(Around):
        def forward(self, x):
            if len(x) > 100:
                raise MemoryError("too much")
            return super().forward(x)

    one = bn.Examples(blobs.test.inputs[:1], blobs.test.labels[:1])
    with_one = bn.Dataset("one", blobs.train, blobs.validation, one, class_names=blobs.class_names)
    for network, dataset, message in (
        (NoSingleExample(), with_one, r"turns a batch of 1 into \(3,\), expected logits of shape \(1, 3\)"),
        (NoRealBatch(), blobs, r"cannot take inputs of shape \(240, 6\): MemoryError: too much"),
        (plain().requires_grad_(False), blobs, "no parameter of the network can be trained: unfreeze some"),
        (torch.jit.freeze(torch.jit.script(plain().eval())), blobs, "no parameter of the network can be trained"),
        (exported(), blobs, "cannot be put into training and inference mode: NotImplementedError"),
    ):
        with pytest.raises(InputError, match=message):
            bn.fit(network, dataset, PLAIN, out=tmp_path / "run")
        assert list(tmp_path.iterdir()) == []


def exported():
    dims = ({0: torch.export.Dim("batch", min=2)},)
    return torch.export.export(plain(), (torch.zeros(4, 6),), dynamic_shapes=dims).module()


def test_a_mask_may_be_infinite_and_frozen_weights_of_any_type(blobs):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)
            self.mask = nn.Parameter(torch.full((3,), -torch.inf), requires_grad=False)
            self.packed = nn.Parameter(torch.zeros(2).to(torch.float8_e4m3fn), requires_grad=False)
            self.sparse = nn.Parameter(torch.eye(2).to_sparse(), requires_grad=False)

        def forward(self, x):
            return torch.where(x[:, :3] > 9, self.mask, self.linear(x))

    assert bn.fit(Masked(), blobs, PLAIN).test_accuracy > 0.5


def test_hooks_on_all_modules_are_called(blobs):
    network = bn.DenseNetwork(6, (8,), 3)
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, _, output: 3 * output if isinstance(module, nn.Linear) else None
    )
    try:
        run = bn.fit(network, blobs, PLAIN)
        logits = network(blobs.test.inputs)
    finally:
        handle.remove()
    loss = nn.functional.cross_entropy(logits, blobs.test.labels)
    assert run.results["test"]["running"]["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_population_statistics_that_give_no_loss_are_noted_and_lose_nothing(blobs, monkeypatch):
    monkeypatch.setattr("batchnorm.training.population.evaluate", lambda *_: SimpleNamespace(loss=float("nan")))
    with pytest.warns(UserWarning, match="no population statistics: with them the loss on the test set is nan"):
        run = bn.fit(bn.DenseNetwork(6, (8,), 3), blobs, PLAIN)
    assert run.results["test"].keys() == {"running"}
    assert not run.population
