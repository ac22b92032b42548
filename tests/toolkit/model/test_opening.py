"""Every verb on a model inside every wrapper, in each mode of either: the wrapper makes no difference."""

import copy
import warnings

import pytest
import torch
from torch import nn

import batchnorm as bn

BATCHES = [torch.randn(16, 3, generator=torch.Generator().manual_seed(i)) * 2 + 1 for i in range(3)]


class Elsewhere(nn.Module):
    """A wrapper of someone's own, which is a model like any other: its parts have its names."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


def compiled(model):
    return torch.compile(model, backend="eager")


def averaged(model):
    return torch.optim.swa_utils.AveragedModel(model, use_buffers=True)


WRAPPERS = {
    "plain": lambda model: model,
    "DataParallel": nn.DataParallel,
    "compiled": compiled,
    "averaged": averaged,
    "compiled in DataParallel": lambda model: nn.DataParallel(compiled(model)),
    "DataParallel, averaged": lambda model: averaged(nn.DataParallel(model)),
}


def build(wrap, model_training, wrapper_training):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    given = WRAPPERS[wrap](model.train(model_training))
    given.training = wrapper_training  # the wrapper's own flag alone, as its construction leaves it
    inside = given.module if hasattr(given, "module") else given
    return given, next(m for m in inside.modules() if type(m) is nn.Sequential)


OWN_FLAG = [wrap for wrap in WRAPPERS if wrap not in ("plain", "compiled")]  # a compiled model has the model's flag
CASES = [(wrap, mode, mode) for wrap in WRAPPERS for mode in (True, False)]
CASES += [(wrap, mode, not mode) for wrap in OWN_FLAG for mode in (True, False)]


@pytest.fixture(params=CASES, ids=str)
def given(request):
    return build(*request.param)


@pytest.fixture
def plain(given):
    """The same model without a wrapper: what every verb is compared with."""
    return copy.deepcopy(given[1])


def modes(model):
    return [module.training for module in model.modules()]


def test_recalibrate_gives_the_same_statistics(given, plain):
    before = modes(given[0])
    done, expected = bn.recalibrate(given[0], BATCHES), bn.recalibrate(plain, BATCHES)
    assert list(done.changes) == list(expected.changes) == ["1", "3"]
    assert done.frozen == expected.frozen == ()
    assert modes(given[0]) == before
    for name in ("1", "3"):
        assert torch.equal(given[1].get_submodule(name).running_var, plain.get_submodule(name).running_var)
    again = bn.diagnose(given[0], BATCHES)
    assert "never-updated" not in {finding.cause for finding in again.findings}


def test_diagnose_finds_the_same_and_its_remedies_run(given, plain):
    found, expected = bn.diagnose(given[0], BATCHES), bn.diagnose(plain, BATCHES)
    assert [(f.layer, f.cause) for f in found.findings] == [(f.layer, f.cause) for f in expected.findings]
    for finding in found.findings:
        if "get_submodule" in finding.remedy or finding.remedy.startswith("batchnorm."):
            exec(finding.remedy, {"batchnorm": bn, "model": given[0], "batches": BATCHES})
    assert bn.diagnose(given[0], BATCHES).findings == ()


@pytest.mark.parametrize("cause", ["momentum", "dead-channels", "not-tracking", "frozen-but-drifting"])
@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_remedy_names_the_layer_as_it_is_reached_from_what_was_given(wrap, cause):
    given, model = build(wrap, False, False)
    bn.recalibrate(given, BATCHES)
    layer = model[1]
    with torch.no_grad():
        if cause == "momentum":
            layer.momentum = 0.99
        elif cause == "dead-channels":
            layer.weight[0] = 0
        elif cause == "not-tracking":
            layer.track_running_stats = False
        else:
            layer.running_mean += 5
            bn.freeze(layer)
    finding = next(finding for finding in bn.diagnose(given, BATCHES).findings if finding.cause == cause)
    exec(finding.remedy.partition(", to train")[0], {"batchnorm": bn, "model": given, "batches": BATCHES})
    assert cause not in {finding.cause for finding in bn.diagnose(given, BATCHES).findings}


def test_sites_have_the_names_of_the_model_inside(given, plain):
    sites = bn.find_sites(given[0], BATCHES)
    assert [str(site) for site in sites] == [str(site) for site in bn.find_sites(plain, BATCHES)]
    assert [site.layer for site in sites] == [given[1][1], given[1][3]]


def test_fold_goes_by_the_mode_of_the_model_inside(given, plain):
    if plain.training:
        with pytest.raises(bn.InputError, match="the model is in training mode"):
            bn.fold(given[0])
    else:
        lean = bn.fold(given[0])
        assert lean.folding.folded == bn.fold(plain).folding.folded
        torch.testing.assert_close(lean(BATCHES[0]), plain(BATCHES[0]), rtol=1e-4, atol=1e-5)


def test_what_changes_layers_changes_those_inside_and_back(given):
    model, inside = given
    assert bn.freeze(model).names == ("1", "3")
    assert not inside.train()[1].training
    assert bn.unfreeze(model) == ["1", "3"]
    assert inside[1].training
    assert bn.synchronize(model) == bn.unsynchronize(model) == ["1", "3"]
    assert type(inside[1]) is nn.BatchNorm1d
    inside[3].track_running_stats, inside[3].running_mean, inside[3].running_var = False, None, None
    assert bn.track_statistics(model) == ["3"]
    assert bn.recalibrate(model, BATCHES).frozen == ()


def test_a_part_in_inference_of_a_model_in_training_counts_as_frozen_all_the_same():
    model = Elsewhere(nn.Sequential(nn.BatchNorm1d(3)).eval())
    assert bn.recalibrate(model, BATCHES).frozen == ("module.0",)


@pytest.mark.parametrize(
    "verb",
    [
        bn.find_sites, bn.fold, bn.freeze, bn.unfreeze, bn.synchronize, bn.unsynchronize, bn.track_statistics,
        lambda model: bn.recalibrate(model, BATCHES), lambda model: bn.diagnose(model, BATCHES),
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused(verb):
    with pytest.raises(bn.InputError, match=r"^model is a dict, expected a torch.nn.Module$"):
        verb({})


LAZY = {
    "one": (nn.Sequential(nn.LazyBatchNorm1d()), "layer '0' is not yet initialised"),
    "two": (nn.Sequential(nn.LazyBatchNorm1d(), nn.LazyBatchNorm1d()), "layers '0', '1' are not yet initialised"),
    "itself": (nn.LazyBatchNorm1d(), "this layer is not yet initialised"),
}


@pytest.mark.parametrize("verb", [bn.freeze, bn.synchronize, bn.track_statistics, bn.fold])
@pytest.mark.parametrize("case", LAZY)
def test_lazy_layers_are_refused_in_one_wording(verb, case):
    model, message = LAZY[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.eval()
    with pytest.raises(bn.InputError, match=f"^{message}: run the model on one batch first$"):
        verb(model)


class Unused(nn.Module):
    """Has a lazy layer that no input reaches."""

    def __init__(self):
        super().__init__()
        self.norm, self.unused = nn.BatchNorm1d(3), nn.LazyBatchNorm1d()

    def forward(self, x):
        return self.norm(x)


@pytest.mark.parametrize("verb", [bn.recalibrate, bn.diagnose])
def test_a_lazy_layer_that_no_batch_reaches_is_named(verb):
    with pytest.raises(
        bn.InputError, match=r"^layer 'unused' is not yet initialised: run the model on one batch first$"
    ):
        verb(Unused().eval(), BATCHES)


@pytest.mark.parametrize("verb", [bn.recalibrate, bn.diagnose])
def test_batches_without_examples_are_refused(verb):
    with pytest.raises(bn.InputError, match=r"^all batches are empty: population statistics need"):
        verb(nn.Sequential(nn.BatchNorm1d(3)).eval(), [torch.empty(0, 3)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_channel_that_never_varies_is_recalibrated_without_eps_too(dtype):
    model = nn.Sequential(nn.BatchNorm1d(2, eps=0)).to(dtype).eval()
    x = torch.tensor([[1.0, 3.0], [2.0, 3.0]], dtype=dtype)
    assert list(bn.recalibrate(model, [x]).changes) == ["0"]
    assert model[0].running_mean.tolist() == [1.5, 3.0]
