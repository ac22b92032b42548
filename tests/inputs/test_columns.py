"""What a frame's columns become: numbers, the same from every library, learnt from the training alone."""

import datetime
import json
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from batchnorm.inputs.columns import Columns
from batchnorm.inputs.frames import open_frame
from batchnorm.inputs.statistics import out_of_fold, value_statistics

NOBODY = np.zeros((0, 1))


def learn(frame, targets=None, weights=None, **options):
    targets = np.arange(len(frame)) % 2 if targets is None else targets
    opened = open_frame(frame)
    columns, own = Columns.learn(opened, targets, weights, 0, **options)
    return columns, columns.transform(opened, own)


def become(values, later=(), **options):
    """Return names, and what a column `x` becomes in training and later."""
    columns, made = learn(pd.DataFrame({"x": values, "one": np.arange(len(values))}), **options)
    names = columns.names[:-1]
    assert columns.names[-1] == "one"
    frame = pd.DataFrame({"x": later, "one": np.arange(len(later))})
    return names, made[:, :-1].tolist(), columns.transform(open_frame(frame))[:, :-1].tolist() if len(later) else None


def objects(*values):
    return pd.Series(list(values), dtype=object)


def test_missing_numbers_are_the_median_and_say_so():
    names, made, later = become([1.0, 2.0, np.nan, 9.0], [np.nan, 5.0])
    assert names == ["x", "x is missing"]
    assert made == [[1, 0], [2, 0], [2, 1], [9, 0]]
    assert later == [[2, 1], [5, 0]]


def test_what_was_never_missing_in_training_is_the_median_later():
    assert become([1.0, 2.0, 9.0], [np.nan, 5.0])[::2] == (["x"], [[2], [5]])


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([1, 0, None], dtype="Int64"), pd.Series([True, False, None], dtype="boolean"),
        pd.Series([1, 0, np.nan]), objects(1, 0, None), objects(True, False, pd.NA), objects(Decimal(1), 0.0, math.nan),
        objects(Decimal(1), 0, Decimal("sNaN")), pd.Series([1, 0, np.nan], dtype=np.longdouble),
    ],
    ids=lambda values: str(values.dtype),
)  # fmt: skip
def test_every_way_to_write_numbers_truth_and_missing(values):
    names, made, _ = become(values)
    assert (names, made) == (["x", "x is missing"], [[1, 0], [0, 0], [0, 1]])


def test_texts_have_a_column_each_missing_has_its_own_and_what_is_unseen_has_none():
    names, made, later = become(["b", "a", "b", "a", "b", None, ""] * 3, ["a", "new", None])
    assert names == ["x=b", "x=a", "x=", "x is missing"]
    assert made[:2] + made[5:7] == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert later == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_rare_and_unseen_values_share_a_column():
    names, made, later = become(["a"] * 5 + ["b"] * 5 + ["c"], ["new", "c", "a", None])
    assert names == ["x=a", "x=b", "x is rare"]
    assert made[-1] == [0, 0, 1]
    assert later == [[0, 0, 1], [0, 0, 1], [1, 0, 0], [0, 0, 1]]
    names, _, _ = become(["a"] * 300 + ["b"] * 697 + ["c"] * 3)  # below 0.5 %
    assert names == ["x=b", "x=a", "x is rare"]


def test_a_number_as_a_category_is_the_same_in_every_type():
    names, made, later = become([1, 2] * 3, [2.0, np.nan], categorical_features=["x"])
    assert (names, made[:2], later) == (["x=1", "x=2"], [[1, 0], [0, 1]], [[0, 1], [0, 0]])
    assert become(objects(1, "1", 1.0, "b", "b"))[0] == ["x=1", "x=b"]
    assert become([2**60, 2**60 + 1] * 3, categorical_features=[0])[0] == [f"x={2**60}", f"x={2**60 + 1}"]
    assert become(["1", "2"] * 3, [2, 1])[2] == [[0, 1], [1, 0]]


def test_categories_are_those_of_the_type_or_those_asked_for():
    values = pd.Categorical([3, 1, 3, 1], categories=[9, 3, 1])  # 9 is never there
    assert become(values)[0] == ["x=1", "x=3"]
    assert become(values, categorical_features=None)[:2] == (["x"], [[3], [1], [3], [1]])
    assert become(values, categorical_features=["one"] * 0)[0] == ["x"]
    for asked in (["x"], [0], [-2], [True, False], np.array([True, False])):
        assert become([3, 1, 3, 1], categorical_features=asked)[0] == ["x=1", "x=3"]
    for wrong, said in ((["y"], "names 'y', which is no column"), ([2], "names 2,"), ([True], "has 1 truth values")):
        with pytest.raises(ValueError, match=f"categorical_features {said}"):
            become([3, 1, 3, 1], categorical_features=wrong)


def test_times_become_years_month_weekday_and_hour():
    values = pd.to_datetime(["2024-01-01 06:30", "2025-01-02 00:00", None, "2023-12-31 12:00"])
    names, made, later = become(values, pd.to_datetime(["2024-07-06 18:00"]))
    assert names == ["x: years", "x: month", "x: weekday", "x: hour", "x is missing"]
    np.testing.assert_allclose(made[0], [0, 1, 0, 6.5, 0])
    np.testing.assert_allclose(made[1], [367 / 365.2425 - 6.5 / 24 / 365.2425, 1, 3, 0, 0])
    np.testing.assert_allclose(made[2], [0, 1, 3, 6.5, 1])
    np.testing.assert_allclose(later, [[(187 + 11.5 / 24) / 365.2425, 7, 5, 18, 0]])


def test_dates_have_no_hour_and_durations_are_seconds():
    dates = objects(datetime.date(1500, 3, 1), None, datetime.date(9999, 5, 2))
    assert become(dates)[0] == ["x: years", "x: month", "x: weekday", "x is missing"]
    assert become(pd.to_timedelta([1, None, 3], "D"))[1] == [[86400, 0], [86400, 1], [3 * 86400, 0]]
    assert become(objects(datetime.timedelta(1), datetime.timedelta(2)))[1] == [[86400], [2 * 86400]]


def test_time_zones_show_the_clock_of_the_training():
    berlin = pd.date_range("2024-03-29 12:00", periods=3, freq="D", tz="Europe/Berlin")  # over a change of the clocks
    names, made, later = become(berlin, berlin.tz_convert("Asia/Tokyo"))
    assert names == ["x: years", "x: weekday"]  # always at noon, by that clock
    assert later == made
    with pytest.raises(ValueError, match="column 'x' has no time zone, and had one in training"):
        become(berlin, berlin.tz_localize(None))
    aware = objects(datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2024, 1, 1))
    with pytest.raises(ValueError, match="column 'x' mixes times with and without a time zone"):
        become(aware)


@pytest.mark.parametrize("zone", ["America/New_York", "Etc/GMT+5", datetime.timezone(datetime.timedelta(hours=-5))])
def test_time_zones_of_any_name(zone):
    times = pd.date_range("2024-01-01 05:00", periods=3, freq="12h", tz="UTC")
    names, made, later = become(times.tz_convert(zone), times)
    assert names == ["x: years", "x: weekday", "x: hour"]
    assert [row[2] for row in made] == [0, 12, 0]
    assert later == made


def test_what_does_not_vary_is_left_out():
    frame = pd.DataFrame(
        {
            "number": [1.0, np.nan, 1.0], "text": ["a"] * 3, "none": objects(None, None, None), "nan": [np.nan] * 3,
            "day": pd.to_datetime(["2024-05-01"] * 3), "x": [1, 2, 3],
        }
    )  # fmt: skip
    columns, _ = learn(frame)
    assert columns.names == ["number is missing", "x"]
    later = frame.assign(none=["surprise"] * 3)
    assert columns.transform(open_frame(later)).tolist() == [[0, 1], [1, 2], [0, 3]]
    streamed, _ = learn(frame, keep_constant=True)
    assert {"number", "text=a", "day: years", "x"} <= set(streamed.names)
    with pytest.raises(ValueError, match="no column is left to learn from"):
        learn(frame[["text", "none"]])


def test_names_and_prose_are_left_out_with_a_warning_unless_they_are_asked_for():
    texts = [f"somebody {i}" for i in range(40)]
    with pytest.warns(UserWarning, match=r"column 'x' is left out, as nearly all of its texts are different"):
        assert become(texts)[0] == []
    assert become([f"value {i // 2}" for i in range(80)], categorical_features=["x"])[0][-1] == "x: mean of target"


def test_a_value_that_stands_there_once_is_alone_whatever_its_example_weighs():
    heavy = np.where(np.arange(100) % 10, 1.0, 99.0)  # as of a rare class that weighs as much as the rest
    names = pd.DataFrame({"x": [f"somebody {i}" for i in range(100)], "one": np.arange(100)})
    rare = pd.DataFrame({"x": np.where(heavy > 1, names.x, np.where(np.arange(100) % 2, "a", "b"))})
    for weights in (heavy, np.random.default_rng(0).uniform(0.1, 9, 100)):
        with pytest.warns(UserWarning, match="column 'x' is left out"):
            assert learn(names, weights=weights)[0].names == ["one"]
        assert learn(rare, weights=weights)[0].names == ["x=a", "x=b", "x is rare"]
    many = pd.DataFrame({"x": [f"v{i % 40}" if i < 80 else f"w{i}" for i in range(100)]})
    columns, _ = learn(many, weights=heavy, categorical_features=["x"])
    assert columns.learnt[0].known[0] == "v0"
    assert not {f"w{i}" for i in range(80, 100)} & set(columns.learnt[0].known)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1], [2]], "holds values of type list: make numbers, truth values, texts or dates of it, or leave it out"),
        ([b"a", b"b"], "holds values of type bytes"), ([1j, 2j], "holds values of type complex"),
        ([np.arange(2), np.arange(2)], "holds values of type ndarray"),
        ([{"a": 1}, "b"], "holds values of type dict, str"),
        (pd.period_range("2024", periods=2, freq="D"), "holds values of type Period: make"),
        (pd.arrays.IntervalArray.from_breaks([0, 1, 2]), "holds values of type Interval: make"),
    ],
)  # fmt: skip
def test_what_has_no_form_as_numbers_is_named(values, message):
    with pytest.raises(ValueError, match=f"column 'x' {message}"):
        become(values)


def test_what_is_not_what_it_was_is_named():
    for values, later, found in (
        ([1, 2], ["a"], "texts, expected numbers"),
        ([1, 2], pd.to_timedelta([1], "D"), "dur"),
    ):
        with pytest.raises(ValueError, match=f"column 'x' holds {found}"):
            become(values, later)
    with pytest.raises(ValueError, match="column 'x' holds numbers, expected dates or times, as in training"):
        become(pd.date_range("2024", periods=2), [1.0])
    for large in (np.inf, 10**400, Fraction(10**400, 3), Decimal("1e400")):
        with pytest.raises(ValueError, match="infinity in column 'x'"):
            become(objects(1.0, large))
    assert become(objects(*["a", 10**400] * 2))[0] == ["x=1" + 400 * "0", "x=a"]


@pytest.mark.parametrize(
    ("values", "double"),
    [
        (np.float32([1, 2]), False), (np.float64([1, 2]), True), (np.array([1, 2]), False), ([1, 2**24 + 1], True),
        (["a", "b"], False), (objects(True, None), False), (objects(Decimal("1.1"), None), True),
        (pd.Series([1.5, None], dtype="Float32"), False), (pd.Series([1.5, None], dtype="Float64"), True),
    ],
)  # fmt: skip
def test_numbers_have_the_precision_that_they_need(values, double):
    columns, made = learn(pd.concat([pd.DataFrame({"x": values, "flag": [True, False]})] * 2))
    assert columns.double == double
    assert made.dtype == (np.float64 if double else np.float32)


def test_a_weight_of_two_is_the_example_twice_and_one_of_none_is_not_there():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "x": np.where(rng.random(90) < 0.1, np.nan, rng.normal(size=90)), "s": rng.choice(list("abcdefg"), 90),
            "t": pd.Timestamp("2024") + pd.to_timedelta(rng.integers(0, 900, 90), "h"),
        }
    )  # fmt: skip
    frame["c"] = 1.0
    frame.loc[80:, ["c", "s"]] = 2.0, "never"
    counts = np.r_[rng.integers(1, 4, 80), np.zeros(10, dtype=int)]
    weighted, _ = learn(frame, weights=counts.astype(float))
    repeated, _ = learn(frame.loc[np.repeat(np.arange(90), counts)].reset_index(drop=True))
    assert weighted == repeated
    assert not {"s=never", "c"} & set(weighted.names)
    assert weighted == learn(frame, weights=counts / 100)[0]  # only their ratios count


def test_statistics_of_targets_are_drawn_to_the_mean_and_foreign_in_training():
    rng = np.random.default_rng(0)
    effects = 0.3 * rng.normal(size=200)
    codes = rng.integers(0, 200, 2000)
    targets = (effects[codes] + rng.normal(size=2000))[:, None]
    frame = pd.DataFrame({"x": [f"v{code}" for code in codes]})
    columns, made = learn(frame, targets)
    assert columns.names[-1] == "x: mean of target"
    later = columns.transform(open_frame(pd.DataFrame({"x": ["v0", "unseen"]})))[:, -1]
    assert later[1] == pytest.approx(targets.mean())
    own = targets[codes == 0].mean()
    assert abs(later[0] - targets.mean()) < abs(own - targets.mean())
    seen = columns.transform(open_frame(frame))
    noise = targets[:, 0] - effects[codes]
    assert np.corrcoef(seen[:, -1], noise)[0, 1] > 0.15  # its own target is in there
    assert abs(np.corrcoef(made[:, -1], noise)[0, 1]) < 0.06
    assert np.corrcoef(made[:, -1], effects[codes])[0, 1] > 0.5
    assert np.array_equal(made, learn(frame, targets)[1])


def test_statistics_by_hand():
    codes, outputs = np.array([0, 0, 1, 1, -1]), np.array([[1.0], [3.0], [7.0], [9.0], [5.0]])
    # within: 4 · 1 / 2 = 2; between: (2 · 9 + 2 · 9 − 2) / 1 / 2 = 17; trust in two examples: 34 / 36
    of_values, mean = value_statistics(codes, outputs, np.ones(5), 2)
    np.testing.assert_allclose(of_values[:, 0], [5 - 3 * 34 / 36, 5 + 3 * 34 / 36])
    assert mean.tolist() == [5]
    foreign = out_of_fold(codes, outputs, np.array([1.0, 1, 1, 1, 0]), 2, 0)
    assert foreign[4, 0] == pytest.approx(5)  # it does not count: of all others
    assert foreign[0, 0] != foreign[1, 0]


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (np.arange(400) % 2, [""]), (np.arange(400) % 3, [" 0", " 1", " 2"]), (np.arange(400) % 11, []),
        (np.ones((400, 2)), [" 0", " 1"]), (np.ones((400, 3), dtype=bool), [" 0", " 1", " 2"]),
    ],
)  # fmt: skip
def test_there_are_statistics_of_each_of_a_few_outputs(targets, names):
    columns, made = learn(pd.DataFrame({"x": [f"v{i % 40}" for i in range(400)]}), targets)
    assert columns.names[30:] == ["x is rare", *(f"x: mean of target{name}" for name in names)]
    assert made.shape == (400, 31 + len(names))


def mixed(n=60):
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "float": rng.normal(size=n), "int": [None if i % 7 == 0 else i for i in range(n)],
            "flag": [None if i % 11 == 0 else i % 3 == 0 for i in range(n)],
            "text": [None if i % 5 == 0 else f"t{i % 4}" for i in range(n)],
            "many": pl.Series([f"v{i % 35}" for i in range(n)], dtype=pl.Categorical),
            "date": [datetime.date(2024, 1 + i % 12, 1 + i % 28) for i in range(n)],
            "time": pl.Series([datetime.datetime(2024, 1, 1 + i % 28, i % 24) for i in range(n)]).dt.replace_time_zone(
                "America/New_York"
            ),
            "took": [datetime.timedelta(seconds=i) for i in range(n)],
        }
    )  # fmt: skip


def as_pandas(frame):
    data = {name: objects(*frame[name].to_list()) for name in frame.columns}
    data["many"], data["time"] = data["many"].astype("category"), pd.to_datetime(data["time"])
    return pd.DataFrame(data)


def as_arrow(frame):
    pa = pytest.importorskip("pyarrow")
    values = {name: frame[name].to_list() for name in frame.columns if name not in ("many", "time")}
    zone = pa.timestamp("us", "America/New_York")
    table = pa.table(
        {**values, "many": pa.array(frame["many"].to_list()).dictionary_encode(),
         "time": pa.array(frame["time"].to_list(), zone)}
    )  # fmt: skip
    return table.select(frame.columns)


def as_pandas_on_arrow(frame):
    return as_arrow(frame).to_pandas(types_mapper=pd.ArrowDtype)


@pytest.mark.parametrize("library", [as_pandas, as_arrow, as_pandas_on_arrow])
def test_every_library_gives_the_same_numbers(library):
    ours, made = learn(mixed())
    other = library(mixed())
    theirs, same = learn(other)
    assert (theirs.names, theirs.double) == (ours.names, ours.double)
    np.testing.assert_array_equal(same, made)
    np.testing.assert_array_equal(ours.transform(open_frame(other)), ours.transform(open_frame(mixed())))


def test_types_of_polars():
    frame = pl.DataFrame(
        {
            "enum": pl.Series(["a", "b"] * 3, dtype=pl.Enum(["b", "a", "c"])), "null": [None] * 6,
            "decimal": [Decimal("1.5"), Decimal("2.5")] * 3, "wide": pl.Series([2**70, 1] * 3, dtype=pl.Int128),
        }
    )  # fmt: skip
    assert learn(frame)[0].names == ["enum=a", "enum=b", "decimal", "wide"]
    for column in ([[1]] * 6, [{"a": 1}] * 6, [datetime.time(1)] * 6, [b"a"] * 6):
        with pytest.raises(ValueError, match="column 'bad' is of type"):
            learn(frame.with_columns(bad=pl.Series(column)))
    with pytest.raises(ValueError, match=r"X is a LazyFrame, expected a frame that holds its rows: collect\(\) it"):
        open_frame(frame.lazy())


def test_types_of_pyarrow_that_narwhals_does_not_know():
    days, prices = [datetime.date(2024, 1, 1), datetime.date(2024, 3, 1)] * 3, [Decimal("1.5"), None] * 3
    table = pa.table(
        {
            "day": pa.array(days, pa.date64()), "wide": pa.array(prices, pa.decimal256(50, 2)),
            "runs": pa.RunEndEncodedArray.from_arrays([3, 6], [1.0, 2.0]),
        }
    )  # fmt: skip
    columns, made = learn(table)
    assert columns.names == ["day: years", "day: month", "day: weekday", "wide is missing", "runs"]
    assert made[:2, 1].tolist() == [1, 3]
    assert made[:, -1].tolist() == [1, 1, 1, 2, 2, 2]
    with pytest.raises(ValueError, match="column 'bad' holds values of type bytes: make numbers"):
        learn(table.append_column("bad", pa.array([b"ab"] * 6, pa.binary(2))))


def test_columns_are_read_by_place_whatever_they_are_called():
    for names in (["x", "x"], [0, 1], [("a", 1), ("a", 2)]):
        frame = pd.DataFrame([[1.5, "a"], [2.5, "b"]] * 3)
        frame.columns = names
        columns, made = learn(frame)
        assert columns.names == [str(names[0]), f"{names[1]}=a", f"{names[1]}=b"]
        assert made[:2].tolist() == [[1.5, 1, 0], [2.5, 0, 1]]


def test_sparse_columns_of_a_mixed_frame():
    frame = pd.DataFrame({"x": pd.arrays.SparseArray([0, 0, 3.0]), "s": ["a", "b", "a"]})
    assert learn(frame)[1][:, 0].tolist() == [0, 0, 3]
    assert open_frame(frame[["x"]].astype(pd.SparseDtype(float, 0.0))) is None  # scikit-learn's: a sparse matrix


def test_no_rows():
    columns, _ = learn(mixed())
    assert columns.transform(open_frame(mixed()[:0])).shape == (0, len(columns.names))


def test_all_of_it_goes_through_json():
    columns, _ = learn(mixed())
    text = json.dumps(columns.to_json(), allow_nan=False)
    again = Columns.from_json(json.loads(text))
    assert again == columns
    np.testing.assert_array_equal(again.transform(open_frame(mixed())), columns.transform(open_frame(mixed())))


@pytest.mark.parametrize(
    "damage",
    [
        lambda made: made.update(double=1), lambda made: made["columns"][0].update(kind="code"),
        lambda made: made["columns"][0].update(median=math.nan), lambda made: made["columns"][0].pop("name"),
        lambda made: made["columns"][3].update(values=["a", 1]), lambda made: made["columns"][4]["mean"].append(1.0),
        lambda made: made["columns"][4]["known"].pop(), lambda made: made["columns"][5].update(parts=["century"]),
    ],
)  # fmt: skip
def test_json_that_is_none_of_ours_is_refused(damage):
    made = json.loads(json.dumps(learn(mixed())[0].to_json()))
    damage(made)
    with pytest.raises((KeyError, TypeError, ValueError)):
        Columns.from_json(made)
