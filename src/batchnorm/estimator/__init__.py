"""Batch-normalised networks as scikit-learn estimators."""

from batchnorm.errors import importing

with importing("sklearn", "the estimators need scikit-learn"):
    import sklearn  # noqa: F401
with importing("sklearn", "the estimators need narwhals"):
    import narwhals  # noqa: F401

from batchnorm.estimator.classifier import BatchNormClassifier
from batchnorm.estimator.regressor import BatchNormRegressor
from batchnorm.estimator.saving import parameters_from_json, parameters_to_json
from batchnorm.estimator.weights import held_back_of

__all__ = ["BatchNormClassifier", "BatchNormRegressor", "held_back_of", "parameters_from_json", "parameters_to_json"]
