"""scikit-learn's own tests of its networks, as they are installed, with ours in their place.

They were looked at with one version: what fails with another is reported alone (``-rx``), as theirs may have changed.
"""

import importlib.util
import runpy

import pytest
import sklearn
import sklearn.neural_network

from batchnorm import BatchNormClassifier, BatchNormRegressor
from conftest import REPOSITORY

_LOOKED_AT = sklearn.__version__.startswith("1.9.")
_PRIVATE = "private attributes"
_PLACE, _LENGTH, _OUTLYING = "In the place of `MLPClassifier` and `MLPRegressor`", "`max_iter`", "Outlying cells"
_EXPECTED = {  # why it fails: private attributes, or a heading of docs/estimators.md and what it says
    "test_fit": (_PLACE, "coefs_ cannot be set"),
    "test_alpha": (_PLACE, "batch norm undoes the scale of weights, so decay does not show in coefs_"),
    "test_gradient": (_PRIVATE, "_loss_grad_lbfgs"),
    "test_lbfgs_regression": (_PLACE, "lbfgs is AdamW, which does not interpolate in so few steps"),
    "test_mlp_vs_poisson_glm_equivalent": (_PLACE, "lbfgs is AdamW, which comes near the optimum, not to four digits"),
    "test_learning_rate_warmstart": (_PRIVATE, "_optimizer"),
    "test_adaptive_learning_rate": (_PRIVATE, "_optimizer"),
    "test_n_iter_no_change": (_PRIVATE, "_no_improvement_count"),
    "test_n_iter_no_change_inf": (_LENGTH, "a cap of 3000 epochs makes no training longer"),
    "test_partial_fit_regression": (_PLACE, "fit anneals, partial_fit cannot"),
    "test_mlp_loading_from_joblib_partial_fit": (_PLACE, "a single example"),
    "test_shuffle": (_PLACE, "batches of a single example"),
    "test_early_stopping_stratified": (_PLACE, "a class of one member is trained on where they raise"),
    "test_nonfinite_params": (_OUTLYING, "the largest numbers are drawn in where they raise"),
    "test_mlp_diverging_loss": (_PLACE, "a training that diverges raises"),
}


def _with_ours():
    """Return the tests by name; without their file, which some distributions leave out, there are none."""
    found = importlib.util.find_spec("sklearn.neural_network.tests.test_mlp")
    if found is None:
        pytest.skip("scikit-learn is installed without its tests", allow_module_level=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sklearn.neural_network, "MLPClassifier", BatchNormClassifier)
        patch.setattr(sklearn.neural_network, "MLPRegressor", BatchNormRegressor)
        module = runpy.run_path(found.origin)
    return {name: value for name, value in module.items() if name.startswith("test_")}


_TESTS = _with_ours()
globals().update(_TESTS)
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are written for other settings


@pytest.fixture
def global_random_seed():
    return 42


@pytest.fixture(autouse=True)
def _expected_failure(request):
    name = request.function.__name__
    if name in _EXPECTED or not _LOOKED_AT:
        reason = ": ".join(_EXPECTED.get(name, ("looked at with scikit-learn 1.9 alone",)))
        request.applymarker(pytest.mark.xfail(reason=reason, strict=_LOOKED_AT))


def test_what_is_expected_to_fail_is_there_and_documented():
    headings = (REPOSITORY / "docs" / "estimators.md").read_text().splitlines()
    for heading, _ in _EXPECTED.values():
        assert heading == _PRIVATE or {f"## {heading}", f"### {heading}"} & set(headings), heading
    assert not _LOOKED_AT or set(_EXPECTED) <= set(_TESTS)
