"""Frames as people have them go straight into `fit`, and wherever scikit-learn takes them from there."""

import datetime
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from batchnorm import BatchNormClassifier, BatchNormRegressor
from batchnorm.errors import InputError
from estimator_cases import BOTH, outputs

OPTIONS = {"hidden_layer_sizes": (12,), "epochs": 8, "random_state": 0}


def shop(n=300, seed=0):
    """Return sales by colour, price, place and time, of which a part is missing, and whether they are many."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "price": rng.normal(50, 10, n), "stock": pd.array(rng.integers(0, 9, n), dtype="Int64"),
            "new": rng.random(n) < 0.5, "color": rng.choice(["red", "green", "blue"], n),
            "place": rng.choice([f"place {i}" for i in range(60)], n),
            "at": pd.Timestamp("2024-01-01", tz="Europe/Berlin") + pd.to_timedelta(rng.integers(0, 9000, n), "h"),
        }
    )  # fmt: skip
    sold = 3.0 * (frame.color == "red") + 0.05 * frame.price + frame.new + rng.normal(size=n)
    frame.loc[::7, "price"], frame.loc[::5, "stock"], frame.loc[::11, "at"] = np.nan, pd.NA, pd.NaT
    frame.loc[3::13, "color"] = None
    return frame, sold.to_numpy()


def targets_for(estimator_class, sold):
    return np.where(sold > np.median(sold), "many", "few") if estimator_class is BatchNormClassifier else sold


def fitted(estimator_class, **options):
    frame, sold = shop()
    return estimator_class(**OPTIONS | options).fit(frame, targets_for(estimator_class, sold)), frame


@BOTH
def test_a_mixed_frame_is_learnt_from(estimator_class):
    frame, sold = shop(900)
    y = targets_for(estimator_class, sold)
    estimator = estimator_class(random_state=0, dropout=0.2).fit(frame[:600], y[:600])
    assert estimator.score(frame[600:], y[600:]) > (0.75 if estimator_class is BatchNormClassifier else 0.4)
    assert estimator.n_features_in_ == 6
    assert estimator.feature_names_in_.tolist() == frame.columns.tolist()
    names = estimator.network_feature_names_
    assert {"price", "price is missing", "color=red", "place is rare", "at: month", "at is missing"} <= set(names)
    assert estimator.scale_inputs(frame).shape == (900, len(names))
    assert estimator.coefs_[0].shape[0] == len(names)


@BOTH
@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
def test_a_frame_of_plain_numbers_gives_the_bits_of_its_array(estimator_class, make):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 2)), rng.integers(0, 2, 80)
    frame = make({"a": X[:, 0], "b": X[:, 1]})
    plain, of_frame = (estimator_class(**OPTIONS).fit(table, y) for table in (X, frame))
    assert np.array_equal(outputs(plain, X), outputs(of_frame, frame))
    assert of_frame.network_feature_names_.tolist() == ["a", "b"]
    assert plain.network_feature_names_.tolist() == ["x0", "x1"]


@BOTH
@pytest.mark.parametrize("nullable", [lambda t: t.capitalize().replace("Bool", "boolean"), lambda t: f"{t}[pyarrow]"])
@pytest.mark.parametrize("types", ["float32", "int8", "bool", "int16 float32"])
def test_a_frame_of_nullable_numbers_gives_the_bits_of_its_array(estimator_class, nullable, types):
    X = np.random.default_rng(0).normal(scale=20, size=(80, 2))
    frame = pd.DataFrame({name: X[:, i].astype(types.split()[-i]) for i, name in enumerate(["a", "b"])})
    nullable = frame.astype({name: nullable(str(frame[name].dtype)) for name in frame})
    y = np.arange(80) % 2
    plain, of_frame = (estimator_class(**OPTIONS).fit(table, y) for table in (frame.to_numpy(), nullable))
    expected = outputs(plain, frame.to_numpy())
    for found in (outputs(of_frame, nullable), outputs(of_frame, frame)):
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_missing_numbers_of_an_array(estimator_class, dtype):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3)).astype(dtype)
    y = np.where(rng.random(200) < 0.5, 1, 0)
    X[y == 1, 1] = np.nan
    estimator = estimator_class(**OPTIONS | {"epochs": 30}).fit(X, y)
    assert estimator.network_feature_names_.tolist() == ["x0", "x1", "x1 is missing", "x2"]
    assert estimator.score(X, y) > 0.9
    assert estimator.network_[0].weight.dtype == (torch.float32 if dtype == np.float32 else torch.float64)
    assert np.isfinite(outputs(estimator, np.full((2, 3), np.nan, dtype))).all()
    assert np.array_equal(outputs(estimator, X[:5].tolist()), outputs(estimator, X[:5]))


@BOTH
def test_every_way_to_say_missing_in_an_array(estimator_class):
    X = np.random.default_rng(0).normal(size=(60, 2)).round(3)
    X[::7, 1] = np.nan
    y = np.arange(60) % 2
    expected = outputs(estimator_class(**OPTIONS).fit(X, y), X)
    masked = np.ma.array(np.where(np.isnan(X), 1e30, X), mask=np.isnan(X))
    makes = [np.where(np.isnan(X), nothing, X.astype(object)) for nothing in (None, pd.NA, pd.NaT, np.nan)]
    for same_table in (*makes, makes[0].tolist(), pd.DataFrame(X).astype("Float64").to_numpy(), masked):
        estimator = estimator_class(**OPTIONS).fit(same_table, y)
        assert np.array_equal(outputs(estimator, same_table), expected)
        assert np.array_equal(outputs(estimator, X), expected)
    plain = estimator_class(**OPTIONS).fit(np.nan_to_num(X), y)  # where none was missing in training
    for same_table in (*makes, makes[0].tolist(), masked):
        assert np.array_equal(outputs(plain, same_table), outputs(plain, X))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.array([[1.0, "a"]] * 4, dtype=object), "column 'x1' of the array: could not convert string to float: 'a'"),
        (np.array([[pd.Timestamp("2024"), 1]] * 4), "column 'x0' of the array: .*not 'Timestamp'"),
        (np.array([[1, 10**400]] * 4), "column 'x1' of the array: int too large"),
        ([[1.0, "a"]] * 4, "X is an array of texts"),
        (np.array([["2024-01-01"]] * 4, dtype="M8[D]"), "X is an array of times"),
        (np.array([[1]] * 4, dtype="m8[s]"), "X is an array of durations"),
    ],
)
def test_an_array_of_what_is_no_number_is_refused_with_a_way_out(X, message):
    with pytest.raises((ValueError, TypeError), match=f"{message}.*give a frame.*set_output"):
        BatchNormClassifier(**OPTIONS).fit(X, [0, 1, 0, 1])
    fitted = BatchNormClassifier(**OPTIONS).fit(np.arange(8.0).reshape(4, 2)[:, : np.shape(X)[1]], [0, 1, 0, 1])
    with pytest.raises((ValueError, TypeError), match=f"{message}.*give a frame"):
        fitted.predict(X)


@BOTH
def test_a_number_that_is_missing_for_the_first_time_is_the_median(estimator_class):
    X = np.random.default_rng(0).normal(size=(81, 2))
    frame = pd.DataFrame(X, columns=["a", "b"])
    estimator = estimator_class(**OPTIONS).fit(frame, np.arange(81) % 2)
    gap = frame[:2].assign(a=pd.array([pd.NA, 1], dtype="Int64"))
    filled = frame[:2].assign(a=[frame.a.median(), 1.0])
    assert np.array_equal(outputs(estimator, gap), outputs(estimator, filled))
    raw = estimator_class(**OPTIONS, standardize=False).fit(frame, np.arange(81) % 2)
    with pytest.raises(ValueError, match="column 'a' has missing numbers, and had none in training, where standardize"):
        outputs(raw, gap)


@BOTH
def test_what_does_not_fit_is_named_and_leaves_the_estimator_as_it_was(estimator_class):
    estimator, frame = fitted(estimator_class)
    before = outputs(estimator, frame)
    with pytest.raises(ValueError, match="column 'price' holds texts, expected numbers, as in training"):
        estimator.predict(frame.assign(price="cheap"))
    with pytest.raises(ValueError, match="infinity in column 'price'"):
        estimator.predict(frame.assign(price=np.inf))
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.predict(frame[frame.columns[::-1]])
    with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
        estimator.predict(frame[:0])
    y = targets_for(estimator_class, shop()[1])
    for X, wrong, message in (
        (frame.assign(tags=[["a"]] * 300), y, "column 'tags' holds values of type list"),
        (frame, y[1:], "inconsistent numbers of samples"), (frame, None, "requires y"),
        (frame[:1], y[:1], r"Found array with 1 sample\(s\)"),
        (pl.from_pandas(frame.drop(columns="at")).lazy(), y, "LazyFrame"),
        (pd.DataFrame({"age": [1.0, -np.inf] * 150}), y, "infinity in column 'age'"),
        (pd.DataFrame(index=range(300)), y, r"Found array with 0 feature\(s\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            estimator.fit(X, wrong)
    plain = estimator_class(**OPTIONS).fit(frame[["new"]].astype(float).assign(b=np.arange(300)), y)
    with pytest.raises(ValueError, match="column 'new' holds texts"):
        plain.predict(pd.DataFrame({"new": ["yes"], "b": [1]}))
    assert np.array_equal(outputs(estimator, frame), before)


@BOTH
def test_sparse_tables_have_no_missing_values_and_no_categories(estimator_class):
    X = np.random.default_rng(0).integers(0, 3, (60, 3)).astype(float)
    y = np.arange(60) % 2
    with pytest.raises(ValueError, match=r"categorical_features needs a frame or a dense array, and X is sparse"):
        estimator_class(**OPTIONS, categorical_features=[0]).fit(sparse.csr_array(X), y)
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        estimator_class(**OPTIONS).fit(sparse.csr_array(X), y)


@BOTH
def test_it_is_saved_whole_without_pickle(estimator_class, tmp_path):
    estimator, frame = fitted(estimator_class, categorical_features=["new", "place"])
    estimator.save(tmp_path / "shop.safetensors")
    loaded = estimator_class.load(tmp_path / "shop.safetensors")
    assert loaded.network_feature_names_.tolist() == estimator.network_feature_names_.tolist()
    assert loaded.categorical_features == ["new", "place"]
    for later in (frame, pl.from_pandas(frame)):
        assert np.array_equal(outputs(loaded, later), outputs(estimator, frame))
    assert np.array_equal(outputs(pickle.loads(pickle.dumps(estimator)), frame), outputs(estimator, frame))
    y = targets_for(estimator_class, shop()[1])
    for each in (loaded, estimator):
        each.partial_fit(frame, y)
    assert np.array_equal(outputs(loaded, frame), outputs(estimator, frame))


@pytest.mark.parametrize("make", [list, tuple, np.array, pd.Index, pd.Series, pl.Series, pa.array], ids=str)
@pytest.mark.parametrize("asked", [["new", "place"], [2, 4], [False, False, True, False, True, False]], ids=str)
def test_what_is_categorical_may_be_said_in_any_array(make, asked, tmp_path):
    estimator, frame = fitted(BatchNormRegressor, categorical_features=make(asked))
    assert "new=False" in clone(estimator).fit(frame, shop()[1]).network_feature_names_
    estimator.save(tmp_path / "shop.safetensors")
    loaded = BatchNormRegressor.load(tmp_path / "shop.safetensors")
    assert list(loaded.categorical_features) == asked
    assert np.array_equal(outputs(loaded, frame), outputs(estimator, frame))


def test_a_file_whose_columns_do_not_fit_its_network_is_refused(tmp_path, monkeypatch):
    estimator, _ = fitted(BatchNormClassifier)
    columns = estimator._columns
    for learnt in (columns.learnt[1:], (*columns.learnt[:-1], columns.learnt[0])):
        estimator._columns = type(columns)(learnt, columns.double)
        estimator.save(tmp_path / "damaged")
        with pytest.raises(InputError, match="does not fit this version"):
            BatchNormClassifier.load(tmp_path / "damaged")


@BOTH
def test_columns_stay_what_the_first_call_saw(estimator_class):
    frame, sold = shop()
    y = targets_for(estimator_class, sold)
    first = {"classes": ["few", "many"]} if estimator_class is BatchNormClassifier else {}
    streamed = estimator_class(**OPTIONS).partial_fit(frame[:100], y[:100], **first)
    names = streamed.network_feature_names_.tolist()
    streamed.partial_fit(frame[100:].assign(color="violet"), y[100:])
    assert streamed.network_feature_names_.tolist() == names
    constant = estimator_class(**OPTIONS).partial_fit(frame[:100].assign(price=1.0), y[:100], **first)
    assert "price" in constant.network_feature_names_  # it may vary later
    warm = estimator_class(**OPTIONS, warm_start=True).fit(frame[:200], y[:200])
    names = warm.network_feature_names_.tolist()
    assert warm.fit(frame, y).network_feature_names_.tolist() == names
    assert warm.set_params(warm_start=False).fit(frame[["price", "new"]], y).network_feature_names_.size < len(names)
    assert warm.fit(frame[["new"]].assign(n=np.arange(300)), y)._columns is None


@BOTH
def test_nothing_is_learnt_from_what_does_not_count(estimator_class):
    frame, sold = shop()
    y, counts = targets_for(estimator_class, sold), np.r_[np.ones(200), np.zeros(100)]
    frame.loc[200:, "color"] = "violet"
    frame.loc[200:, "price"] = 1e9
    weighted = estimator_class(**OPTIONS).fit(frame, y, sample_weight=counts)
    part = estimator_class(**OPTIONS).fit(frame[:200], y[:200])
    assert weighted._columns.learnt[0] == part._columns.learnt[0]
    assert weighted.network_feature_names_.tolist() == part.network_feature_names_.tolist()
    stopping = estimator_class(**OPTIONS, early_stopping=True).fit(frame, y)
    assert len(stopping.validation_scores_) > 0


def test_several_labels_and_several_values():
    frame, sold = shop()
    labels = np.c_[sold > 4, sold > 6, sold > 7].astype(int)
    classifier = BatchNormClassifier(**OPTIONS).fit(frame, labels)
    assert classifier.predict(frame).shape == (300, 3)
    regressor = BatchNormRegressor(**OPTIONS).fit(frame, np.c_[sold, -sold])
    assert regressor.predict(frame).shape == (300, 2)
    for estimator, n in ((classifier, 3), (regressor, 2)):
        assert sum("mean of target" in name for name in estimator.network_feature_names_) == n


def test_what_is_categorical_may_be_said_of_an_array():
    rng = np.random.default_rng(0)
    X = np.c_[rng.integers(0, 6, 400), rng.normal(size=400)]
    y = np.isin(X[:, 0], [0, 3, 4]).astype(int)
    said = BatchNormClassifier((), epochs=20, random_state=0, categorical_features=[0]).fit(X, y)
    assert said.score(X, y) == 1
    assert BatchNormClassifier((), epochs=20, random_state=0).fit(X, y).score(X, y) < 0.8
    with pytest.raises(
        ValueError, match="'categorical_features' parameter of BatchNormClassifier must be None, 'from_"
    ):
        said.set_params(categorical_features="auto").fit(X, y)


@BOTH
def test_scikit_learns_tools_take_frames(estimator_class):
    frame, sold = shop()
    y = targets_for(estimator_class, sold)
    estimator = estimator_class(**OPTIONS)
    assert len(cross_val_score(estimator, frame, y, cv=3)) == 3
    assert len(cross_val_score(clone(estimator), pl.from_pandas(frame), y, cv=3)) == 3
    search = GridSearchCV(estimator, {"dropout": [0, 0.2], "categorical_features": ["from_dtype", ["new"]]}, cv=2)
    assert np.isfinite(search.fit(frame, y).cv_results_["mean_test_score"]).all()
    best = search.best_estimator_
    importance = permutation_importance(best, frame, y, n_repeats=2, random_state=0)
    assert frame.columns[importance.importances_mean.argmax()] == "color"
    pipeline = make_pipeline(FunctionTransformer(lambda X: X.assign(cheap=X.price < 40)), estimator).fit(frame, y)
    assert "cheap" in pipeline[-1].network_feature_names_
    if estimator_class is BatchNormRegressor:
        log = TransformedTargetRegressor(estimator, func=np.exp, inverse_func=np.log, check_inverse=False)
        assert log.fit(frame, y / 10).predict(frame).shape == (300,)


@pytest.mark.parametrize(
    "zone", ["Asia/Tokyo", "Europe/Berlin", "UTC", datetime.timezone(datetime.timedelta(hours=5, minutes=30))]
)
def test_times_of_python_are_read_on_the_same_clock(zone):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=80), "t": pd.date_range("2020", periods=80, freq="7h", tz=zone)})
    objects, y = frame.astype({"t": object}), rng.integers(2, size=80)
    typed, untyped = (BatchNormClassifier(epochs=2, random_state=0).fit(X, y) for X in (frame, objects))
    for estimator in (typed, untyped):
        np.testing.assert_array_equal(estimator.scale_inputs(frame), typed.scale_inputs(frame))
        np.testing.assert_array_equal(estimator.scale_inputs(objects), typed.scale_inputs(frame))
