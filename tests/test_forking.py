"""Processes that are forked from one whose OpenMP threads have worked: none may wait for threads that it has not.

This process computes with two threads, and forks. On the way every wait has an end: what hangs fails.
"""

import dataclasses
import multiprocessing
import os
import signal
import socket
import threading
from contextlib import ExitStack
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from joblib.externals.loky import ProcessPoolExecutor
from numba.core.compiler_lock import global_compiler_lock

import batchnorm as bn
from batchnorm.training import deferred_interrupts, threads_for
from helpers import exit_code, forked

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

SECONDS = 60
WIDE = (256, 256)  # with batches of 512 more work than a training with one thread is content with
SIZES = {"hidden_layer_sizes": WIDE, "batch_size": 512, "epochs": 1, "random_state": 0}
CONFIG = bn.TrainingConfig(hidden_layer_sizes=WIDE, batch_size=512, epochs=1)


@pytest.fixture(scope="module", autouse=True)
def parent():
    """What this process has fitted with two threads."""
    torch.set_num_threads(2)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2048, 32)).astype(np.float32)
    y = (X[:, 0] > 0).astype(np.int64)
    classifier = bn.BatchNormClassifier(**SIZES).fit(X, y)
    regressor = bn.BatchNormRegressor(**SIZES).fit(X, X[:, 1])
    dataset = bn.Dataset.from_arrays(X, y, name="table")
    run = bn.fit(bn.DenseNetwork.from_config(CONFIG, 32, 2), dataset, CONFIG)
    batches = list(torch.from_numpy(X).split(512))
    yield SimpleNamespace(
        X=X, y=y, classifier=classifier, regressor=regressor, dataset=dataset, network=run.network, batches=batches
    )
    torch.set_num_threads(1)


def fit(parent, engine):
    bn.fit(parent.network, parent.dataset, dataclasses.replace(CONFIG, engine=engine))


WORK = {
    "predict": lambda parent: parent.classifier.predict(parent.X),
    "predict_proba": lambda parent: parent.classifier.predict_proba(parent.X),
    "predict values": lambda parent: parent.regressor.predict(parent.X),
    "fit classes": lambda parent: bn.BatchNormClassifier(**SIZES).fit(parent.X, parent.y),
    "fit values": lambda parent: bn.BatchNormRegressor(**SIZES).fit(parent.X, parent.X[:, 1]),
    "partial_fit": lambda parent: parent.classifier.partial_fit(parent.X, parent.y),
    "fused": lambda parent: fit(parent, "fused"),
    "autograd": lambda parent: fit(parent, "autograd"),
    "evaluate": lambda parent: bn.evaluate(parent.network, parent.dataset.train),
    "forward": lambda parent: parent.network(parent.batches[0]),
    "recalibrate": lambda parent: bn.recalibrate(parent.network, parent.batches),
    "diagnose": lambda parent: bn.diagnose(parent.network, parent.batches),
    "a child of the child": lambda parent: end_in_child(lambda: parent.classifier.predict(parent.X), SECONDS / 2),
    "a thread of the child": lambda parent: end_in_thread(lambda: parent.classifier.predict(parent.X)),
    "a small training before": lambda parent: (small_training(), parent.classifier.predict(parent.X)),
}


def end_in_child(work, seconds=SECONDS):
    with forked(work) as child:
        assert exit_code(child, seconds) == 0


def end_in_thread(work):
    thread = in_thread(work)
    thread.join(SECONDS / 2)
    assert not thread.is_alive()


def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def small_training():
    bn.BatchNormClassifier((4,), epochs=2, random_state=0).fit(np.eye(8), np.arange(8) % 2)


@pytest.mark.parametrize("work", WORK)
def test_a_forked_process_works(work, parent):
    torch.mm(torch.ones(512, 512), torch.ones(512, 512)).relu_()  # the two threads are there
    end_in_child(lambda: WORK[work](parent))
    assert torch.get_num_threads() == 2


def test_a_process_that_is_forked_by_a_thread_works(parent):
    def fork():
        parent.classifier.predict(parent.X)  # a thread has OpenMP threads of its own
        end_in_child(lambda: parent.classifier.predict(parent.X))
        done.append(True)

    done = []
    in_thread(fork).join(2 * SECONDS)
    assert done


def test_a_process_that_is_forked_beside_trainings_trains_with_one_thread(parent):
    def train():
        with threads_for(0):
            inside.set()
            assert done.wait(SECONDS)

    def work():
        for _ in range(2):
            assert torch.get_num_threads() == 1
            small_training()
            parent.classifier.predict(parent.X)
        torch.set_num_threads(2)  # who asks for more is given them back
        small_training()
        assert torch.get_num_threads() == 2

    inside, done = threading.Event(), threading.Event()
    training = in_thread(train)
    try:
        assert inside.wait(SECONDS)
        end_in_child(work)
    finally:
        done.set()
        training.join()


def test_a_process_that_is_forked_inside_of_a_training_keeps_one_thread_at_its_end(parent):
    context = ExitStack()

    def work():
        context.close()
        assert torch.get_num_threads() == 1
        parent.classifier.predict(parent.X)

    with context:
        context.enter_context(threads_for(0))
        end_in_child(work)
    assert torch.get_num_threads() == 2


def test_a_fork_waits_for_kernels_that_are_being_compiled():
    def compile_slowly():
        with global_compiler_lock:
            inside.set()
            threading.Event().wait(0.2)

    def work():
        with global_compiler_lock:
            pass

    inside = threading.Event()
    compiling = in_thread(compile_slowly)
    assert inside.wait(SECONDS)
    end_in_child(work)
    compiling.join()


def test_a_process_that_is_forked_by_a_training_is_ended_by_the_first_signal():
    def work():
        os.write(begun, b".")
        signal.pause()

    awaited, begun = os.pipe()
    with deferred_interrupts(), forked(work) as child:
        os.read(awaited, 1)
        os.kill(child, signal.SIGTERM)
        assert exit_code(child) == -signal.SIGTERM
    os.close(awaited)
    os.close(begun)


def n_right(classifier, X, y):
    return int((classifier.predict(X) == y).sum())


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_pools_of_processes_predict(method, parent):
    with multiprocessing.get_context(method).Pool(1) as pool:
        found = pool.apply_async(n_right, (parent.classifier, parent.X, parent.y)).get(2 * SECONDS)
    assert abs(found - n_right(parent.classifier, parent.X, parent.y)) <= 2  # rounding differs


def test_a_process_of_loky_predicts(parent):
    """It is joblib's default, and imports everything: so it is one."""
    with ProcessPoolExecutor(max_workers=1) as pool:
        found = pool.submit(n_right, parent.classifier, parent.X, parent.y).result(2 * SECONDS)
    assert abs(found - n_right(parent.classifier, parent.X, parent.y)) <= 2


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
def test_joblib_predicts(backend, parent):
    halves = [(parent.X[::2], parent.y[::2]), (parent.X[1::2], parent.y[1::2])]
    work = (joblib.delayed(n_right)(parent.classifier, *half) for half in halves)
    found = joblib.Parallel(n_jobs=2, backend=backend, timeout=2 * SECONDS)(work)
    assert abs(sum(found) - n_right(parent.classifier, parent.X, parent.y)) <= 2


def test_a_server_that_loads_its_model_before_it_forks_answers(parent):
    """Its workers share a socket on which the parent listens, as gunicorn's do with --preload."""

    def serve():
        while True:
            connection, _ = listener.accept()
            with connection:
                row = int.from_bytes(connection.recv(4))
                connection.sendall(bytes(parent.classifier.predict(parent.X[row:]).astype(np.uint8)))

    def ask(row):
        with socket.create_connection(listener.getsockname(), SECONDS) as connection:
            connection.sendall(row.to_bytes(4))
            return np.frombuffer(b"".join(iter(lambda: connection.recv(1 << 16), b"")), np.uint8)

    with socket.create_server(("127.0.0.1", 0)) as listener, forked(serve), forked(serve):
        for row in (0, 1, 2, 3):
            assert (ask(row) == parent.classifier.predict(parent.X[row:])).mean() > 0.999
