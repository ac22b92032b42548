"""Tables that stay where they are: what is read of them is what a standardised copy would hold."""

import numpy as np
import pytest
import torch
from scipy import sparse

from batchnorm import Examples
from batchnorm.data import ExamplesLike, StreamedExamples, Table, row_blocks, streaming

CELLS = np.random.default_rng(0).normal(3, 2, (40, 5))
MEAN, DEVIATION = CELLS.mean(0), CELLS.std(0)
LABELS = torch.arange(40) % 3


@pytest.mark.parametrize("make", [np.asarray, np.asfortranarray, sparse.csr_array])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_streamed_examples_are_like_a_standardised_copy(make, dtype):
    copied = Examples(torch.from_numpy((CELLS - MEAN) / DEVIATION), LABELS)
    streamed = StreamedExamples(Table(make(CELLS), MEAN, DEVIATION), LABELS)
    indices = torch.tensor([39, 0, 7, 7])

    def seen(examples: ExamplesLike):
        return len(examples), examples.n_features, examples.weights, *examples.batch(indices, dtype)

    (*ours, inputs, labels), (*theirs, expected, expected_labels) = seen(streamed), seen(copied)
    assert ours == theirs == [40, 5, None]
    assert inputs.dtype == dtype
    torch.testing.assert_close(inputs, expected)
    assert torch.equal(labels, expected_labels)


@pytest.mark.parametrize("bound", [None, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [sparse.csr_array, sparse.csr_matrix])
def test_a_sparse_table_without_means_is_read_without_its_zeros(make, dtype, bound):
    cells = make(np.where(CELLS > 4, CELLS, 0))
    table = Table(cells, np.zeros(5), DEVIATION, bound)
    assert table.keeps_zeros
    expected = torch.empty(40, 5, dtype=dtype).numpy()
    table.read(slice(None), expected)
    for which in (slice(None), slice(3, 9), np.array([39, 0, 7, 7])):
        read = table.read_sparse(which, dtype)
        assert read.nnz == cells[which].nnz
        assert read.dtype == expected.dtype
        np.testing.assert_allclose(read.toarray(), expected[which], rtol=3e-7)
    assert not Table(cells, MEAN, DEVIATION).keeps_zeros
    assert not Table(cells.toarray(), np.zeros(5), DEVIATION).keeps_zeros


def test_cells_that_stand_twice_are_added_before_they_are_drawn_in():
    twice = sparse.csr_array((np.array([4.0, 3.0]), np.array([1, 1]), np.array([0, 2])), shape=(1, 3))
    read = Table(twice, np.zeros(3), np.ones(3), bound=1.0).read_sparse(slice(None), torch.float64)
    np.testing.assert_allclose(read.toarray(), [[0, 7 / np.sqrt(50), 0]])
    assert twice.data.tolist() == [4, 3]


def test_features_of_images_are_counted_over_all_dimensions():
    assert Examples(torch.zeros(3, 28, 28), torch.zeros(3, dtype=torch.int64)).n_features == 784


@pytest.mark.parametrize(
    ("n_columns", "most", "largest"), [(10, None, 10), (10, 4, 4), (1000, None, 1), (0, None, 100)]
)
def test_blocks_are_all_rows_in_order_and_bounded(n_columns, most, largest, monkeypatch):
    monkeypatch.setattr(streaming, "_CELLS_AT_A_TIME", 100)
    blocks = list(row_blocks(23, n_columns, most))
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(23))
    assert max(block.stop - block.start for block in blocks) == min(largest, 23)
