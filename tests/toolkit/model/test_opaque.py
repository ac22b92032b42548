"""Parts that cannot be looked into: every verb works around those without batch norm, and refuses the others."""

import copy

import pytest
import torch
from torch import nn

import batchnorm as bn

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)) * 2 + 1
VERBS = {
    "find_sites": bn.find_sites,
    "find_sites on a batch": lambda model: bn.find_sites(model, [X]),
    "diagnose": lambda model: bn.diagnose(model, [X]),
    "recalibrate": lambda model: bn.recalibrate(model, [X, X + 1]),
    "recalibrate, pass by pass": lambda model: bn.recalibrate(model, [X, X + 1], memory=0),
    "fold": lambda model: bn.fold(model, X),
    "freeze": bn.freeze,
    "unfreeze": lambda model: (bn.freeze(model), bn.unfreeze(model)),
    "synchronize": bn.synchronize,
    "unsynchronize": lambda model: (bn.synchronize(model), bn.unsynchronize(model)),
    "track_statistics": bn.track_statistics,
}
pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of torch.jit, and of what it does itself


class FunctionalNorm(nn.Module):
    def forward(self, x):
        if x.dim() > 1:
            x = nn.functional.batch_norm(x, None, None, training=True)
        return x


def normal(kind=nn.BatchNorm1d):
    return nn.Sequential(kind(4) if kind is nn.BatchNorm1d else kind(), nn.ReLU()).eval()


def plain():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()


def around(part):
    """Return a model in inference that holds a part."""
    parts = [nn.Linear(4, 4), nn.BatchNorm1d(4), part, nn.Linear(4, 4), nn.BatchNorm1d(4)]
    model = nn.Sequential(*parts)
    for module in (model, *parts[:2], *parts[3:]):
        module.training = False
    return model


def scripted(module):
    return torch.jit.script(module)


def traced(module):
    return torch.jit.trace(module, X)


def exported(module):
    return torch.export.export(module, (X,), strict=False).module()


def unflattened(module):
    return torch.export.unflatten(torch.export.export(module, (X,), strict=False))


MAKERS = {
    "scripted": scripted, "traced": traced, "exported": exported, "unflattened": unflattened,
    "scripted and frozen": lambda module: torch.jit.freeze(scripted(module)),
    "symbolically traced": torch.fx.symbolic_trace,
}  # fmt: skip


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("verb", VERBS)
def test_a_part_without_batch_norm_is_worked_around(verb, make):
    torch.manual_seed(0)
    VERBS[verb](around(MAKERS[make](plain())))


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_behind_such_a_part_is_measured_and_folded_as_always(make):
    torch.manual_seed(0)
    part = plain()
    model, expected = around(MAKERS[make](part)), around(part)
    expected.load_state_dict({f"{i}.{k}": v for i in (0, 1, 3, 4) for k, v in model[i].state_dict().items()}, False)
    done, wanted = (bn.recalibrate(m, [X, X + 1]) for m in (model, expected))
    assert list(done.changes) == list(wanted.changes) == ["1", "4"]
    torch.testing.assert_close(model[4].running_var, expected[4].running_var)
    lean = bn.fold(model, X)
    assert lean.folding.folded == {"1": "0", "4": "3"}
    torch.testing.assert_close(lean(X), expected(X), rtol=1e-4, atol=1e-5)
    site = bn.find_sites(model, [X])[0]
    assert site.fed_by == ("0",)
    assert not set(site.feeds) & {"3", "4", "output"}, "a part between two layers is overlooked"


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, FunctionalNorm])
@pytest.mark.parametrize("make", ["scripted", "traced"])
def test_torchscript_that_holds_batch_norm_is_refused(verb, make, kind):
    model = around(MAKERS[make](normal(kind)))
    with pytest.raises(bn.InputError, match=r"^part '2' of the model is TorchScript .* use the original model, before"):
        VERBS[verb](model)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel])
@pytest.mark.parametrize("make", ["scripted", "traced", "scripted and frozen"])
def test_a_model_wholly_in_torchscript_is_refused(verb, wrap, make):
    model = wrap(MAKERS[make](normal()))
    with pytest.raises(bn.InputError, match=r"^the model is TorchScript .* use the original model, before torch.jit"):
        VERBS[verb](model)


def test_a_function_of_torchscript_is_no_model():
    function = torch.jit.trace(nn.functional.relu, X)
    with pytest.raises(bn.InputError, match=r"expected a torch.nn.Module: give the original model, before scripting"):
        bn.diagnose(function, [X])


@pytest.fixture(scope="module")
def exports():
    program = torch.export.export(normal(), (X,), strict=False)
    return {
        "module": program.module(),
        "unflattened": torch.export.unflatten(program),
        "decomposed": program.run_decompositions().module(),
        "program": program,
        "functional": torch.export.export(normal(FunctionalNorm), (X,), strict=False).module(),
    }


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("export", ["module", "unflattened", "decomposed", "functional"])
@pytest.mark.parametrize("whole", [True, False])
def test_exported_batch_norm_is_refused(exports, verb, export, whole):
    model = exports[export] if whole else around(exports[export])
    named = "(the model|part '0' of the model)" if whole else r"part '2(\.0)?' of the model"
    with pytest.raises(
        bn.InputError, match=f"^{named} is a graph of operators .* use the model that it was made from$"
    ):
        VERBS[verb](model)


@pytest.mark.parametrize("verb", VERBS)
def test_an_exported_program_is_no_model(exports, verb):
    with pytest.raises(
        bn.InputError, match=r"ExportedProgram, expected a torch.nn.Module: give the model that was exp"
    ):
        VERBS[verb](exports["program"])


@pytest.mark.parametrize("verb", VERBS)
def test_what_was_symbolically_traced_keeps_its_layers(verb):
    VERBS[verb](torch.fx.symbolic_trace(around(plain())).eval())
    VERBS[verb](around(torch.fx.symbolic_trace(normal())))


class OwnNorm(nn.BatchNorm1d):
    """Not torch's own, so that symbolic tracing looks into it."""

    def forward(self, x):
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


def test_a_layer_that_symbolic_tracing_has_taken_apart_is_refused():
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), OwnNorm(4)).eval())
    assert not any(isinstance(module, nn.BatchNorm1d) for module in model.modules())
    with pytest.raises(
        bn.InputError, match=r"^the model is a graph of operators .* use the model that it was made from"
    ):
        bn.diagnose(model, [X])


class Counting(nn.Module):
    """Changes all that it can when it runs."""

    def __init__(self):
        super().__init__()
        self.count, self.last = 0, torch.zeros(2)
        self.register_buffer("total", torch.zeros(1))

    def forward(self, x):
        self.count += 1
        self.last = self.last + 1
        self.total += x.sum()
        return x


@pytest.mark.parametrize("verb", VERBS)
def test_what_torchscript_keeps_is_afterwards_what_it_was(verb):
    model = around(torch.jit.script(Counting()))
    part = model[2]
    total = part.total
    VERBS[verb](model)
    assert (part.count, part.last.tolist(), part.training) == (0, [0, 0], True)
    assert part.total is total
    assert total.tolist() == [0]
    assert copy.deepcopy(part)(X) is not None
