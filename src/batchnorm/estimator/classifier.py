"""`BatchNormClassifier`: classes, or several labels at once."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels
from sklearn.utils.validation import column_or_1d
from torch import Tensor
from torch.nn import functional as F

from batchnorm.data import dense
from batchnorm.estimator.base import BatchNormEstimator
from batchnorm.estimator.weights import weights_of_classes

_CLASSES = ("binary", "multiclass", "multilabel-indicator")  # kinds of targets that are known


class BatchNormClassifier(ClassifierMixin, BatchNormEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Classify with a batch-normalised dense network: scikit-learn's `MLPClassifier`, faster and more accurate.

    Takes the place of `sklearn.neural_network.MLPClassifier`, whose parameters it knows. Classes of any type; several
    labels at once, if `y` is a matrix of 0 and 1. A training minimises the softmax cross-entropy (of several labels:
    the sum of their cross-entropies) by steps that normalise with the moments of their batch; predictions normalise
    with fixed statistics.

    The network has the precision of `X`: float64 for float64, else float32, which is faster. An example of weight 2
    counts as two, in the loss as in the moments.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default (128, 64)
        Units of each hidden layer; may be empty.
    activation : str, default "relu"
        "relu", "elu", "gelu", "silu", "tanh", "sigmoid" (also "logistic"), "selu", "leaky_relu" or "identity".
    optimizer : {"adamw", "sgd"}, default "adamw"
    alpha : float, default 10.0
        Weight decay, divided by the size of a batch as `MLPClassifier` divides its penalty. Not on biases and
        batch-norm parameters. AdamW shrinks the weights by it, beside the step.
    batch_size : int or "auto", default "auto"
        Examples per step; "auto": min(32, examples). At least 2: a single example has no variance.
    learning_rate_init : float, default 0.01
        The schedule's peak.
    schedule : str, default "one-cycle"
        How the learning rate goes. "one-cycle" and "cosine" anneal it to 0 over `max_iter` epochs, and the training
        ends there. "constant", "invscaling" (divided by (1 + examples seen) to the power of `power_t`) and "adaptive"
        (divided by 5 whenever nothing improves) go on until nothing improves, as `MLPClassifier` does.
    max_iter : int or "auto", default "auto"
        Epochs. "auto": about 1,000 steps, but 20 to 200 epochs; 200 without annealing.
    dropout : float, default 0.0
        Share of the hidden units that a training step drops.
    input_noise : float, default 0.0
        Standard deviation of the normal noise that a training step adds to its (standardised) inputs.
    label_smoothing : float, default 0.05
        Share of the target that is spread over all classes.
    class_weight : dict, list of dict or "balanced", default None
        How often the examples of a class count, 1 where nothing is said. "balanced" has all classes weigh the same.
        With several labels: a dict for each, of the keys 0 and 1.
    bn_momentum : float, default 0.1
        Weight of the *newest* batch in the running averages, as in torch (Keras, TensorFlow: of the old value, so 0.9).
        A stream's (`partial_fit`, `shuffle=False`, `batch_size` below 4) are of its last rows instead, some thousand.
    bn_eps : float, default 0.001
        Added to the variance.
    normalize_logits : bool, default False
        Whether batch norm also stands on the output layer.
    statistics : {"population", "running"}, default "population"
        What a fitted network normalises with: the exact mean and variance of the training set, which cost one pass over
        it per layer after the training, or the running averages of its batches. `partial_fit` always leaves running
        ones.
    standardize : bool, default True
        Whether inputs are brought to mean 0 and variance 1, column by column, as they are read.
    shuffle : bool, default True
        Whether each epoch goes through the examples in a new order.
    random_state : int, RandomState or None, default None
        Draws weights, order, the examples that are held back and, on the CPU, dropped units and noise. On a CUDA device
        torch's own generator draws these two.
    tol : float, default 0.0001
        Least improvement of the loss, or of the validation score, that counts.
    verbose : bool, default False
        Whether to show a progress bar; without a terminal, a line per epoch.
    warm_start : bool, default False
        Whether `fit` goes on from the network that is there.
    early_stopping : bool, default False
        Whether to hold back examples, to stop when the score on them no longer improves, and to keep the best epoch.
    validation_fraction : float, default 0.1
        Share of the examples that are held back.
    n_iter_no_change : int, default 10
        Epochs without an improvement after which to stop, with `early_stopping` or a schedule that is not annealed.
    momentum : float, default 0.9
        Of SGD.
    nesterovs_momentum : bool, default True
        Whether it is Nesterov's.
    beta_1 : float, default 0.9
        How much of AdamW's average of the gradient stays in a step.
    beta_2 : float, default 0.999
        How much of its average of the squared gradient stays.
    epsilon : float, default 1e-08
        Added to the root of that average.
    device : str or torch.device, default "cpu"
        "cpu", "cuda" or "cuda:1".
    engine : {"auto", "fused", "autograd"}, default "auto"
        What computes a training step; "auto" takes the faster one that can.
    solver : {"adam", "sgd", "lbfgs"}, default None
        `MLPClassifier`'s word for `optimizer`, which it overrides: "adam" is AdamW; so is, with a warning, "lbfgs".
    learning_rate : {"constant", "invscaling", "adaptive"}, default None
        `MLPClassifier`'s word for `schedule`, which it overrides; as there, without SGD all are "constant".
    power_t : float, default 0.5
        See `schedule`.
    max_fun : int, default 15000
        Not used: of lbfgs.

    Attributes
    ----------
    classes_ : ndarray, shape (classes,)
        In the order of the outputs; with several labels their numbers from 0.
    n_features_in_ : int
    feature_names_in_ : ndarray of str, shape (n_features_in_,)
        If `X` had names that are all strings.
    network_ : DenseNetwork
        The torch module, in inference mode. It takes *standardised* inputs, on the device that it was trained on.
    coefs_, intercepts_ : list of ndarray
        The same function of *raw* inputs, without batch norm: weights (in, out) and biases (out,) of plain layers, with
        the activation between them.
    loss_ : float
        Mean loss over the steps of the last epoch, in nats, label smoothing included.
    loss_curve_ : list of float
        The same for each epoch so far.
    best_loss_ : float or None
        The smallest of them; None with early stopping.
    validation_scores_ : list of float or None
        Accuracy on the examples held back, counted by weight, for each epoch; None without early stopping.
    best_validation_score_ : float or None
        The largest of the last `fit`. It was reached with running averages.
    n_iter_ : int
        Epochs of the last `fit`, and of all `partial_fit` since.
    t_ : int
        Examples trained on so far, each as often as it was.
    n_layers_, n_outputs_ : int
        Layers, the inputs among them, and outputs of the last one.
    out_activation_ : str
        "softmax", or "logistic" with several labels.

    See Also
    --------
    BatchNormRegressor : The same for values.
    batchnorm.fit : Training with a run folder, checkpoints and any torch module.

    References
    ----------
    Ioffe and Szegedy 2015, arXiv:1502.03167 (batch norm; Algorithm 2: population statistics).
    I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101 (AdamW).
    L. N. Smith and N. Topin, "Super-Convergence", 2017, arXiv:1708.07120 (one-cycle).

    Examples
    --------
    >>> from batchnorm import BatchNormClassifier
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import train_test_split
    >>> X, y = load_digits(return_X_y=True)
    >>> X, X_test, y, y_test = train_test_split(X, y, random_state=0)
    >>> classifier = BatchNormClassifier(random_state=0).fit(X, y)
    >>> classifier.score(X_test, y_test) > 0.95
    True
    >>> classifier.predict_proba(X_test[:2]).shape
    (2, 10)
    """

    classes_: NDArray[Any]
    class_weight: Any
    _multilabel: bool

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
        max_iter: int | str = "auto",
        dropout: float = 0.0,
        input_noise: float = 0.0,
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
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.optimizer = optimizer
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.schedule = schedule
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

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Train a network on examples, from the beginning unless `warm_start`.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)
            Numbers, none of them NaN or infinite. Of a numpy array or a CSR matrix that has more than 1 GiB (as trained
            on) no copy is made: rows, of a memory-mapped file for example, are read as they are needed.
        y : array_like, shape (examples,) or (examples, labels)
            Classes, or for each label whether it applies.
        sample_weight : array_like, shape (examples,), or float, optional
            How often each example counts, at least 0.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter, `X`, `y` or a weight is not what is expected, or the training diverges. The estimator is
            then what it was before.

        Warns
        -----
        ConvergenceWarning
            If a training without an annealed schedule still improved after `max_iter` epochs.
        UserWarning
            After Ctrl-C, which ends the training after its step and keeps the network.
        """
        return self._train(X, y, sample_weight)

    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Train for one more epoch on more examples, be it one, at a rate that is not annealed.

        Inputs are standardised, and batches normalised, with the moments of the last rows, some thousand; the network
        moves with them. An annealed `schedule`, the default, has here a constant rate of 0.3 `learning_rate_init`.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)
        y : array_like, shape (examples,) or (examples, labels)
        sample_weight : array_like, shape (examples,), or float, optional
            How often each example counts, at least 0.
        classes : array_like, shape (classes,)
            All classes that there will be; needed in the first call.

        Returns
        -------
        self
        """
        known = self.classes_ if hasattr(self, "network_") else None
        if known is None and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit, as later data may hold more")
        given: Any = known if classes is None else unique_labels(classes)
        if known is not None and not np.array_equal(known, given):
            raise ValueError(f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {known!r}")
        return self._train(X, y, sample_weight, one_epoch=True, classes=given)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class, or the labels that are more probable than not.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)

        Returns
        -------
        ndarray, shape (examples,) or (examples, labels)
        """
        logits = self._outputs(X)
        if self._multilabel:
            return (logits > 0).numpy().astype(np.int64)
        return np.asarray(self.classes_[logits.argmax(1).numpy()])

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Return probabilities.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)

        Returns
        -------
        ndarray, shape (examples, classes) or (examples, labels)
            Of classes, in the order of `classes_`, they sum to 1.
        """
        logits = self._outputs(X)
        return np.asarray((logits.sigmoid() if self._multilabel else logits.softmax(1)).numpy())

    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """Return the logarithms of `predict_proba`, exact also where it is too small for a number.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)

        Returns
        -------
        ndarray, shape (examples, classes) or (examples, labels)
        """
        logits = self._outputs(X)
        return np.asarray((F.logsigmoid(logits) if self._multilabel else logits.log_softmax(1)).numpy())

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Return logits: what the network gives before the softmax.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)

        Returns
        -------
        ndarray, shape (examples, classes) or (examples, labels)
            With two classes (examples,): the difference of their logits, above 0 for the second.
        """
        logits = self._outputs(X).numpy()
        return np.asarray(logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 and not self._multilabel else logits)

    def _read_targets(self, y: Any, *, new: bool, classes: Any) -> NDArray[Any]:
        kind = type_of_target(y, input_name="y")
        if kind not in _CLASSES:
            check_classification_targets(y)  # raises
        if kind == "multiclass-multioutput":
            raise ValueError("multiclass-multioutput targets are not supported: fit one classifier for each column")
        multilabel = kind == "multilabel-indicator"
        y = dense(y) if multilabel else column_or_1d(y, warn=True)
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

    def _score_outputs(self, labels: Tensor, outputs: Tensor, weights: Tensor | None) -> float:
        predicted = outputs > 0 if self._multilabel else outputs.argmax(1)
        return float(
            accuracy_score(labels.cpu(), predicted.cpu(), sample_weight=None if weights is None else weights.cpu())
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.input_tags.sparse = True
        return tags
