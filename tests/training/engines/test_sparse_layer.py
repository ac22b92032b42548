"""Inputs that are mostly zero: the fused engine multiplies without the zeros, and each step is still the dense one."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import sparse

import batchnorm as bn
from batchnorm import Examples
from batchnorm.data import StreamedExamples, Table
from batchnorm.kernels import sparse as kernels
from batchnorm.training.engines.autograd import AutogradEngine
from batchnorm.training.engines.fused import FusedEngine
from engine_pairs import BASE, OPTIMIZERS, OPTIONS

ROWS, COLUMNS = 120, 90
CELLS = sparse.random(
    ROWS, COLUMNS, density=0.05, format="csr", random_state=0
)  # some columns in few rows, some in none
LABELS = torch.arange(ROWS) % 3
TABLE = Table(CELLS, np.zeros(COLUMNS), np.full(COLUMNS, 0.5), bound=3.0)
STREAMED = StreamedExamples(TABLE, LABELS)
DENSE = Examples(torch.from_numpy(TABLE.read(slice(None), np.empty((ROWS, COLUMNS)))), LABELS)


def network_of(config, dtype=torch.float64):
    return bn.DenseNetwork.from_config(config, COLUMNS, 3).to(dtype).train()


def train(engine, n_steps=40, first=0):
    for i in range(first, first + n_steps):
        torch.manual_seed(i)
        order = np.random.default_rng(i).permutation(ROWS)
        loss = engine.step(order[:12], 0.02 / (1 + i % 3))
    engine.write_back()
    return loss


def assert_same(sparse_engine, dense_engine, tolerance):
    pairs = [(a.network.state_dict(), b.network.state_dict()) for a, b in [(sparse_engine, dense_engine)]]
    pairs.append((sparse_engine.state_dict(), dense_engine.state_dict()))
    for ours, theirs in pairs:
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name].to(tensor.dtype), rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("options", [name for name, values in OPTIONS.items() if "input_noise" not in values])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dense", [FusedEngine, AutogradEngine])
def test_a_training_is_the_dense_one(options, optimizer, dense):
    # Of squares near 0, AdamW's eps changes the share while a column waits: to be exact, it is none here.
    config = dataclasses.replace(BASE, adam_eps=1e-30, **{**OPTIONS[options], **OPTIMIZERS[optimizer]})
    ours, theirs = FusedEngine(network_of(config), STREAMED, config), dense(network_of(config), DENSE, config)
    assert ours._sparse is not None
    assert train(ours) == pytest.approx(train(theirs), rel=1e-7)
    assert_same(ours, theirs, 1e-8)


def test_with_the_usual_eps_it_differs_by_little():
    config = dataclasses.replace(BASE, weight_decay=0.1, **OPTIMIZERS["adamw"])
    ours, theirs = (FusedEngine(network_of(config), data, config) for data in (STREAMED, DENSE))
    assert train(ours) == pytest.approx(train(theirs), rel=1e-4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_goes_on_from_what_an_engine_kept(optimizer):
    config = dataclasses.replace(BASE, adam_eps=1e-30, weight_decay=0.1, **OPTIMIZERS[optimizer])
    whole = FusedEngine(network_of(config), STREAMED, config)
    train(whole, 20)
    train(whole, 20, first=20)
    begun = FusedEngine(network_of(config), STREAMED, config)
    train(begun, 20)
    going_on = FusedEngine(begun.network, STREAMED, config)
    going_on.load_state_dict({name: tensor.clone() for name, tensor in begun.state_dict().items()})
    train(going_on, 20, first=20)
    assert_same(going_on, whole, 1e-12)


def test_a_training_may_take_any_number_of_steps(monkeypatch):
    monkeypatch.setattr("batchnorm.training.engines.sparse._STEPS", 64)  # what there is room for doubles three times
    config = dataclasses.replace(BASE, adam_eps=1e-30, **OPTIMIZERS["adamw"])
    ours, theirs = (FusedEngine(network_of(config), data, config) for data in (STREAMED, DENSE))
    train(ours, 300)
    train(theirs, 300)
    assert_same(ours, theirs, 1e-6)


@pytest.mark.parametrize("options", [{"input_noise": 0.1}, {"optimizer": "adamw", "beta_1": 0.9, "beta_2": 0.9}])
def test_what_is_not_to_be_had_without_zeros_is_trained_with_them(options):
    config = dataclasses.replace(BASE, **options)
    ours, theirs = (FusedEngine(network_of(config), data, config) for data in (STREAMED, DENSE))
    assert ours._sparse is None
    assert train(ours) == pytest.approx(train(theirs), rel=1e-12)


def test_batches_of_empty_rows_are_trained_on_too():
    config = dataclasses.replace(BASE, **OPTIMIZERS["adamw"])
    table = Table(sparse.csr_array((ROWS, COLUMNS)), np.zeros(COLUMNS), np.ones(COLUMNS))
    engine = FusedEngine(network_of(config, torch.float32), StreamedExamples(table, LABELS), config)
    assert np.isfinite(train(engine, 3))


def test_examples_outside_of_the_table_are_refused():
    engine = FusedEngine(network_of(BASE), STREAMED, BASE)
    with pytest.raises(IndexError, match="outside the examples"):
        engine.step(np.array([0, ROWS]), 0.1)


def test_kernels_are_their_formulas():
    rng = np.random.default_rng(0)
    indices, weight, dz = np.array([5, 0, 5, 119]), rng.normal(size=(COLUMNS, 7)), rng.normal(size=(4, 7))
    batch = CELLS[indices].toarray()
    cells = int(np.diff(CELLS.indptr)[indices].sum())
    numbers, found, places = np.full(COLUMNS, -1), np.empty(COLUMNS + 1, np.int64), np.empty(cells, np.int64)
    kernels.find_columns(CELLS.indptr, CELLS.indices, indices, numbers, found, places)
    columns = found[1 : 1 + found[0]]
    assert sorted(columns) == np.flatnonzero(batch.any(0)).tolist()
    assert (numbers == -1).all()
    z, gradient = np.empty((4, 7)), np.empty((len(columns), 7))
    kernels.product(CELLS.indptr, CELLS.data, indices, places, weight[columns], z)
    np.testing.assert_allclose(z, batch @ weight)
    kernels.gradient_of_rows(CELLS.indptr, CELLS.data, indices, places, dz, gradient)
    np.testing.assert_allclose(gradient, (batch.T @ dz)[columns])
    steps = rng.normal(size=(6, 4))
    missed = np.full((6, 4), np.nan)
    kernels.multiply_missed(steps, 2, 5, missed)
    a, b, c = (steps[i].reshape(2, 2) for i in (5, 4, 3))
    np.testing.assert_allclose(missed[2].reshape(2, 2), a @ b @ c)
    np.testing.assert_allclose(missed[5].reshape(2, 2), np.eye(2))
