"""Batch-normalised networks as scikit-learn estimators."""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError("the estimators need scikit-learn: pip install 'batchnorm[sklearn]'") from error

from batchnorm.estimator.classifier import BatchNormClassifier
from batchnorm.estimator.regressor import BatchNormRegressor

__all__ = ["BatchNormClassifier", "BatchNormRegressor"]
