"""What is drawn: the order of the examples, the same network from the same seed, also in several threads."""

import threading

import numpy as np
import torch

from batchnorm import BatchNormClassifier
from estimator_cases import BOTH, DIGITS, IRIS, SMALL, record, same


def test_each_epoch_goes_through_all_examples_in_an_order_of_its_own():
    X, y = IRIS
    epochs = np.reshape(record(BatchNormClassifier(**SMALL, batch_size=50), X, y)[0], (10, 150))
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.arange(150), (10, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 10
    in_order = np.reshape(record(BatchNormClassifier(**SMALL, batch_size=50, shuffle=False), X, y)[0], (10, 150))
    assert np.array_equal(in_order, np.tile(np.arange(150), (10, 1)))


@BOTH
def test_the_same_seed_is_the_same_network(estimator_class):
    X, y = IRIS
    options = {**SMALL, "dropout": 0.2, "input_noise": 0.1}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b = (estimator_class(**options).fit(X, y) for _ in range(2))
    assert same(a, b)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's draws are touched
    assert not same(a, estimator_class(**options | {"random_state": 1}).fit(X, y))
    c, d = (estimator_class(**options | {"random_state": np.random.RandomState(7)}).fit(X, y) for _ in range(2))
    assert same(c, d)


def test_trainings_at_the_same_time_do_not_disturb_each_other():
    X, y = DIGITS
    options = {"hidden_layer_sizes": (20,), "dropout": 0.3, "input_noise": 0.3, "epochs": 10}
    alone = [BatchNormClassifier(**options, random_state=seed).fit(X, y) for seed in range(4)]
    together = [BatchNormClassifier(**options, random_state=seed) for seed in range(4)]
    threads = [threading.Thread(target=estimator.fit, args=(X, y)) for estimator in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))
