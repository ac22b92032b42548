"""A training that goes on from any of its checkpoints ends with the bits that it would have ended with."""

import json
import signal
from contextlib import nullcontext, suppress

import numpy as np
import pytest
import torch
from scipy import sparse

from batchnorm import BatchNormClassifier, BatchNormRegressor, InputError
from batchnorm.errors import TrainingInterrupted
from batchnorm.training import Monitor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 4))
LABELS = np.where(RNG.random(90) < 0.2, RNG.integers(3, size=90), (X[:, 0] > 0) + (X[:, 1] > 0.5))
VALUES = X[:, 0] * 3 + RNG.normal(size=90)
WEIGHTS = RNG.integers(1, 4, size=90).astype(float)
SMALL = {"hidden_layer_sizes": (6,), "batch_size": 20, "random_state": 0}
ADAPTIVE = {"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 2, "tol": 0.01, "max_iter": 40}

# name: estimator, targets, weights, parameters
CASES = {
    "one cycle": (BatchNormClassifier, LABELS, None, {"epochs": 3}),
    "dropout and noise": (BatchNormClassifier, LABELS, None, {"epochs": 3, "dropout": 0.3, "input_noise": 0.2}),
    "weights": (BatchNormRegressor, VALUES, WEIGHTS, {"epochs": 3}),
    "early stopping": (
        BatchNormClassifier, LABELS, None,
        {"early_stopping": True, "n_iter_no_change": 3, "epochs": 40, "dropout": 0.2, "learning_rate_init": 0.3},
    ),
    "adaptive": (BatchNormRegressor, VALUES, None, {**ADAPTIVE, "momentum": 0.5, "learning_rate_init": 0.2}),
    "all at once": (
        BatchNormRegressor, VALUES, WEIGHTS,
        {**ADAPTIVE, "early_stopping": True, "dropout": 0.1, "input_noise": 0.1, "learning_rate_init": 0.1},
    ),
    "until nothing improves": (
        BatchNormClassifier, LABELS, None, {"schedule": "constant", "tol": 0.05, "n_iter_no_change": 2}
    ),
    "inverse scaling": (
        BatchNormRegressor, VALUES, None,
        {"solver": "sgd", "learning_rate": "invscaling", "epochs": 3, "statistics": "running"},
    ),
    "a stream": (BatchNormClassifier, LABELS, None, {"shuffle": False, "epochs": 3}),
    "autograd": (BatchNormClassifier, LABELS, None, {"engine": "autograd", "dropout": 0.3, "epochs": 3}),
    "a single batch": (BatchNormRegressor, VALUES, WEIGHTS, {"batch_size": 200, "epochs": 5}),
    "population": (BatchNormClassifier, LABELS, None, {"statistics": "population", "epochs": 2}),
}  # fmt: skip


class Kept:
    """Keeps every checkpoint, after every step, as a file would."""

    is_due = True

    def __init__(self, beginning=None, looks=()):
        self.beginning, self.saved, self.n_interrupted = beginning, [], 0
        self.looks = None if looks is None else list(looks)

    def load(self, network):
        return self.beginning

    def save(self, tensors, state):
        self.saved.append(({name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(state))))

    def load_looks(self):
        return self.looks

    def save_looks(self, looks):
        self.looks = json.loads(json.dumps(looks))

    def interrupted(self):
        self.n_interrupted += 1


def trained(case, checkpoints=None):
    kind, targets, weights, parameters = CASES[case]
    estimator = kind(**{**SMALL, **parameters})
    return estimator._train(X, targets, weights, checkpoints=checkpoints)


def states(kept, **wanted):
    return [at for at in kept.saved if all(at[1][name] == value for name, value in wanted.items())]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", CASES)
def test_every_part_of_a_training_may_be_the_last_one(case):
    expected = trained(case)._to_file()
    kept = Kept()
    assert trained(case, kept)._to_file() == expected  # to save changes nothing
    assert kept.saved[0][1] == {"epoch": 0, "step": 0, "stalled": 0, "shrunk": 1, "is_over": False}
    places = np.unique(np.linspace(0, len(kept.saved) - 1, 6).astype(int))
    for place in places:
        again = Kept(kept.saved[place], kept.looks)  # of which some may be later than the checkpoint
        assert trained(case, again)._to_file() == expected, kept.saved[place][1]
        assert again.looks == kept.looks


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_long_training_is_looked_into_ever_less_often():
    kept = Kept()
    estimator = BatchNormClassifier(epochs=40, **SMALL)._train(X, LABELS, None, checkpoints=kept)
    epochs = [look["epoch"] for look in kept.looks]
    assert epochs == [-1, *range(8), *range(8, 16, 2), *range(16, 32, 4), 32, 39]
    ratios = [layer["update_ratio"] for look in kept.looks[1:] for layer in look["layers"]]
    assert all(0 < ratio < 1 for ratio in ratios)
    last = kept.looks[-1]["layers"][0]
    assert last["weight_norm"] == pytest.approx(estimator.network_[0].weight.norm().item(), rel=1e-4)


def test_sparse_tables_train_the_same_with_looks():
    cells = sparse.random(200, 50, 0.1, "csr", dtype=np.float32, random_state=0)
    labels = (np.asarray(cells.sum(1)).ravel() > 2.4).astype(int)
    files = []
    for looks in ((), None):
        kept = Kept(looks=looks)
        estimator = BatchNormClassifier(epochs=6, random_state=0, batch_size=32)
        files.append(estimator._train(cells, labels, None, checkpoints=kept)._to_file())
        assert (kept.looks is None) == (looks is None)
    assert files[0] == files[1]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_cases_come_to_what_a_checkpoint_holds():
    """Best weights that are not the last ones, a shrunken rate, epochs without improvement, an end before its time."""
    stopping, adaptive, everything = Kept(), Kept(), Kept()
    for case, kept in (("early stopping", stopping), ("adaptive", adaptive), ("all at once", everything)):
        trained(case, kept)
    assert states(stopping, stalled=2)
    assert stopping.saved[-1][1]["epoch"] < 39
    assert not torch.equal(stopping.saved[-1][0]["best.0.weight"], stopping.saved[-1][0]["network.0.weight"])
    assert states(adaptive, shrunk=25)
    assert states(everything, shrunk=5, stalled=1)


def without(part):
    def change(tensors, state):
        for name, tensor in tensors.items():
            if name.startswith(part):
                tensors[name] = torch.zeros_like(tensor)

    return change


def with_state(**values):
    return lambda tensors, state: state.update(values)


def another_generator(tensors, state):
    tensors["course.generator"] = torch.Generator().manual_seed(1).get_state()


def over(tensors, state):
    state.update(is_over=True, step=0)
    tensors["course.step_losses"] = tensors["course.step_losses"][:0]


def worse_scores(tensors, state):
    tensors["course.scores"] -= 1


COUNTS = {
    "network": ("all at once", without("network.0.weight")),
    "running averages": ("inverse scaling", without("network.1.running_mean")),
    "optimizer": ("adaptive", without("optimizer.")),
    "best": ("early stopping", without("best.")),
    "generator": ("dropout and noise", another_generator),
    "losses": ("adaptive", without("course.losses")),
    "losses of steps": ("weights", without("course.step_losses")),
    "scores": ("early stopping", worse_scores),
    "stalled": ("early stopping", with_state(stalled=0)),
    "shrunk": ("adaptive", with_state(shrunk=1)),
    "is_over": ("adaptive", over),
    "step": ("one cycle", with_state(step=1)),
    "epoch": ("inverse scaling", with_state(epoch=1)),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("part", COUNTS)
def test_each_part_of_a_checkpoint_counts(part):
    case, change = COUNTS[part]
    kept = Kept()
    expected = trained(case, kept)._to_file()
    late = [at for at in kept.saved if at[1]["step"] >= 2 and at[1]["epoch"] >= 2 and not at[1]["is_over"]]
    late = [at for at in late if at[1]["stalled"] or part != "stalled"]
    late = [at for at in late if at[1]["shrunk"] > 1 or part != "shrunk"]
    change(*late[-1])
    with suppress(InputError) if part in ("epoch", "step") else nullcontext():  # which do not go with the losses
        assert trained(case, Kept(late[-1]))._to_file() != expected


def no_number(tensors, state):
    tensors["network.0.weight"][0, 0] = float("nan")


def lacking(name):
    return lambda tensors, state: tensors.pop(name)


def put(name, tensor):
    return lambda tensors, state: tensors.update({name: tensor})


REFUSED = {
    "no number of an optimiser": (
        put("optimizer.0.exp_avg", torch.tensor(float("nan"))),
        "optimizer.0.exp_avg is finite",
    ),
    "no number": (no_number, "whether network.0.weight is finite: False, expected True"),
    "a weight missing": (lacking("network.0.weight"), "the tensors of network: "),
    "no generator": (lacking("course.generator"), "'generator'"),
    "another shape": (put("network.0.weight", torch.zeros(6, 5).double()), "network.0.weight: "),
    "another type": (put("network.0.weight", torch.zeros(6, 4)), "network.0.weight: "),
    "best of another shape": (put("best.0.weight", torch.zeros(1)), "the tensors of best: "),
    "an optimiser of another shape": (
        put("optimizer.0.exp_avg", torch.zeros(3)),
        "the optimiser's 0.exp_avg has shape",
    ),
    "no state of a generator": (put("course.generator", torch.zeros(3, dtype=torch.uint8)), ""),
    "an unknown part": (put("more.0", torch.zeros(3)), "more"),
    "more losses": (put("course.losses", torch.zeros(9).double()), "losses: "),
    "scores of none": (put("course.scores", torch.zeros(1).double()), "scores: "),
    "losses of steps": (put("course.step_losses", torch.zeros(2)), "step_losses: "),
    "beyond its end": (with_state(epoch=9), "it is at epoch 9, step 2 of 3 epochs of 5 steps"),
    "beyond the epoch": (with_state(step=6), "it is at epoch 1, step 6 of 3 epochs of 5 steps"),
    "steps after the end": (with_state(is_over=True), "it is at epoch 1, step 2 of 3 epochs of 5 steps"),
    "a negative count": (with_state(stalled=-1), "its stalled is -1"),
    "a rate that is no number": (with_state(shrunk=0), "its shrunk is 0"),
    "a truth as a count": (with_state(epoch=True), "its epoch is True"),
    "a huge count": (with_state(shrunk=10**30), "its shrunk is 1000"),
    "a count as a truth": (with_state(is_over=0), "its is_over is 0"),
    "more in its state": (with_state(more=1), "its state is {"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_whatever_is_no_checkpoint_is_refused_in_a_line(case):
    change, message = REFUSED[case]
    kept = Kept()
    trained("one cycle", kept)
    tensors, state = states(kept, epoch=1, step=2)[0]
    change(tensors, state)
    with pytest.raises(InputError, match=r"^the checkpoint does not fit the run: ") as caught:
        trained("one cycle", Kept((tensors, state)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_square_beyond_float32_is_gone_on_with():
    """The training that had it would have gone on, too."""
    kept = Kept()
    trained("one cycle", kept)
    tensors, state = kept.saved[6]
    tensors["optimizer.0.exp_avg_sq"][0, 0] = np.inf
    kept = Kept((tensors, state))
    trained("one cycle", kept)
    assert kept.saved[-1][0]["optimizer.0.exp_avg_sq"][0, 0] == np.inf


def test_a_state_that_is_no_object_is_refused():
    kept = Kept()
    trained("one cycle", kept)
    with pytest.raises(InputError, match="its state is None"):
        trained("one cycle", Kept((kept.saved[3][0], None)))


class Signal(Monitor):
    def __init__(self, number, epoch, step):
        self.number, self.at = number, (epoch, step)

    def step(self, epoch, step, loss):
        if (epoch, step) == self.at:
            signal.raise_signal(self.number)


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 2), (signal.SIGTERM, 5), (signal.SIGHUP, 1)])
def test_a_signal_saves_after_the_step(monkeypatch, number, step):
    expected = trained("dropout and noise")._to_file()
    kept = Kept()
    kept.is_due = False
    with monkeypatch.context() as patched:
        patched.setattr("batchnorm.estimator.base.monitor_for", lambda verbose: Signal(number, 1, step))
        with pytest.raises(TrainingInterrupted, match=f"interrupted in epoch 1 after step {step}") as caught:
            trained("dropout and noise", kept)
    assert caught.value.exit_code == 128 + number
    assert kept.n_interrupted == 1
    assert len(kept.saved) == 2
    assert trained("dropout and noise", Kept(kept.saved[-1]))._to_file() == expected


def test_ctrl_c_after_the_last_step_is_left_to_going_on(monkeypatch):
    """Without checkpoints, the network would keep its running averages: that would be another end."""

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("batchnorm.estimator.training.recalibrate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained("population", Kept())


class Overflowing(Kept):
    """Has a weight become infinite in a step whose loss is finite yet."""

    @property
    def is_due(self):
        self.network["0.weight"][0, 0] = np.inf
        return True

    def load(self, network):
        self.network = network


def test_what_diverged_is_not_saved():
    kept = Overflowing()
    with pytest.raises(ValueError, match="the training diverged"):
        trained("one cycle", kept)
    assert len(kept.saved) == 1
