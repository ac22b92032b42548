"""What columns become in torch is what they become in `Columns`, on any date and in any zone."""

import datetime
import zoneinfo

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from batchnorm.exporting.calendar import days_of, month_of, zone_offsets
from batchnorm.exporting.columns import FromColumns, groups
from batchnorm.exporting.estimators import Subject
from batchnorm.exporting.rows import made_up_rows
from batchnorm.functional import Moments
from batchnorm.inputs import Columns, open_frame
from exported_cases import new_rows, shop


class Estimator:
    """As much of an estimator as the input stage asks for."""

    def __init__(self, frame):
        opened = open_frame(frame)
        self._columns, _ = Columns.learn(opened, np.arange(len(frame)) % 12 // 6, None, 0)
        self.feature_names_in_ = np.array(opened.names, dtype=object)
        n = len(self._columns.names)
        self._inputs = Moments(1, torch.zeros(n).double(), torch.ones(n).double())
        self.network_ = torch.nn.Linear(1, 1)


def same(frame, others):
    estimator = Estimator(frame)
    found = FromColumns(estimator._columns)(Subject(estimator, others).argument())
    expected = estimator._columns.transform(open_frame(others))
    return expected.shape[1] > 0 and torch.equal(found, torch.from_numpy(expected))


def test_columns_become_the_same_numbers():
    frame, _ = shop()
    assert same(frame, frame)
    assert same(frame, new_rows())
    narrow = frame.astype({"price": "float32", "stock": "Float32"}).drop(columns="waited")
    assert same(narrow, narrow)
    some = ["price", "color", "at", "day"]
    assert same(pl.from_pandas(frame[some]), pl.from_pandas(new_rows()[some]))
    made_up = made_up_rows(Estimator(frame), 9)
    assert same(frame, pd.DataFrame(made_up, columns=frame.columns))
    assert len(groups(Estimator(frame)._columns)) == 4  # numbers, texts, times with a zone and without


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kathmandu", "+05:30", "UTC"])
def test_clocks_of_zones(zone):
    hours = pd.to_timedelta(np.arange(0, 600_000, 1201), "h")
    times = pd.DataFrame({"at": (pd.Timestamp("1960-01-01", tz="UTC") + hours).tz_convert(zone)})
    assert same(times, times)


def test_offsets_are_those_of_the_time_zones_data():
    instants, offsets = zone_offsets("Europe/Berlin")
    assert len(offsets) == len(instants) + 1
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    for instant, before, after in zip(instants, offsets, offsets[1:], strict=False):
        for second, offset in ((instant // 10**6 - 1, before), (instant // 10**6, after)):
            assert datetime.datetime.fromtimestamp(second, zone).utcoffset() == datetime.timedelta(microseconds=offset)


def test_months_of_four_thousand_years():
    days = np.arange("-0500-01-01", "3500-01-01", 3, dtype="datetime64[D]")
    times = torch.from_numpy(days.astype("datetime64[us]").astype(np.int64))
    for since in (times, times + 86_400 * 10**6 - 1):
        assert np.array_equal(days_of(since).numpy(), days.astype(np.int64))
    assert np.array_equal(month_of(days_of(times)).numpy(), days.astype("datetime64[M]").astype(np.int64) % 12 + 1)
