"""The fuzz targets for files, briefly; at length by hand, as each of them says."""

from fuzz import idx


def test_damaged_idx_files():
    ended = idx.check(300, seed=1)
    assert all(ended.values()), ended
