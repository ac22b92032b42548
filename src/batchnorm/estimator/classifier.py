"""`BatchNormClassifier`: classes, or several labels at once."""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels
from sklearn.utils.validation import column_or_1d
from torch import Tensor
from torch.nn import functional as F

from batchnorm.data import dense
from batchnorm.estimator import smoothing
from batchnorm.estimator.base import BatchNormEstimator
from batchnorm.estimator.parameters import takes_batches
from batchnorm.estimator.weights import weights_of_classes
from batchnorm.functional import Moments
from batchnorm.inputs import table_moments, unscaled
from batchnorm.losses import Loss

_CLASSES = ("binary", "multiclass", "multilabel-indicator")  # kinds of targets that are known


class BatchNormClassifier(ClassifierMixin, BatchNormEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Classify with a batch-normalised dense network, in the place of scikit-learn's `MLPClassifier`.

    Classes of any type; several labels at once, if `y` is a matrix of 0 and 1. docs/estimators.md has the notes: what
    differs from `MLPClassifier`, what becomes of the data, where the methods come from.

    Parameters
    ----------
    hidden_layer_sizes : int or tuple of int, default (128, 64)
        Units of each hidden layer; may be empty.
    activation : str, default "relu"
        "relu", "elu", "gelu", "silu", "tanh", "sigmoid" (also "logistic"), "selu", "leaky_relu" or "identity".
    optimizer : {"adamw", "sgd"}, default "adamw"
    alpha : float, default 10.0
        Weight decay, divided by the size of a batch.
    batch_size : int or "auto", default "auto"
        Examples per step, at least 2; "auto": min(32, examples).
    learning_rate_init : float, default 0.01
        The schedule's peak.
    schedule : str, default "one-cycle"
        "one-cycle" and "cosine" anneal the rate to 0. "constant", "invscaling" (divided by (1 + examples seen) to the
        power of `power_t`) and "adaptive" (divided by 5 where nothing improves) go on until nothing improves.
    epochs : int or "auto", default "auto"
        Length of a training; "auto": about 1,000 steps, but 20 to 200 epochs, or until nothing improves.
    max_iter : int or "auto", default "auto"
        A cap on the epochs; "auto": none, but 200 until nothing improves.
    dropout : float, default 0.0
        Share of the hidden units that are dropped in training.
    input_noise : float or "auto", default "auto"
        Standard deviation of the noise on scaled inputs in training, which fades with the learning rate; "auto":
        √(0.4 · columns / examples), at most 0.2, but 0 in a stream, of a sparse table and of a single batch.
    label_smoothing : float, default 0.05
        Share of a target that is spread over all classes, as often as they are; probabilities are those without it.
    class_weight : dict, list of dict or "balanced", default None
        How often the examples of a class count; with several labels a dict for each, of the keys 0 and 1.
    bn_momentum, bn_eps : float, default 0.1, 0.001
        Weight of the *newest* batch in the running averages (not of a stream's); what is added to the variance.
    normalize_logits : bool, default False
        Whether batch norm also stands on the output layer.
    statistics : {"population", "running"}, default "population"
        What a fitted network normalises with: exact mean and variance of the training set, or averages over batches.
    standardize, shuffle : bool, default True, True
        Whether columns are brought to one scale; whether each epoch has a new order.
    random_state : int, RandomState or None, default None
        Draws weights, order, the examples that are held back, dropped units and noise.
    tol : float, default 0.0001
        Least improvement of the loss, or of the validation score, that counts.
    verbose, warm_start : bool, default False, False
        Whether to show progress; whether `fit` goes on from the network that is there.
    early_stopping, validation_fraction : bool and float, default False, 0.1
        Whether to hold back this share of the examples, stop when the score on them stalls, and keep the best epoch.
    n_iter_no_change : int, default 10
        Epochs without improvement after which a training stops that stops early or is not annealed.
    momentum, nesterovs_momentum : float and bool, default 0.9, True
        Of SGD.
    beta_1, beta_2, epsilon : float, default 0.9, 0.999, 1e-08
        Of AdamW.
    device, engine : str, default "cpu", "auto"
        "cpu", "cuda" or "cuda:1"; what computes a step: "fused", "autograd" or the faster one that can.
    solver, learning_rate : str, default None, None
        `MLPClassifier`'s words for `optimizer` and `schedule`, which they override.
    power_t, max_fun : float and int, default 0.5, 15000
        Of "invscaling"; a cap on the epochs with ``solver="lbfgs"``.
    categorical_features : None, "from_dtype" or array_like, default "from_dtype"
        Which columns are categories besides texts: those of a category type, or those named, numbered or marked.

    Attributes
    ----------
    classes_ : ndarray, shape (classes,)
        In the order of the outputs; with several labels their numbers from 0.
    n_features_in_, feature_names_in_ : int, ndarray of str
        Columns of `X`, and their names if all are strings.
    network_ : DenseNetwork
        The torch module, in inference mode: a function of `scale_inputs`.
    network_feature_names_ : ndarray of str
        Of the columns of `scale_inputs`: what those of `X` became.
    coefs_, intercepts_ : tuple of ndarray
        Weights (in, out) and biases (out,) of plain layers that compute the same.
    loss_, loss_curve_, best_loss_ : float, list of float, float or None
        Mean cross-entropy in nats, label smoothing included, of the last epoch, of each, and the least.
    validation_scores_, best_validation_score_ : list of float, float, or None
        Accuracy on the examples held back after each epoch, and the best.
    n_iter_, t_ : int
        Epochs of the last `fit` and of all `partial_fit` since; examples trained on, each as often as it was.
    n_layers_, n_outputs_, out_activation_ : int, int, str
        Layers and inputs; outputs; "softmax" or, with several labels, "logistic".

    Examples
    --------
    >>> from batchnorm import BatchNormClassifier
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> BatchNormClassifier(random_state=0).fit(X[:1500], y[:1500]).score(X[1500:], y[1500:]) > 0.9
    True
    """

    classes_: NDArray[Any]
    class_weight: Any
    loss = "log_loss"  # MLPClassifier's word
    _multilabel: bool
    _smoothing: float  # of what was trained with

    def __init__(
        self,
        hidden_layer_sizes: Any = (128, 64),
        activation: str = "relu",
        *,
        optimizer: str = "adamw",
        alpha: float = 10.0,
        batch_size: int | str = "auto",
        learning_rate_init: float = 1e-2,
        schedule: str = "one-cycle",
        epochs: int | str = "auto",
        max_iter: int | str = "auto",
        dropout: float = 0.0,
        input_noise: float | str = "auto",
        label_smoothing: float = 0.05,
        class_weight: Any = None,
        bn_momentum: float = 0.1,
        bn_eps: float = 1e-3,
        normalize_logits: bool = False,
        statistics: str = "population",
        standardize: bool = True,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: float = 10,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        device: Any = "cpu",
        engine: str = "auto",
        solver: str | None = None,
        learning_rate: str | None = None,
        power_t: float = 0.5,
        max_fun: int = 15000,
        categorical_features: Any = "from_dtype",
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.optimizer = optimizer
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.schedule = schedule
        self.epochs = epochs
        self.max_iter = max_iter
        self.dropout = dropout
        self.input_noise = input_noise
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight
        self.bn_momentum = bn_momentum
        self.bn_eps = bn_eps
        self.normalize_logits = normalize_logits
        self.statistics = statistics
        self.standardize = standardize
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.device = device
        self.engine = engine
        self.solver = solver
        self.learning_rate = learning_rate
        self.power_t = power_t
        self.max_fun = max_fun
        self.categorical_features = categorical_features

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Train a network on examples, from the beginning unless `warm_start`; return this estimator.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)
            Numbers; of a frame texts, categories, dates, ... too; NaN is missing. A numpy array or CSR matrix of more
            than 1 GiB is not copied.
        y : array_like, shape (examples,) or (examples, labels)
        sample_weight : array_like, shape (examples,), or float, optional
            How often each example counts, at least 0.

        Raises
        ------
        ValueError
            If something is not as expected, or the training diverges. The estimator is then what it was.
        """
        return self._train(X, y, sample_weight)

    @available_if(takes_batches)  # type: ignore[untyped-decorator]  # likewise
    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Train for one more epoch on more examples, be it one, at a rate that is not annealed; return this estimator.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)
        y : array_like, shape (examples,) or (examples, labels)
        sample_weight : array_like, shape (examples,), or float, optional
        classes : array_like, shape (classes,)
            All that there will be; needed in the first call.
        """
        known = self.classes_ if hasattr(self, "network_") else None
        if known is None and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit, as later data may hold more")
        given: Any = known if classes is None else unique_labels(classes)
        if given is not known and known is not None and not np.array_equal(known, given):
            raise ValueError(f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {known!r}")
        return self._train(X, y, sample_weight, one_epoch=True, classes=given)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable classes (examples,), or 0 or 1 of each label (examples, labels).

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)
        """
        logits = self._logits(X)
        if self._multilabel:
            return (logits > 0).numpy().astype(np.int64)
        return np.asarray(self.classes_[logits.argmax(1).numpy()])

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Return probabilities (examples, classes) in the order of `classes_`, or (examples, labels).

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)
        """
        logits = self._logits(X)
        return np.asarray((logits.sigmoid() if self._multilabel else logits.exp()).numpy())

    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """Return the logarithms of `predict_proba`, exact also where that is too small for a number.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)
        """
        logits = self._logits(X)
        return np.asarray((F.logsigmoid(logits) if self._multilabel else logits).numpy())

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Return log-probabilities (examples, classes), or log-odds (examples,) of two, (examples, labels) of several.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)
        """
        logits = self._logits(X).numpy()
        return np.asarray(logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 and not self._multilabel else logits)

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Return the accuracy, with several labels that of all labels of an example at once.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)
        y : array_like, shape (examples,) or (examples, labels)
        sample_weight : array_like, shape (examples,), optional
        """
        return float(super().score(X, y, sample_weight))

    def _logits(self, X: Any) -> Tensor:
        table = self._table(X)
        with self._threads_for(table):
            return self._unsmoothed(self._outputs(table), self._smoothing, self._targets.mean)

    def _unsmoothed(self, outputs: Tensor, share: float, rates: Tensor) -> Tensor:
        return (smoothing.label_logits if self._multilabel else smoothing.log_probabilities)(outputs, share, rates)

    def _moments_of_targets(self, targets: NDArray[Any], counts: NDArray[np.float64] | None) -> Moments:
        if self._multilabel:
            return table_moments(targets, counts)
        sums = torch.from_numpy(np.bincount(targets, counts, minlength=self.n_outputs_).astype(np.float64))
        n = sums.sum()
        return Moments(n.item(), sums / n, sums / n * (1 - sums / n))

    def _outputs_scale(self, targets: Moments) -> Moments:
        return unscaled(self.n_outputs_)

    def _loss(self, targets: Moments) -> Loss:
        if self._multilabel:
            return Loss("binary_cross_entropy", smoothing.of_labels(self.label_smoothing, targets.mean))
        return Loss("cross_entropy", smoothing.of_classes(self.label_smoothing, targets.mean))

    def _describe(self, *args: Any) -> None:
        super()._describe(*args)
        self._smoothing = float(self.label_smoothing)

    def _read_targets(self, y: Any, *, new: bool, classes: Any) -> NDArray[Any]:
        kind = type_of_target(y, input_name="y")
        if kind not in _CLASSES:
            check_classification_targets(y)  # raises
        if kind == "multiclass-multioutput":
            raise ValueError("multiclass-multioutput targets are not supported: fit one classifier for each column")
        multilabel = kind == "multilabel-indicator"
        y = dense(y) if multilabel else column_or_1d(y, warn=True)
        if y.dtype.kind in "mM" and np.isnat(y).any():
            raise ValueError("Input y contains NaT: leave these examples out, or make a class of them")
        present = np.arange(y.shape[1]) if multilabel else unique_labels(y) if classes is None else np.unique(y)
        classes = present if classes is None else classes
        if multilabel and len(present) != len(classes):
            raise ValueError(f"y has {len(present)} columns, expected one for each of the {len(classes)} classes")
        if new:
            self._multilabel, self.classes_, self.n_outputs_ = multilabel, classes, len(classes)
        self._check_classes(multilabel, classes, present)
        return np.asarray(y.astype(bool) if multilabel else np.searchsorted(self.classes_, y))

    def _check_classes(self, multilabel: bool, classes: NDArray[Any], present: NDArray[Any]) -> None:
        """Check that classes are those that are known, and that no other is present."""
        if multilabel != self._multilabel:
            now, then = ("is" if multilabel else "is not"), ("was" if self._multilabel else "was not")
            raise ValueError(f"y {now} multilabel, but what was trained on before {then}")
        if not np.array_equal(classes, self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {self.classes_}, `y` has {classes}"
            )
        if len(np.setdiff1d(present, self.classes_)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. `y` has {present}"
            )

    @property
    def _out_activation(self) -> str:
        return "logistic" if self._multilabel else "softmax"

    def _weigh_by_class(
        self, targets: NDArray[Any], weights: NDArray[np.float64] | None, one_epoch: bool
    ) -> NDArray[np.float64] | None:
        if self.class_weight is None:
            return weights
        if self.class_weight == "balanced" and one_epoch:
            raise ValueError("class_weight='balanced' cannot be known from a part of the data: give partial_fit a dict")
        counts = np.ones(len(targets)) if weights is None else weights
        if not self._multilabel:
            return counts * weights_of_classes(self.class_weight, targets, self.classes_, counts)
        labels = targets.shape[1]
        each = [self.class_weight] * labels if self.class_weight == "balanced" else self.class_weight
        if not (isinstance(each, list) and len(each) == labels):
            raise ValueError(
                f"class_weight must be 'balanced' or a list of {labels} dicts, one per label. Got {each!r}"
            )
        of_labels = [
            weights_of_classes(weight, targets[:, i].astype(int), np.arange(2), counts) for i, weight in enumerate(each)
        ]
        return np.asarray(counts * np.prod(of_labels, axis=0))

    def _stratification(self, targets: NDArray[Any]) -> NDArray[Any] | None:
        return None if self._multilabel else self.classes_[targets]

    def _score_outputs(self, labels: Tensor, outputs: Tensor, weights: Tensor | None, scale: Moments) -> float:
        logits = self._unsmoothed(outputs, self.label_smoothing, scale.mean)
        predicted = logits > 0 if self._multilabel else logits.argmax(1)
        counts = None if weights is None else weights.cpu()
        return float(accuracy_score(labels.cpu(), predicted.cpu(), sample_weight=counts))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        return tags
