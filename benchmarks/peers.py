"""One training of the same network per framework: each builds its own and returns what trains for one epoch.

A framework whose loop is Python's calls `pause` after every hundred steps.

784-300-100-10, batch norm before each ELU and on the logits, plain SGD at 0.01, batches of 50: the recipe `classic`.
Every framework is imported by its own function alone, as each runs in a process of its own.
"""

import itertools
import os
import warnings
from collections.abc import Callable

import numpy as np

SIZES, BATCH, RATE, EPS = (784, 300, 100, 10), 50, 0.01, 1e-3
STEPS_TO_PAUSE = 100
Epoch = Callable[[], object]


def batchnorm_fused(images: np.ndarray, labels: np.ndarray, threads: int, pause: Epoch, engine: str = "fused") -> Epoch:
    import dataclasses

    import torch

    import batchnorm as bn
    from batchnorm.training.engines.engine import make_engine

    torch.set_num_threads(threads)
    config = dataclasses.replace(bn.recipes["classic"], engine=engine)
    examples = bn.Examples(torch.from_numpy(images), torch.from_numpy(labels), 1 / 255)
    trainer = make_engine(bn.DenseNetwork.from_config(config, SIZES[0], SIZES[-1]).train(), examples, config)
    rng = np.random.default_rng(0)

    def epoch() -> None:
        order = rng.permutation(len(labels))
        for step in range(len(labels) // BATCH):
            trainer.step(order[step * BATCH : (step + 1) * BATCH], RATE)
            if step % STEPS_TO_PAUSE == 0:
                pause()

    return epoch


def batchnorm_autograd(images: np.ndarray, labels: np.ndarray, threads: int, pause: Epoch) -> Epoch:
    return batchnorm_fused(images, labels, threads, pause, "autograd")


def torch_eager(images: np.ndarray, labels: np.ndarray, threads: int, pause: Epoch, compiled: bool = False) -> Epoch:
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(SIZES):
        layers += [nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out, eps=EPS), nn.ELU()]
    network = nn.Sequential(*layers[:-1])
    forward = torch.compile(network) if compiled else network
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    x, y = torch.from_numpy(images).float() / 255, torch.from_numpy(labels)

    def epoch() -> None:
        for step, indices in enumerate(torch.randperm(len(y)).split(BATCH)):
            loss = nn.functional.cross_entropy(forward(x[indices]), y[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % STEPS_TO_PAUSE == 0:
                pause()

    return epoch


def torch_compiled(images: np.ndarray, labels: np.ndarray, threads: int, pause: Epoch) -> Epoch:
    return torch_eager(images, labels, threads, pause, compiled=True)


def jax_scan(images: np.ndarray, labels: np.ndarray, threads: int, pause: Epoch) -> Epoch:
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    x, y = jnp.asarray(images.astype(np.float32) / 255), jnp.asarray(labels)
    parameters = [
        (jnp.asarray(rng.normal(0, (2 / n_in) ** 0.5, (n_in, n_out)), jnp.float32), jnp.ones(n_out), jnp.zeros(n_out))
        for n_in, n_out in itertools.pairwise(SIZES)
    ]
    running = [(jnp.zeros(n), jnp.ones(n)) for n in SIZES[1:]]

    def loss_and_running(parameters, running, x, y):
        updated = []
        for layer, ((weight, gamma, beta), (mean, var)) in enumerate(zip(parameters, running, strict=True)):
            z = x @ weight
            m, v = z.mean(0), z.var(0)
            updated.append((0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v))
            x = gamma * (z - m) * jax.lax.rsqrt(v + EPS) + beta
            x = jax.nn.elu(x) if layer + 1 < len(parameters) else x
        picked = jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1)
        return -picked.mean(), updated

    def step(carry, indices):
        parameters, running = carry
        (loss, running), gradients = jax.value_and_grad(loss_and_running, has_aux=True)(
            parameters, running, x[indices], y[indices]
        )
        return (jax.tree.map(lambda p, g: p - RATE * g, parameters, gradients), running), loss

    scan = jax.jit(lambda carry, batches: jax.lax.scan(step, carry, batches), donate_argnums=0)
    carry = (parameters, running)

    def epoch() -> None:
        nonlocal carry
        batches = jnp.asarray(rng.permutation(len(labels))[: len(labels) // BATCH * BATCH].reshape(-1, BATCH))
        carry, losses = scan(carry, batches)
        losses.block_until_ready()

    return epoch


def _keras(backend: str, images: np.ndarray, labels: np.ndarray, threads: int) -> Epoch:
    os.environ["KERAS_BACKEND"] = backend
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if backend == "tensorflow":
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
    elif backend == "torch":
        import torch

        torch.set_num_threads(threads)
    import keras

    layers = [keras.Input((SIZES[0],))]
    for size in SIZES[1:]:
        layers += [keras.layers.Dense(size, use_bias=False), keras.layers.BatchNormalization(momentum=0.9, epsilon=EPS)]
        layers += [keras.layers.Activation("elu")]
    model = keras.Sequential(layers[:-1])
    model.compile(keras.optimizers.SGD(RATE), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = images.astype(np.float32) / 255
    return lambda: model.fit(x, labels, batch_size=BATCH, epochs=1, verbose=0)


def keras_jax(images: np.ndarray, labels: np.ndarray, threads: int, pause: Epoch) -> Epoch:
    return _keras("jax", images, labels, threads)


def keras_tensorflow(images: np.ndarray, labels: np.ndarray, threads: int, pause: Epoch) -> Epoch:
    return _keras("tensorflow", images, labels, threads)


def keras_torch(images: np.ndarray, labels: np.ndarray, threads: int, pause: Epoch) -> Epoch:
    return _keras("torch", images, labels, threads)


def sklearn_mlp(images: np.ndarray, labels: np.ndarray, threads: int, pause: Epoch) -> Epoch:
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore")  # one epoch does not converge
    x = images.astype(np.float32) / 255
    network = MLPClassifier(
        SIZES[1:-1], solver="sgd", batch_size=BATCH, learning_rate_init=RATE, momentum=0.0, alpha=0.0, max_iter=1
    )
    return lambda: network.fit(x, labels)  # from new weights each time, which takes a hundredth of an epoch


# What is timed, under which name, and the packages whose versions are printed.
FRAMEWORKS: dict[str, tuple[Callable[..., Epoch], tuple[str, ...]]] = {
    "batchnorm, engine fused": (batchnorm_fused, ("batchnorm", "torch", "numba")),
    "batchnorm, engine autograd": (batchnorm_autograd, ("batchnorm", "torch")),
    "PyTorch, eager": (torch_eager, ("torch",)),
    "PyTorch, compiled": (torch_compiled, ("torch",)),
    "JAX, the epoch in one scan": (jax_scan, ("jax",)),
    "Keras on JAX": (keras_jax, ("keras", "jax")),
    "Keras on TensorFlow": (keras_tensorflow, ("keras", "tensorflow-cpu")),
    "Keras on torch": (keras_torch, ("keras", "torch")),
    "scikit-learn MLPClassifier, no batch norm": (sklearn_mlp, ("scikit-learn",)),
}
