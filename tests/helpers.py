"""A small training, its variants, and what disturbs it: for the tests of the loop and of the run folder."""

import json
import os
import signal
import time
import traceback
from contextlib import contextmanager, suppress

import safetensors.torch
import torch
from torch import nn

import batchnorm as bn
from batchnorm.files import to_json
from batchnorm.training.runs.folder import seal_of
from batchnorm.training.runs.sealing import Line, Seal

PLAIN = bn.TrainingConfig(
    hidden_layer_sizes=(8,), normalize_logits=True, bn_variance="biased", epochs=3, batch_size=20,
    learning_rate=0.1, momentum=0.0, nesterov=False, schedule="constant",
)  # fmt: skip


def make_network(dataset, config):
    return bn.DenseNetwork.from_config(config, dataset.n_features, dataset.n_classes)


def plain(*first):
    torch.manual_seed(0)
    return nn.Sequential(*first or [nn.Linear(6, 8), nn.BatchNorm1d(8)], nn.ReLU(), nn.Linear(8, 3))


class Around(nn.Module):
    """A module of someone else's around a plain network."""

    def __init__(self):
        super().__init__()
        self.net = plain()

    def forward(self, x):
        return self.net(x)


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
    "layers.jsonl",
    "metrics.jsonl",
    "population.safetensors",
    "results.json",
    "weights.safetensors",
}


def run_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "environment.json"}


def seal_as_it_is(run):
    """Give the files of a run folder the checksums of what they hold now, whatever that is."""
    settings = unsealed(run / "config.json")
    seal = seal_of(settings)
    (run / "config.json").write_bytes(Seal(seal.format).to_json("config.json", settings))
    for path in run.glob("*.json"):
        if path.name != "config.json":
            path.write_bytes(seal.to_json(path.name, unsealed(path)))
    for path in run.glob("*.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_bytes(seal.to_lines(path.name, [Line.of(r) for r in records if "sha256" not in r]))
    for path in run.glob("*.safetensors"):
        with safetensors.safe_open(path, "pt") as file:
            state = json.loads(json.loads(file.metadata()["batchnorm run"])["state"])
        path.write_bytes(seal.to_tensors(path.name, safetensors.torch.load_file(path), state))


def unsealed(path):
    """Return what a JSON file of a run holds besides its checksum."""
    values = json.loads(path.read_text())
    values.pop("sha256", None)
    return values


def edit(path, **changes):
    """Change fields of a JSON file of a run, and leave its checksum as it was."""
    path.write_bytes(to_json(json.loads(path.read_text()) | changes))


class PoisonAt(bn.Monitor):
    """Makes a value of a tensor infinite after a step of an epoch, as an overflow would."""

    def __init__(self, weight, epoch, step):
        self.weight, self.at = weight, (epoch, step)

    def step(self, epoch, step, loss):
        if (epoch, step) == self.at:
            with torch.no_grad():
                self.weight[0, 0] = float("inf")


@contextmanager
def forked(work):
    """Yield the id of a forked process that does some work and ends, however the work goes; it does not outlive us."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    try:
        yield child
    finally:
        with suppress(ChildProcessError):  # that it has ended was seen already
            if os.waitpid(child, os.WNOHANG)[0] == 0:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def exit_code(child, seconds=60):
    """Return how a child of this process has ended, or None if it has not within the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None
