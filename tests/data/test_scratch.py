"""Rows in a scratch file, read as an array."""

import numpy as np

from batchnorm.data import MappedRows, scratch


def test_it_reads_as_an_array_does_also_what_was_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "KEPT_BYTES", 2**20)
    random = np.random.default_rng(0)
    cells = random.normal(size=(1000, 30))
    mapped = MappedRows(iter([cells[:400], cells[400:401], cells[401:]]), cells.shape, cells.dtype, tmp_path)
    assert (mapped.shape, mapped.dtype, len(mapped)) == (cells.shape, cells.dtype, 1000)
    for _ in range(20):
        which = random.integers(0, 1000, 50)
        np.testing.assert_array_equal(mapped[which], cells[which])
    np.testing.assert_array_equal(mapped[100:900], cells[100:900])
    np.testing.assert_array_equal(np.asarray(mapped), cells)
    assert not list(tmp_path.iterdir())
