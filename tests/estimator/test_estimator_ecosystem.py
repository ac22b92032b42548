"""Among scikit-learn's tools: searches, calibration, routing, frames."""

import warnings

import joblib
import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from batchnorm import BatchNormClassifier, BatchNormRegressor
from estimator_cases import BOTH, DIABETES, IRIS, SMALL


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_grid_is_searched_by_several_processes():
    X, y = IRIS
    grid = {"batchnormclassifier__alpha": [0.0, 100.0], "batchnormclassifier__hidden_layer_sizes": [(4,), (8, 8)]}
    pipeline = make_pipeline(MinMaxScaler(), BatchNormClassifier(random_state=0, epochs=100))
    with joblib.parallel_config("multiprocessing"):  # what loky starts has to import everything
        several = GridSearchCV(pipeline, grid, n_jobs=2, cv=3).fit(X, y)
    alone = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
    np.testing.assert_allclose(several.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    assert several.best_score_ > 0.9


def test_calibration_importance_and_cross_validation():
    X, y = IRIS
    noise = np.random.default_rng(0).normal(size=(150, 1))
    X = np.column_stack([X, noise])
    calibrated = CalibratedClassifierCV(BatchNormClassifier(**SMALL), cv=3).fit(X, y)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(1), 1)
    classifier = BatchNormClassifier(random_state=0).fit(X, y)
    importance = permutation_importance(classifier, X, y, n_repeats=3, random_state=0).importances_mean
    assert importance[:4].max() > 0.2 > 0.1 > importance[4]
    assert cross_val_score(BatchNormRegressor(random_state=0), *DIABETES, cv=3).mean() > 0.3


def test_weights_are_routed():
    import sklearn

    X, y = IRIS
    weights = (y < 2).astype(float)
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = BatchNormClassifier(random_state=0).set_fit_request(sample_weight=True)
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), classifier)
        pipeline.fit(X, y, sample_weight=weights)
    assert set(pipeline.predict(X)) <= {0, 1}


def test_frames_keep_their_names():
    import pandas as pd
    import polars as pl

    X, y = load_iris(return_X_y=True, as_frame=True)
    names = np.array(["a", "b", "c"])[y]
    plain = BatchNormClassifier(**SMALL).fit(X.to_numpy(), names)
    for frame, target in ((X, pd.Series(names)), (pl.DataFrame(X.to_dict("list")), pl.Series(names))):
        classifier = BatchNormClassifier(**SMALL).fit(frame, target)
        assert classifier.feature_names_in_.tolist() == X.columns.tolist()
        assert np.array_equal(classifier.predict_proba(frame), plain.predict_proba(X.to_numpy()))
        with pytest.raises(ValueError, match="feature names"):
            classifier.predict(X.rename(columns={"petal width (cm)": "other"}))
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            classifier.predict(X.to_numpy())
    pipeline = make_pipeline(StandardScaler(), BatchNormClassifier(**SMALL)).set_output(transform="pandas")
    assert pipeline.fit(X, names)[-1].feature_names_in_.tolist() == X.columns.tolist()


def test_class_weights_may_name_a_class_that_a_fold_lacks():
    X, y = IRIS
    scores = cross_val_score(BatchNormClassifier(**SMALL, class_weight={0: 1, 1: 2, 2: 3}), X, y, cv=KFold(3))
    assert np.isfinite(scores).all()


@BOTH
def test_names_are_kept_with_early_stopping(estimator_class):
    X, y = load_iris(return_X_y=True, as_frame=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator_class(**SMALL, early_stopping=True).fit(X, y).predict(X)
