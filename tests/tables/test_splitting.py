"""Which rows are trained on and which are kept for the test."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchnorm.errors import InputError
from batchnorm.tables.splitting import split_rows

SIZES = st.integers(4, 60)
SHARES = st.floats(0.01, 0.99)
SEEDS = st.integers(0, 2**32 - 1)


@given(n=SIZES, share=SHARES, seed=SEEDS, data=st.data())
def test_each_row_is_on_one_side(n, share, seed, data):
    classes = np.array(data.draw(st.lists(st.sampled_from("abcd"), min_size=n, max_size=n)))
    for kind in ({}, {"classes": classes}):
        training, test = split_rows(n, share, seed, **kind)
        assert sorted([*training, *test]) == list(range(n))
        assert min(len(training), len(test)) > 0
        np.testing.assert_array_equal(split_rows(n, share, seed, **kind)[1], test)


@given(n=SIZES, share=SHARES, seed=SEEDS, data=st.data())
def test_no_group_is_on_both_sides(n, share, seed, data):
    groups = np.array(data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)))
    if len(set(groups)) < 2:
        with pytest.raises(InputError):
            split_rows(n, share, seed, groups=groups)
        return
    training, test = split_rows(n, share, seed, groups=groups)
    assert min(len(training), len(test)) > 0
    assert not {*groups[training]} & {*groups[test]}


@given(n=SIZES, share=SHARES, data=st.data())
def test_the_latest_rows_are_tested_on(n, share, data):
    times = np.array(data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)))
    try:
        training, test = split_rows(n, share, 0, times=times)
    except InputError:
        cut = np.sort(times)[n - max(1, int(share * n))]
        assert cut == times.min()
        return
    assert times[training].max() < times[test].min()


def test_classes_have_their_share_on_both_sides_and_a_lone_one_is_trained_on():
    classes = np.array(["a"] * 80 + ["b"] * 20 + ["c"])
    training, test = split_rows(101, 0.2, 0, classes=classes)
    assert [(classes[test] == label).sum() for label in "abc"] in ([17, 4, 0], [16, 5, 0])
    assert 100 in training
