"""The fuzz targets for files, briefly; at length by hand, as each of them says."""

from fuzz import arrays, idx, images, table_files


def test_damaged_idx_files():
    ended = idx.check(300, seed=1)
    assert all(ended.values()), ended


def test_damaged_arrays_and_weights():
    ended = arrays.check(300, seed=1)
    assert all(ended.values()), ended


def test_damaged_tables():
    ended = table_files.check(300, seed=1)
    assert all(ended.values()), ended


def test_damaged_images():
    ended = images.check(300, seed=1)
    assert all(ended.values()), ended
