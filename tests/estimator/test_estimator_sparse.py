"""Sparse tables: zeros stay zeros, columns keep their relative scale, and nothing is made dense."""

import numpy as np
import pytest
import torch
from scipy import sparse

from batchnorm import BatchNormClassifier, BatchNormRegressor
from batchnorm.data import streaming
from batchnorm.estimator import examples
from batchnorm.inputs import BOUND

RNG = np.random.default_rng(0)
TOPIC = RNG.integers(0, 3, 300)
COUNTS = RNG.poisson(np.where(RNG.permuted(np.tile(np.arange(60) % 20 == 0, (300, 1)), axis=1), 1.0, 0.05))
COUNTS = (COUNTS + RNG.poisson(0.6 * (np.arange(60) // 20 == TOPIC[:, None]))).astype(np.float64)  # (texts, words)
X = COUNTS * np.linspace(0.2, 3, 60)
Y = TOPIC
OPTIONS = {"hidden_layer_sizes": (12,), "epochs": 6, "random_state": 0}
BOTH = pytest.mark.parametrize("estimator_class", [BatchNormClassifier, BatchNormRegressor])
FORMATS = [sparse.csr_matrix, sparse.csc_array, sparse.coo_array, sparse.lil_array]


def weights(estimator):
    return torch.cat([tensor.flatten().double() for tensor in estimator.network_.state_dict().values()])


@pytest.fixture
def nothing_dense(monkeypatch):
    read = streaming.Table.read

    def read_if_dense(table, which, out):
        assert not sparse.issparse(table.cells), "a sparse table was made dense"
        return read(table, which, out)

    monkeypatch.setattr(streaming.Table, "read", read_if_dense)


@BOTH
@pytest.mark.parametrize("make", FORMATS)
def test_every_sparse_format_gives_the_same_bits(estimator_class, make, monkeypatch):
    plain = estimator_class(**OPTIONS).fit(sparse.csr_array(X), Y)
    monkeypatch.setattr(examples, "COPIED_BYTES", 0)
    other = estimator_class(**OPTIONS).fit(make(X), Y)
    assert torch.equal(weights(other), weights(plain))
    assert np.array_equal(other.predict(make(X)), plain.predict(sparse.csr_array(X)))


@BOTH
@pytest.mark.parametrize(
    "options",
    [
        {}, {"dropout": 0.2}, {"early_stopping": True}, {"statistics": "running"}, {"engine": "autograd"},
        {"optimizer": "sgd", "learning_rate_init": 0.05}, {"input_noise": 0.1}, {"beta_2": 0.5},
    ],
)  # fmt: skip
def test_a_sparse_table_is_the_dense_one_scaled_by_one_number(estimator_class, options):
    counts = np.random.default_rng(0).integers(0, 3, len(X))
    ours = estimator_class(**OPTIONS, **options, epsilon=1e-15).fit(sparse.csr_array(X), Y, sample_weight=counts)
    scaled = ours.scale_inputs(sparse.csr_array(X))
    sizes = scaled[X > 0] / np.sqrt(1 - (scaled[X > 0] / BOUND) ** 2) / X[X > 0]  # before they were drawn in
    np.testing.assert_allclose(sizes, sizes[0])
    if not ours.early_stopping:  # which trains on some of them
        repeated = np.repeat(X, counts, axis=0)
        assert np.quantile(repeated[repeated > 0], 0.5, method="inverted_cdf") * sizes[0] == pytest.approx(1)
    theirs = estimator_class(**OPTIONS, **{"input_noise": 0.0} | options, epsilon=1e-15, standardize=False)
    theirs.fit(scaled, Y, sample_weight=counts)
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-5, atol=1e-5)
    ours_predict, theirs_predict = (e._outputs(e._table(x)) for e, x in ((ours, sparse.csr_array(X)), (theirs, scaled)))
    torch.testing.assert_close(ours_predict, theirs_predict, rtol=1e-5, atol=1e-5)


def test_without_standardisation_cells_stay_as_they_are(nothing_dense):
    classifier = BatchNormClassifier(**OPTIONS, standardize=False).fit(sparse.csr_array(X), Y)
    assert (
        classifier._table(sparse.csr_array(X)).read_sparse(slice(None), torch.float64).data.tolist()
        == X[X > 0].tolist()
    )


@BOTH
@pytest.mark.parametrize("early_stopping", [False, True])
def test_no_table_is_made_dense(estimator_class, early_stopping, nothing_dense):
    """In training, validation, prediction and for the population statistics."""
    estimator = estimator_class(**OPTIONS, early_stopping=early_stopping).fit(sparse.csr_array(X), Y)
    assert estimator.score(sparse.csr_array(X), Y) > 0.4


@pytest.mark.parametrize("n_rows", [3, 5100])  # in one block, and through folded layers
def test_predictions_do_not_depend_on_the_format(n_rows):
    classifier = BatchNormClassifier(**OPTIONS).fit(sparse.csr_array(X), Y)
    many = np.tile(X, (17, 1))[:n_rows]
    a, b = classifier.predict_proba(sparse.csr_array(many)), classifier.predict_proba(many)
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_a_network_that_someone_has_altered_is_called_as_it_is():
    classifier = BatchNormClassifier(**OPTIONS).fit(sparse.csr_array(X), Y)
    plain = classifier.predict_proba(sparse.csr_array(X))
    classifier.network_.register_forward_hook(lambda *args: args[-1] + torch.tensor([9.0, 0.0, 0.0]))
    assert (classifier.predict_proba(sparse.csr_array(X))[:, 0] > plain[:, 0]).all()


def test_columns_in_which_nothing_stood_say_nothing_later():
    table = X.copy()
    table[:, 7] = 0
    classifier = BatchNormClassifier(**OPTIONS).fit(sparse.csr_array(table), Y)
    assert not classifier.network_[0].weight[:, 7].any()
    assert np.array_equal(
        classifier.predict_proba(sparse.csr_array(X)), classifier.predict_proba(sparse.csr_array(table))
    )


def test_streams_go_on_and_files_keep_what_was_learnt(tmp_path, nothing_dense):
    table = sparse.csr_array(X)
    stream = BatchNormClassifier(**OPTIONS)
    for _ in range(15):
        for part in np.array_split(np.arange(300), 3):
            stream.partial_fit(table[part], Y[part], classes=[0, 1, 2])
    assert stream.score(table, Y) > 0.9
    stream.save(tmp_path / "text.safetensors")
    loaded = BatchNormClassifier.load(tmp_path / "text.safetensors")
    assert np.array_equal(loaded.predict_proba(table), stream.predict_proba(table))
    for estimator in (stream, loaded):
        estimator.partial_fit(table, Y)
    assert torch.equal(weights(loaded), weights(stream))


def test_several_labels_are_learnt_of_sparse_tables(nothing_dense):
    labels = np.eye(3, dtype=int)[Y]
    classifier = BatchNormClassifier(**OPTIONS | {"epochs": 30}).fit(sparse.csr_array(X), labels)
    assert (classifier.predict(sparse.csr_array(X)) == labels).mean() > 0.9


def test_a_million_columns_are_no_obstacle(nothing_dense):
    rng = np.random.default_rng(0)
    places = np.sort(rng.choice(10**6, (40, 5)), 1)
    places[:, 0] = np.arange(40) % 2
    table = sparse.csr_array((np.ones(200, np.float32), places.ravel(), np.arange(0, 201, 5)), (40, 10**6))
    classifier = BatchNormClassifier((2,), epochs=20, random_state=0).fit(table, np.arange(40) % 2)
    assert classifier.score(table, np.arange(40) % 2) > 0.9


def test_a_cell_in_parts_is_their_sum():
    table = sparse.csr_matrix(X)
    parts = sparse.csr_matrix(
        (np.repeat(table.data / 2, 2), np.repeat(table.indices, 2), table.indptr * 2), shape=table.shape
    )
    whole, summed = (BatchNormClassifier(**OPTIONS).fit(cells, Y) for cells in (table, parts))
    assert torch.equal(weights(whole), weights(summed))
    assert parts.nnz == 2 * table.nnz  # the caller's stays as it is
