"""Runs that are served, and who asks them."""

import json
import threading
import time

import requests

import batchnorm as bn
from batchnorm.serving import Limits, Server, address_of, listen
from batchnorm.serving.tables import ServedTable
from batchnorm.tables import TableRun

SHORT = ("--epochs", 2, "--hidden-layer-sizes", "8")
SECONDS = 60  # a server that takes longer hangs


def train(command, path, target, *options):
    """Train on a table, into the folder run."""
    code, _, err = command("train", path, "--target", target, *SHORT, *options, "--out", "run", "--quiet")
    assert (code, err) == (0, "")


def fit_examples(path, inputs, labels, **options):
    """Train on images or arrays, into a folder; return it."""
    dataset = bn.Dataset.from_arrays(inputs, labels, **options)
    network = bn.DenseNetwork(inputs[0].size, (8,), len(dataset.class_names))
    bn.fit(network, dataset, bn.TrainingConfig(epochs=2, batch_size=50), out=path)
    return path


def ask(model, rows):
    """Return a model's answer to rows."""
    return model.answer(json.dumps({"rows": rows}).encode())


class Held(ServedTable):
    """A run on a table that answers when it is let."""

    def __init__(self, path, limits):
        self.let, self.asked = threading.Event(), []
        self.let.set()
        super().__init__(TableRun.load(path), limits)

    def answer(self, body):
        self.asked.append(body)
        self.let.wait(SECONDS)
        return super().answer(body)


def serve_slowly(path, seconds):
    """Serve a run that takes its time, as the command line does, and print the URL."""
    model = Held(path, Limits())
    with listen("127.0.0.1", 0) as listener:
        url, _ = address_of(listener)
        server = Server(model, Limits(), "127.0.0.1", lambda: print(url, flush=True))
        model.answer = lambda body: time.sleep(seconds) or ServedTable.answer(model, body)
        server.run([listener])


class Serving:
    """A server in a thread of this process, in a block."""

    def __init__(self, model, limits=None):
        started = threading.Event()
        limits = limits or Limits()
        self._listener = listen("127.0.0.1", 0)
        self.url, _ = address_of(self._listener)
        self.address = self._listener.getsockname()
        self.server = Server(model, limits, "127.0.0.1", started.set)
        self._thread = threading.Thread(target=self.server.run, args=([self._listener],))
        self._thread.start()
        assert started.wait(SECONDS)
        self.worker = self.server._worker

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self._thread.join(SECONDS)
        self._listener.close()
        assert not self._thread.is_alive()

    def post(self, rows, **options):
        """Ask for predictions."""
        return requests.post(f"{self.url}/predict", json={"rows": rows}, timeout=SECONDS, **options)

    def wait_for(self, under_way):
        """Wait until so many requests have come."""
        deadline = time.monotonic() + SECONDS
        while self.worker._under_way != under_way:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def get(self, path, **options):
        """Ask for a page."""
        return requests.get(f"{self.url}{path}", timeout=SECONDS, **options)
