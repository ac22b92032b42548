"""Where numba is missing the trainer trains through autograd, says so once, and says what to install."""

import dataclasses

import pytest
import torch

import batchnorm as bn
from batchnorm import InputError
from batchnorm.kernels import draws
from batchnorm.kernels.draws import add_noise_, drawing_from, drawn_mask_like
from batchnorm.training.engines import engine
from helpers import PLAIN, make_network
from processes import run_afresh

WARNING = "training through autograd, which is slower: the fused engine needs numba (pip install 'batchnorm[fast]')"
SETUP = f"""
import sys, warnings
import numpy as np
import torch
torch.set_num_threads(1)
warnings.simplefilter("error", UserWarning)
import batchnorm as bn
WARNING = {WARNING!r}
labels = np.arange(200) % 2
inputs = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32) + 2 * labels[:, None]
data = bn.Dataset.from_arrays(inputs, labels)

class Listener(bn.Monitor):
    heard = []

    def warn(self, message):
        self.heard.append(message)

def trained(**options):
    config = bn.TrainingConfig(hidden_layer_sizes=(5,), epochs=5, **options)
    return bn.fit(bn.DenseNetwork.from_config(config, 4, 2), data, config, monitor=Listener())

def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))
"""


@pytest.fixture
def run_without(tmp_path):
    """Run code in a process of its own that has no numba; return its standard output and standard error."""
    return lambda code: run_afresh(code, tmp_path, missing=["numba"])


def test_fit_trains_through_autograd_and_tells_the_monitor_once(run_without):
    code = """
bn.fit(torch.nn.Linear(4, 2), data, bn.TrainingConfig(epochs=1), monitor=Listener())  # numba would not help here
trained(engine="autograd", dropout=0.5, input_noise=0.1)  # and nobody asks for it here
assert Listener.heard == [], Listener.heard
for heard in (1, 0):  # without a monitor it is Python's warning
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        bn.fit(bn.DenseNetwork(4, (5,), 2), data, bn.TrainingConfig(epochs=1))
    assert [str(w.message) for w in seen] == heard * [WARNING], seen
auto = trained(input_noise=0.1)
assert Listener.heard == [WARNING], Listener.heard
again = trained(input_noise=0.1, engine="autograd")
assert same(auto.network.state_dict(), again.network.state_dict())
trained()
assert len(Listener.heard) == 1, Listener.heard
assert auto.test_accuracy > 0.8, auto.test_accuracy
"""
    run_without(SETUP + code)


def test_the_estimators_warn_once_and_draw_by_their_random_state(run_without):
    code = """
def fit():
    classifier = bn.BatchNormClassifier((5,), batch_size=20, epochs=15, random_state=0, dropout=0.2, input_noise=0.1)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        classifier.fit(inputs, labels)
    return classifier, [w for w in seen if "numba" in str(w.message)]

classifier, seen = fit()
assert [str(w.message) for w in seen] == [WARNING], seen
assert seen[0].category is UserWarning
assert seen[0].filename == "<string>", seen[0].filename  # the user's own line
assert classifier.score(inputs, labels) > 0.8
again, seen = fit()
assert not seen, seen
assert same(classifier.network_.state_dict(), again.network_.state_dict())
"""
    run_without(SETUP + code)


def test_the_command_line_prints_one_line(run_without):
    words = ["batchnorm", "train", "digits", "--epochs", "1", "--threads", "1"]
    printed, said = run_without(f"import sys; sys.argv = {words}; from batchnorm.cli import main; main()")
    assert said == f"batchnorm: warning: {WARNING}\n"
    assert printed.splitlines()[-1].startswith("Test acc: ")


def test_numba_is_not_imported_before_it_is_used(run_without):
    code = """
del sys.modules["numba"]  # it may be imported, and nothing else has done it
import batchnorm.training, batchnorm.network, batchnorm.evaluation, batchnorm.estimator
trained(engine="autograd", normalize_logits=True)
bn.fit(torch.nn.Linear(4, 2), data, bn.TrainingConfig(epochs=1))
assert "numba" not in sys.modules
"""
    run_without(SETUP + code)


def test_the_fused_engine_says_what_it_needs(blobs, monkeypatch):
    monkeypatch.setattr(engine, "compiled_kernels", lambda: None)
    message = r"engine fused needs numba on the CPU: pip install 'batchnorm\[fast\]', or take engine autograd or auto"
    with pytest.raises(InputError, match=f"^{message}$"):
        bn.fit(make_network(blobs, PLAIN), blobs, dataclasses.replace(PLAIN, engine="fused"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_draws_in_place_of_the_kernels(dtype, monkeypatch):
    monkeypatch.setattr(draws, "compiled_kernels", lambda: None)

    def draw():
        noise = torch.zeros(400, 50, dtype=dtype)
        with drawing_from(torch.Generator().manual_seed(7)):
            add_noise_(noise, 0.5)
            return drawn_mask_like(noise, 0.25), noise

    mask, noise = draw()
    assert abs((mask == 0).double().mean() - 0.25) < 0.01
    assert mask.unique().tolist() == [0, pytest.approx(4 / 3)]
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(0.5, rel=0.02)
    torch.manual_seed(0)  # what others draw makes no difference
    again_mask, again_noise = draw()
    assert torch.equal(mask, again_mask)
    assert torch.equal(noise, again_noise)
