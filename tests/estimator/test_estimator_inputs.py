"""Every kind of table that is not sparse: of any number type, read-only, in a file, larger than what can be copied."""

import json
import sys

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_digits

from batchnorm import BatchNormClassifier, BatchNormRegressor
from batchnorm.data import streaming
from batchnorm.estimator import examples
from batchnorm.functional import batch_moments
from batchnorm.inputs import scaling
from processes import run_afresh

X, Y = load_digits(return_X_y=True)
X, Y = X[:400], Y[:400]
OPTIONS = {"hidden_layer_sizes": (12,), "epochs": 8, "random_state": 0}
BOTH = pytest.mark.parametrize("estimator_class", [BatchNormClassifier, BatchNormRegressor])


def weights(estimator):
    return torch.cat([tensor.flatten().double() for tensor in estimator.network_.state_dict().values()])


def mapped(array, tmp_path):
    np.save(tmp_path / "table.npy", array)
    return np.load(tmp_path / "table.npy", mmap_mode="r")


def read_only(array, _):
    array = array.copy()
    array.flags.writeable = False
    return array


KINDS = {
    "mapped": mapped,
    "read-only": read_only,
    "Fortran order": lambda a, _: np.asfortranarray(a),
    "strided": lambda a, _: np.repeat(a, 2, 1)[:, ::2],
    "lists": lambda a, _: a.tolist(),
}


@BOTH
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("streamed", [False, True])
def test_every_kind_of_table_gives_the_same_bits(estimator_class, kind, streamed, tmp_path, monkeypatch):
    plain = estimator_class(**OPTIONS).fit(X, Y)
    if streamed:
        monkeypatch.setattr(examples, "COPIED_BYTES", 0)
    table = KINDS[kind](X, tmp_path)
    other = estimator_class(**OPTIONS).fit(table, Y)
    assert torch.equal(weights(other), weights(plain))
    assert np.array_equal(other.predict(table), plain.predict(X))


@BOTH
@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "int64", "bool", "float16", "float32", ">f4", ">i4", "object", ">f8", "longdouble"]
)
@pytest.mark.parametrize("streamed", [False, True])
def test_every_type_of_number_is_what_it_is_in_float(estimator_class, dtype, streamed, monkeypatch):
    table = (X > 7).astype(dtype) if dtype == "bool" else X.astype(dtype)
    double = dtype in ("object", ">f8", "longdouble")
    as_float = table.astype(np.float64 if double else np.float32)
    plain = estimator_class(**OPTIONS).fit(as_float, Y)
    if streamed:
        monkeypatch.setattr(examples, "COPIED_BYTES", 0)
    other = estimator_class(**OPTIONS).fit(table, Y)
    torch.testing.assert_close(weights(other), weights(plain), rtol=1e-4, atol=1e-5)
    assert other.network_[0].weight.dtype == (torch.float64 if double else torch.float32)


@BOTH
@pytest.mark.parametrize("options", [{"early_stopping": True}, {"statistics": "population"}, {"dropout": 0.2}])
def test_weights_and_held_back_examples_work_on_streamed_tables_too(estimator_class, options, monkeypatch):
    counts = np.random.default_rng(0).integers(0, 3, 400)
    plain = estimator_class(**OPTIONS, **options).fit(X, Y, sample_weight=counts)
    monkeypatch.setattr(examples, "COPIED_BYTES", 0)
    streamed = estimator_class(**OPTIONS, **options).fit(X, Y, sample_weight=counts)
    assert torch.equal(weights(plain), weights(streamed))
    assert plain.validation_scores_ == streamed.validation_scores_


def test_moments_do_not_depend_on_how_a_table_is_read(monkeypatch):
    whole = scaling.table_moments(X, None)
    np.testing.assert_allclose(whole.mean, X.mean(0), rtol=1e-13)
    np.testing.assert_allclose(whole.var, X.var(0), rtol=1e-12)
    counts = np.random.default_rng(0).integers(0, 2, 400) * np.r_[np.zeros(100), np.ones(300)]
    counted = scaling.table_moments(X, counts)
    monkeypatch.setattr("batchnorm.data.streaming._CELLS_AT_A_TIME", 640)
    in_pieces, counted_in_pieces = scaling.table_moments(X, None), scaling.table_moments(X, counts)
    torch.testing.assert_close(in_pieces[1:], whole[1:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(counted_in_pieces[1:], counted[1:], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(counted.mean, X[counts > 0].mean(0), rtol=1e-12)


@pytest.mark.parametrize("make", [np.asarray, np.asfortranarray, sparse.csr_array])
@pytest.mark.parametrize("counts", [np.random.default_rng(0).integers(0, 3, 400), np.random.default_rng(1).random(400)])
def test_weighted_moments_are_the_formulas_to_the_bit_and_leave_the_table_alone(make, counts):
    table, counts = make(X.copy()), counts.astype(np.float64)
    n, mean, var = scaling.table_moments(table, counts)
    expected = batch_moments(torch.from_numpy(streaming.dense(make(X))), torch.from_numpy(counts))
    assert n == expected.n
    assert torch.equal(mean, expected.mean)
    assert torch.equal(var, expected.var)
    assert np.array_equal(streaming.dense(table), X)


LARGE = """
import json, resource
import numpy as np
import torch
torch.set_num_threads(1)
from batchnorm import BatchNormClassifier
from batchnorm.estimator import examples

examples.COPIED_BYTES = 2**26
rows, columns = 40_000, 1_000  # 40 MB of bytes; a copy that could be trained on has 160 MB
table = np.lib.format.open_memmap("table.npy", "w+", "uint8", (rows, columns))
labels = np.arange(rows) % 2
for start in range(0, rows, 10_000):
    part = labels[start : start + 10_000]
    noise = np.random.default_rng(start).integers(0, 100, (len(part), 4))
    table[start : start + 10_000, :4] = noise + 60 * part[:, None]
table.flush()
table = np.load("table.npy", mmap_mode="r")
small = BatchNormClassifier((4,), epochs=1).fit(table[:1000], labels[:1000])  # what is loaded and compiled once
with open("/proc/self/status") as file:
    used = next(int(line.split()[1]) for line in file if line.startswith("VmData")) * 1024
limit = used + 150_000_000
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.ones((rows, columns), dtype=np.float32)
except MemoryError:
    refused = True
classifier = BatchNormClassifier((4,), epochs=1, early_stopping=True, random_state=0).fit(table, labels)
print(json.dumps({"refused": refused, "score": classifier.score(table[:20_000], labels[:20_000])}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits private memory as Linux does")
def test_a_mapped_table_may_be_larger_than_what_memory_holds(tmp_path):
    printed, _ = run_afresh(LARGE, tmp_path)
    result = json.loads(printed)
    assert result["refused"]
    assert result["score"] > 0.95


def test_a_copy_is_made_up_to_a_limit(monkeypatch):
    from batchnorm.data.dataset import Examples
    from batchnorm.data.streaming import StreamedExamples

    made = []
    monkeypatch.setattr(
        "batchnorm.estimator.base.make_examples", lambda *args: made.append(examples.make_examples(*args)) or made[-1]
    )
    size = X.size * 8
    for limit, expected in ((size, Examples), (size - 1, StreamedExamples)):
        monkeypatch.setattr(examples, "COPIED_BYTES", limit)
        BatchNormClassifier(**OPTIONS).fit(X, Y)
        assert type(made[-1]) is expected


def test_standardisation_can_be_changed_between_trainings():
    """What was learnt stays true; without it, the scale that is there is kept."""
    rng = np.random.default_rng(0)
    scaled = BatchNormRegressor(**OPTIONS, warm_start=True).fit(1000 * X, Y)
    moments = scaled._inputs
    scaled.set_params(standardize=False).fit(1000 * X, Y)
    assert scaled._inputs.n == moments.n
    assert torch.equal(scaled._inputs.mean, moments.mean)
    plain = BatchNormRegressor(**OPTIONS, warm_start=True, standardize=False).fit(X, Y)
    assert plain._inputs.mean.abs().max() == 0
    plain.set_params(standardize=True).fit(X + rng.normal(size=X.shape), Y)
    assert plain._inputs.n == len(X)


@BOTH
def test_a_large_constant_column_is_no_obstacle_at_the_end_of_a_training(estimator_class):
    table = np.c_[X, np.full(len(X), 1e8)].astype(np.float32)
    estimator = estimator_class(**OPTIONS, standardize=False).fit(table, Y)
    assert np.isfinite(estimator.predict(table)).all()
