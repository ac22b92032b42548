"""Each training draws from a stream of its own, whatever other threads do, and leaves the global generators alone."""

import dataclasses
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.errors import TrainingInterrupted
from batchnorm.kernels.draws import global_generators_kept
from batchnorm.training import fit_seeds
from helpers import PLAIN, InterruptAt, exit_code, forked, make_network, same_weights

DRAWING = dataclasses.replace(PLAIN, dropout=0.4, input_noise=0.2)


class AlwaysDropping(nn.Module):
    """Draws from torch's global generator in inference, too."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(nn.functional.dropout(self.norm(self.first(x)), 0.4, training=True))


def module(kind, config, dataset):
    torch.manual_seed(0)
    if kind == "foreign":
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 3))
    return AlwaysDropping() if kind == "always dropping" else make_network(dataset, config)


KINDS = {
    "fused": ("own", DRAWING),
    "autograd": ("own", dataclasses.replace(DRAWING, engine="autograd")),
    "foreign": ("foreign", DRAWING),
    "always dropping": ("always dropping", DRAWING),
}


def test_threads_train_what_one_alone_trains(blobs):
    def trained(kind, seed):
        config = dataclasses.replace(KINDS[kind][1], seed=seed)
        return bn.fit(networks.pop((kind, seed)), blobs, config)

    jobs = [(kind, seed) for kind in KINDS for seed in (0, 1)]

    def fresh():
        return {(kind, seed): module(*KINDS[kind], blobs) for kind, seed in jobs}

    networks = fresh()
    alone = {job: trained(*job) for job in jobs}
    networks = fresh()
    before = torch.get_rng_state()
    with ThreadPoolExecutor(len(jobs)) as pool:
        together = dict(zip(jobs, pool.map(lambda job: trained(*job), jobs), strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    for job in jobs:
        assert same_weights(together[job].network, alone[job].network), job
        assert together[job].history == alone[job].history, job
        assert together[job].results == alone[job].results, job


class TrainsBeside(bn.Monitor):
    """Trains another network at each step of this one, in another thread: the worst that threads can do."""

    def __init__(self, train):
        self.train = train

    def step(self, epoch, step, loss):
        thread = threading.Thread(target=self.train)
        thread.start()
        thread.join()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_a_training_between_the_steps_changes_nothing(kind, other, blobs):
    name, config = KINDS[kind]
    config = dataclasses.replace(config, epochs=2, batch_size=60)  # 8 steps
    expected = bn.fit(module(name, config, blobs), blobs, config)
    short = dataclasses.replace(KINDS[other][1], epochs=1, batch_size=300, seed=5)

    def beside():
        bn.fit(module(KINDS[other][0], short, blobs), blobs, short)

    run = bn.fit(module(name, config, blobs), blobs, config, monitor=TrainsBeside(beside))
    assert same_weights(run.network, expected.network)
    assert run.results == expected.results


@pytest.mark.parametrize("kind", KINDS)
def test_the_callers_draws_neither_change_a_run_nor_are_changed_by_it(kind, blobs, tmp_path):
    name, config = KINDS[kind]
    expected = bn.fit(module(name, config, blobs), blobs, config)

    class Drawing(InterruptAt):
        def step(self, epoch, step, loss):
            torch.rand(1)
            super().step(epoch, step, loss)

    network = module(name, config, blobs)
    torch.manual_seed(7)
    first = torch.rand(1)
    with pytest.raises(TrainingInterrupted):
        bn.fit(network, blobs, config, out=tmp_path / "run", monitor=Drawing(1, 3))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = None if name == "own" else module(name, config, blobs)
    torch.set_rng_state(before)
    run = bn.resume(tmp_path / "run", blobs, network=again)
    assert torch.equal(torch.rand(1), first)
    assert same_weights(run.network, expected.network)
    assert run.results == expected.results


def test_lazy_modules_draw_as_they_would_by_hand_and_leave_no_trace(blobs):
    def lazy():
        return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))

    by_hand = lazy()
    torch.manual_seed(3)
    by_hand.eval()(blobs.train.inputs[:2])
    torch.manual_seed(3)
    before = torch.get_rng_state()
    run = bn.fit(lazy(), blobs, PLAIN)
    assert torch.equal(torch.get_rng_state(), before)
    assert same_weights(run.network, bn.fit(by_hand, blobs, PLAIN).network)


def test_seeds_and_estimators_beside_a_foreign_training(blobs, tmp_path):
    x, y = blobs.train.inputs.numpy(), blobs.train.labels.numpy()
    short = dataclasses.replace(DRAWING, epochs=1)

    def estimator():
        return bn.BatchNormClassifier((4,), dropout=0.3, epochs=2, random_state=0, tol=1e9, n_iter_no_change=1)

    name, config = KINDS["foreign"]
    alone = (
        bn.fit(module(name, config, blobs), blobs, config),
        estimator().fit(x, y),
        fit_seeds(blobs, short, 2, out=tmp_path / "alone"),
    )
    network = module(name, config, blobs)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(3) as pool:
        run = pool.submit(bn.fit, network, blobs, config)
        estimated = pool.submit(estimator().fit, x, y)
        seeded = pool.submit(fit_seeds, blobs, short, 2, out=tmp_path / "together")
        assert same_weights(run.result().network, alone[0].network)
        assert np.array_equal(estimated.result().predict_proba(x), alone[1].predict_proba(x))
        for a, b in zip(seeded.result(), alone[2], strict=True):
            assert same_weights(a.network, b.network)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_waits_for_no_thread_of_its_parent():
    held, done = threading.Event(), threading.Event()

    def hold():
        with global_generators_kept():
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def keep():
        with global_generators_kept():
            pass

    try:
        with forked(keep) as child:
            assert exit_code(child) == 0
    finally:
        done.set()
        thread.join()


def test_a_step_may_wait_for_a_thread_that_builds_a_network(blobs):
    class Building(AlwaysDropping):
        def forward(self, x):
            pool.submit(bn.DenseNetwork, 6, (8,), 3, generator=torch.Generator()).result(timeout=5)
            return super().forward(x)

    with ThreadPoolExecutor(1) as pool:
        bn.fit(Building(), blobs, dataclasses.replace(PLAIN, batch_size=120))
