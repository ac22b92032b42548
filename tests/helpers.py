"""A small training, its variants, and what disturbs it: for the tests of the loop and of the run folder."""

import signal

import torch

import batchnorm as bn

PLAIN = bn.TrainingConfig(
    hidden_layer_sizes=(8,), normalize_logits=True, bn_variance="biased", epochs=3, batch_size=20,
    learning_rate=0.1, momentum=0.0, nesterov=False, schedule="constant",
)  # fmt: skip


def make_network(dataset, config):
    return bn.DenseNetwork.from_config(config, dataset.n_features, dataset.n_classes)


def norm_without_bias(kind, channels):
    """Return a batch norm with a weight alone; torch builds it from 2.13 on."""
    try:
        return kind(channels, bias=False)
    except TypeError:
        layer = kind(channels)
        layer.register_parameter("bias", None)
        return layer


def train(dataset, config, **options):
    return bn.fit(make_network(dataset, config), dataset, config, **options)


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


VARIANTS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov and dropout": {"momentum": 0.9, "nesterov": True, "dropout": 0.3, "schedule": "one-cycle"},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.01, "learning_rate": 0.01, "schedule": "cosine"},
    "smoothing": {"label_smoothing": 0.1, "activation": "gelu"},
    "no batch norm": {"normalization": "none", "dropout": 0.2},
    "noise": {"input_noise": 0.3, "optimizer": "adamw", "learning_rate": 0.01},
    "autograd": {"engine": "autograd", "momentum": 0.9, "dropout": 0.3, "input_noise": 0.3},
    "early stopping": {"early_stopping_patience": 2, "epochs": 8},
}


class InterruptAt(bn.Monitor):
    """Asks the process to stop, as Ctrl-C does, at a step of an epoch."""

    def __init__(self, epoch, step, number=signal.SIGINT):
        self.at, self.number = (epoch, step), number

    def step(self, epoch, step, loss):
        if (epoch, step) == self.at:
            signal.raise_signal(self.number)


RUN_FILES = {
    "checkpoint.safetensors",
    "config.json",
    "environment.json",
    "metrics.jsonl",
    "population.safetensors",
    "results.json",
    "weights.safetensors",
}


def run_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "environment.json"}


class PoisonAt(bn.Monitor):
    """Makes a value of a tensor infinite after a step of an epoch, as an overflow would."""

    def __init__(self, weight, epoch, step):
        self.weight, self.at = weight, (epoch, step)

    def step(self, epoch, step, loss):
        if (epoch, step) == self.at:
            with torch.no_grad():
                self.weight[0, 0] = float("inf")
