"""Labels of every kind, weighted examples, inputs read from a table: both engines, and the formula."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from torch.nn import functional as F

import batchnorm as bn
from batchnorm import Examples, InputError, TrainingConfig, functional
from batchnorm.data import loss_of
from batchnorm.data.streaming import StreamedExamples, Table
from batchnorm.kernels import tensors as operators
from batchnorm.losses import Loss, mean_loss
from batchnorm.training.engines.autograd import AutogradEngine
from batchnorm.training.engines.engine import make_engine
from batchnorm.training.engines.fused import FusedEngine
from batchnorm.training.threads import threads_for
from helpers import same_weights

CONFIG = TrainingConfig(
    hidden_layer_sizes=(11, 7), activation="tanh", learning_rate=0.05, schedule="constant", batch_size=20,
    bn_variance="biased", label_smoothing=0.1,
)  # fmt: skip
LABELS = {
    "cross_entropy": lambda rng, n: rng.integers(3, size=n),
    "binary_cross_entropy": lambda rng, n: rng.integers(2, size=(n, 3)).astype(bool),
    "squared_error": lambda rng, n: rng.normal(size=(n, 3)),
    "quantile": lambda rng, n: rng.normal(size=(n, 3)),
    "poisson": lambda rng, n: rng.poisson(2, size=(n, 3)).astype(float),
}
ASKED_FOR = {"quantile": Loss("quantile", 0.3), "poisson": Loss("poisson")}  # no labels bring them with them


def labelled(kind, n=60, seed=0, weighted=False, dtype=np.float64):
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(LABELS[kind](rng, n))
    weights = torch.from_numpy(rng.integers(1, 4, n).astype(np.float64)) if weighted else None
    return Examples(torch.from_numpy(rng.normal(size=(n, 5)).astype(dtype)), labels, weights=weights)


def network(dtype=torch.float64, **options):
    return bn.DenseNetwork.from_config(dataclasses.replace(CONFIG, **options), 5, 3).to(dtype).train()


def parameters(network):
    return torch.cat([tensor.double().flatten() for tensor in network.state_dict().values()])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", LABELS)
def test_both_engines_learn_every_kind_of_labels(kind, weighted):
    data = labelled(kind, weighted=weighted)
    assert loss_of(data.labels) == ("squared_error" if kind in ASKED_FOR else kind)
    engines = [make(network(), data, CONFIG, loss=ASKED_FOR.get(kind)) for make in (FusedEngine, AutogradEngine)]
    for step in range(30):
        indices = np.arange(20) + step
        a, b = (engine.step(indices, 0.05) for engine in engines)
        assert a == pytest.approx(b, rel=1e-10)
    torch.testing.assert_close(
        parameters(engines[0].network), parameters(engines[1].network), rtol=1e-9, atol=1e-12, check_dtype=False
    )


@pytest.mark.parametrize("kind", LABELS)
def test_torchs_operators_learn_every_kind_of_labels(kind):
    """The path of devices that are not a CPU."""
    data = labelled(kind)
    engines = [FusedEngine(network(), data, CONFIG, module, ASKED_FOR.get(kind)) for module in (None, operators)]
    for step in range(10):
        a, b = (engine.step(np.arange(20) + step, 0.05) for engine in engines)
        assert a == pytest.approx(b, rel=1e-10)
    torch.testing.assert_close(parameters(engines[0].network), parameters(engines[1].network), rtol=1e-9, atol=1e-12)


def test_losses_by_hand():
    # Two labels of logit 0: each is −log ½, whatever the targets are.
    none = torch.zeros(1, 2, dtype=torch.float64)
    both = torch.tensor([[True, False]])
    for smoothing in (0.0, 0.2):
        assert mean_loss(none, both, Loss("binary_cross_entropy", smoothing)).item() == pytest.approx(2 * np.log(2))
    # At logit log 3 the probability is ¾: −0.9 log ¾ − 0.1 log ¼.
    one = torch.full((1, 1), np.log(3), dtype=torch.float64)
    expected = -0.9 * np.log(0.75) - 0.1 * np.log(0.25)
    assert mean_loss(one, torch.tensor([[True]]), Loss("binary_cross_entropy", 0.2)).item() == pytest.approx(expected)
    # Half the squared error, its mean over outputs: (1² + 3²) / 2 / 2 = 2.5; the other example has 0.
    outputs, values = torch.tensor([[1.0, 3.0], [5.0, 5.0]]), torch.tensor([[0.0, 0.0], [5.0, 5.0]])
    assert mean_loss(outputs, values, Loss("squared_error")).item() == 1.25
    assert mean_loss(outputs, values, Loss("squared_error"), torch.tensor([3.0, 1.0])).item() == 3 * 2.5 / 4
    # The quantile ¾: too low by 2 costs 1.5, too high by 2 costs 0.5, and at ½ either costs 1.
    outputs, values = torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 3.0]])
    assert mean_loss(outputs, values, Loss("quantile", 0.75)).item() == (1.5 + 0.5) / 2
    assert mean_loss(outputs, values, Loss("quantile", 0.5)).item() == 1
    # Half a deviance: of 2 for 1 it is 2 log 2 − 1, of 0 for 1 it is 1; what is hit costs nothing.
    outputs, values = torch.zeros(1, 3, dtype=torch.float64), torch.tensor([[2.0, 0.0, 1.0]], dtype=torch.float64)
    assert mean_loss(outputs, values, Loss("poisson")).item() == pytest.approx(2 * np.log(2) / 3)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(list(LABELS)),
    engine=st.sampled_from([FusedEngine, AutogradEngine]),
    n=st.integers(2, 20),
    normalize_logits=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_weight_of_two_is_the_example_twice(kind, engine, n, normalize_logits, seed):
    """In the loss, in the moments of a batch and in the running averages."""
    config = dataclasses.replace(CONFIG, normalize_logits=normalize_logits, batch_size=100)
    once = labelled(kind, n, seed, weighted=True)
    counts = once.weights.long()
    repeated = Examples(once.inputs.repeat_interleave(counts, 0), once.labels.repeat_interleave(counts, 0))
    a, b = (
        engine(network(normalize_logits=normalize_logits), data, config, loss=ASKED_FOR.get(kind))
        for data in (once, repeated)
    )
    for _ in range(3):
        loss = a.step(np.arange(n), 0.05)
        assert loss == pytest.approx(b.step(np.arange(len(repeated)), 0.05), rel=1e-9)
    torch.testing.assert_close(parameters(a.network), parameters(b.network), rtol=1e-6, atol=1e-9)


def test_weights_do_not_outlive_their_step():
    engine = AutogradEngine(network(), labelled("cross_entropy", weighted=True), CONFIG)
    engine.step(np.arange(20), 0.1)
    assert all(norm.counts is None for norm in engine._norms)


def test_weighted_population_statistics_are_those_of_repeated_data():
    data = labelled("cross_entropy", weighted=True)
    counts = data.weights.long()
    a, b = network(), network()
    pairs = list(zip(data.inputs.split(7), data.weights.split(7), strict=True))
    bn.recalibrate(a, pairs, weights=lambda pair: pair[1])
    bn.recalibrate(b, [data.inputs.repeat_interleave(counts, 0)])
    torch.testing.assert_close(parameters(a), parameters(b), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4)])
def test_weighted_moments_are_those_of_repeated_examples(shape):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(5, 2, shape))
    weights = torch.tensor([1.0, 3.0, 0.0, 2.0, 1.0, 4.0], dtype=torch.float64)
    weighted = functional.batch_moments(x, weights)
    repeated = functional.batch_moments(x.repeat_interleave(weights.long(), 0))
    assert weighted.n == repeated.n
    torch.testing.assert_close(weighted[1:], repeated[1:], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("weights", [torch.ones(1), torch.ones(3, 1), torch.tensor([1.0, -1.0, 3.0])])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match="expected one of at least 0 for each of the 3 examples"):
        functional.batch_moments(torch.ones(3, 2), weights)


def test_batches_without_weight_are_passed_over():
    data = labelled("cross_entropy")
    a, b = network(), network()
    bn.recalibrate(a, [(data.inputs[:30], 1.0), (data.inputs[30:], 0.0)], weights=lambda p: torch.full((30,), p[1]))
    bn.recalibrate(b, [data.inputs[:30]])
    torch.testing.assert_close(parameters(a), parameters(b), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="the weights of all examples are 0"):
        bn.recalibrate(a, [data.inputs], weights=lambda batch: torch.zeros(60))


def test_the_fused_engine_refuses_what_its_kernels_would_misread():
    data = labelled("binary_cross_entropy")
    narrow = dataclasses.replace(data, labels=data.labels[:, :2])
    with pytest.raises(InputError, match=r"labels of shape \(60, 2\), expected 3 for each example"):
        FusedEngine(network(), narrow, CONFIG)
    with pytest.raises(InputError, match="torch's operators take no weights"):
        FusedEngine(network(), labelled("squared_error", weighted=True), CONFIG, operators)


def test_a_small_training_uses_one_thread_and_gives_the_others_back():
    from threading import Barrier, Thread

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(1e9):
            assert torch.get_num_threads() == 2
        barrier = Barrier(3, timeout=60)  # a thread that fails leaves the others waiting

        def train_beside(first):
            if first:
                barrier.wait()
            with threads_for(1e3):
                assert torch.get_num_threads() == 1
                if not first:
                    barrier.wait()
                barrier.wait()

        beside = [Thread(target=train_beside, args=(first,)) for first in (True, False)]
        with threads_for(1e3):
            assert torch.get_num_threads() == 1
            for thread in beside:
                thread.start()
            barrier.wait()
        barrier.wait()
        for thread in beside:
            thread.join()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_weights_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match=r"the weights of the batch sum to 0: a mean needs at least one above 0"):
        functional.batch_moments(torch.ones(3, 2), torch.zeros(3))


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_array], ids=["array", "CSR"])
@pytest.mark.parametrize("engine", [FusedEngine, AutogradEngine])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_table_is_standardised_to_the_same_bits_as_an_array(engine, make, dtype):
    rng = np.random.default_rng(0)
    cells = rng.normal(3, 2, (60, 5)) * (rng.random((60, 5)) < 0.6)
    mean, deviation = cells.mean(0), cells.std(0)
    table = Table(make(cells), mean, deviation)
    labels = torch.from_numpy(rng.integers(3, size=60))
    whole = table.read(slice(None), np.empty(cells.shape, np.float32 if dtype == torch.float32 else np.float64))
    np.testing.assert_allclose(whole.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(whole.std(0), 1, rtol=1e-6)
    streamed = engine(network(dtype), StreamedExamples(table, labels), CONFIG)
    in_memory = engine(network(dtype), Examples(torch.from_numpy(whole), labels), CONFIG)
    for step in range(5):
        indices = rng.permutation(60)[: 20 - step]
        assert streamed.step(indices, 0.05) == in_memory.step(indices, 0.05)
    assert same_weights(streamed.network, in_memory.network)


def test_a_table_is_read_in_blocks_of_a_bounded_size(monkeypatch):
    from batchnorm.data import streaming

    monkeypatch.setattr(streaming, "_CELLS_AT_A_TIME", 20)
    assert list(streaming.row_blocks(7, 5)) == [slice(0, 4), slice(4, 7)]
    assert list(streaming.row_blocks(7, 5, most=3)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(streaming.row_blocks(3, 1000)) == [slice(0, 1), slice(1, 2), slice(2, 3)]  # never less than a row


def test_what_the_fused_engine_leaves_to_autograd_elsewhere():
    """On another device it takes neither weights nor tables; "meta" stands for one."""
    data = labelled("cross_entropy", weighted=True, dtype=np.float32)
    away = dataclasses.replace(data, labels=data.labels.to("meta"))
    with pytest.raises(InputError, match="the examples have weights, which it takes on the CPU only"):
        make_engine(network(torch.float32), away, dataclasses.replace(CONFIG, engine="fused"))
    streamed = StreamedExamples(Table(data.inputs.numpy(), np.zeros(5), np.ones(5)), away.labels)
    with pytest.raises(InputError, match="the inputs are not in the device's memory"):
        make_engine(network(torch.float32), streamed, dataclasses.replace(CONFIG, engine="fused"))


def test_a_data_set_has_no_weights(blobs):
    weighted = dataclasses.replace(blobs.train, weights=torch.ones(len(blobs.train)))
    with pytest.raises(InputError, match="has weights, which only the estimators take"):
        dataclasses.replace(blobs, train=weighted)


def test_float64_inputs_reach_a_float64_network_unrounded():
    data = labelled("squared_error")
    inputs, _ = data.batch(slice(0, 2), torch.float64)
    assert inputs.dtype == torch.float64
    assert torch.equal(inputs, data.inputs[:2])
    loss = AutogradEngine(network(), data, CONFIG).step(np.arange(20), 0.0)
    twin = network()
    expected = F.mse_loss(twin(data.inputs[:20]), data.labels[:20]) / 2
    assert loss == pytest.approx(expected.item(), rel=1e-14)
