"""`BatchNormRegressor`: one value or several."""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.metaestimators import available_if
from torch import Tensor

from batchnorm.data import dense
from batchnorm.estimator.base import BatchNormEstimator
from batchnorm.estimator.examples import standardized, values_dtype
from batchnorm.estimator.parameters import loss_of_values, quantile_of, takes_batches
from batchnorm.estimator.targets import exp, logs_of, quantile_moments, score
from batchnorm.functional import Moments
from batchnorm.inputs import scale_of, table_moments
from batchnorm.losses import Loss


class BatchNormRegressor(RegressorMixin, BatchNormEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Predict values with a batch-normalised dense network, in the place of scikit-learn's `MLPRegressor`.

    One value or several, in their unit: means, quantiles or the means of counts. docs/estimators.md has the notes: what
    differs from `MLPRegressor`, the losses, what becomes of the data, where the methods come from.

    Parameters
    ----------
    loss : {"squared_error", "absolute_error", "quantile", "poisson"}, default "squared_error"
        What is minimised: it predicts the mean, the median, the `quantile`, or the mean of counts and the like.
    hidden_layer_sizes : int or tuple of int, default (100,)
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
        `MLPRegressor`'s words for `optimizer` and `schedule`, which they override.
    power_t, max_fun : float and int, default 0.5, 15000
        Of "invscaling"; a cap on the epochs with ``solver="lbfgs"``.
    quantile : float, default 0.5
        Which quantile ``loss="quantile"`` predicts, between 0 and 1.
    categorical_features : None, "from_dtype" or array_like, default "from_dtype"
        Which columns are categories besides texts: those of a category type, or those named, numbered or marked.

    Attributes
    ----------
    n_features_in_, feature_names_in_ : int, ndarray of str
        Columns of `X`, and their names if all are strings.
    network_ : DenseNetwork
        The torch module, in inference mode: a function of `scale_inputs`.
    network_feature_names_ : ndarray of str
        Of the columns of `scale_inputs`: what those of `X` became.
    coefs_, intercepts_ : tuple of ndarray
        Weights (in, out) and biases (out,) of plain layers that compute the same.
    loss_, loss_curve_, best_loss_ : float, list of float, float or None
        Mean loss of scaled targets of the last epoch, of each, and the least.
    validation_scores_, best_validation_score_ : list of float, float, or None
        R², or D² of another loss, on the examples held back after each epoch, and the best.
    n_iter_, t_ : int
        Epochs of the last `fit` and of all `partial_fit` since; examples trained on, each as often as it was.
    n_layers_, n_outputs_, out_activation_ : int, int, str
        Layers and inputs; outputs; "identity", or "exp" with ``loss="poisson"``.

    Examples
    --------
    >>> from batchnorm import BatchNormRegressor
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> BatchNormRegressor(random_state=0).fit(X[:350], y[:350]).score(X[350:], y[350:]) > 0.4
    True
    """

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
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
        quantile: float = 0.5,
        categorical_features: Any = "from_dtype",
    ):
        self.loss = loss
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
        self.quantile = quantile
        self.categorical_features = categorical_features

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Train a network on examples, from the beginning unless `warm_start`; return this estimator.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)
            Numbers; of a frame texts, categories, dates, ... too; NaN is missing. A numpy array or CSR matrix of more
            than 1 GiB is not copied.
        y : array_like, shape (examples,) or (examples, outputs)
        sample_weight : array_like, shape (examples,), or float, optional
            How often each example counts, at least 0.

        Raises
        ------
        ValueError
            If something is not as expected, or the training diverges. The estimator is then what it was.
        """
        return self._train(X, y, sample_weight)

    @available_if(takes_batches)  # type: ignore[untyped-decorator]  # likewise
    def partial_fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Train for one more epoch on more examples, be it one, at a rate that is not annealed; return this estimator.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)
        y : array_like, shape (examples,) or (examples, outputs)
        sample_weight : array_like, shape (examples,), or float, optional
        """
        return self._train(X, y, sample_weight, one_epoch=True)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return values (examples,) or (examples, outputs), in the unit of the targets.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)
        """
        table = self._table(X)
        with self._threads_for(table):
            outputs = self._outputs(table)
        scale = self._outputs_scale(self._targets)
        values = outputs.double() * scale_of(scale) + scale.mean
        values = exp(values) if self.out_activation_ == "exp" else values
        values = values.to(values_dtype(table.cells, outputs.dtype, self._targets))
        return np.asarray((values[:, 0] if values.shape[1] == 1 else values).numpy())

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Return R², the mean of all outputs.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)
        y : array_like, shape (examples,) or (examples, outputs)
        sample_weight : array_like, shape (examples,), optional
        """
        return float(super().score(X, y, sample_weight))

    def _read_targets(self, y: Any, *, new: bool, classes: Any) -> NDArray[Any]:
        if y.dtype.kind in "mM":
            kind = "times" if y.dtype.kind == "M" else "durations"
            raise ValueError(f"y holds {kind}, expected numbers: make some of them, such as days since a first one")
        values = dense(y).astype(np.float64, copy=False).reshape(y.shape[0], -1)
        if new:
            self.n_outputs_ = values.shape[1]
        if values.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {values.shape[1]} outputs, what was trained on before had {self.n_outputs_}")
        if not new and self._out_activation != self.out_activation_:
            raise ValueError(
                f"what is trained already has out_activation_={self.out_activation_!r} and cannot go on with "
                f"loss={self.loss!r}, whose is {self._out_activation!r}: set loss back, or fit from scratch with "
                "warm_start=False"
            )
        if self.loss == "poisson" and (values < 0).any():
            raise ValueError(f"loss='poisson' requires non-negative y: the smallest is {values.min():g}")
        return values

    def _moments_of_targets(self, targets: NDArray[Any], counts: NDArray[np.float64] | None) -> Moments:
        if self.loss in ("absolute_error", "quantile"):
            return quantile_moments(targets, counts, quantile_of(self.get_params(deep=False)))
        return table_moments(targets, counts)

    def _loss(self, targets: Moments) -> Loss:
        return loss_of_values(self.get_params(deep=False))

    def _outputs_scale(self, targets: Moments) -> Moments:
        return logs_of(targets) if self.out_activation_ == "exp" else targets

    def _labels(self, targets: NDArray[Any], scale: Moments) -> Tensor:
        if not (scale.mean.isfinite() & scale.var.isfinite()).all():
            raise ValueError(
                f"y holds numbers of up to {np.abs(targets).max():.3g}, whose variance float64 does not hold: divide "
                "them, or take their logarithms"
            )
        if self.loss != "poisson":
            return standardized(targets, scale)
        if not (scale.mean > 0).all():
            raise ValueError("loss='poisson' requires sum(y) > 0, of each output and of the rows that are trained on")
        return torch.from_numpy(targets / scale.mean.numpy())

    @property
    def _out_activation(self) -> str:
        return "exp" if self.loss == "poisson" else "identity"

    def _score_outputs(self, labels: Tensor, outputs: Tensor, weights: Tensor | None, scale: Moments) -> float:
        return score(self.loss, quantile_of(self.get_params(deep=False)), labels, outputs, weights)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.positive_only = self.loss == "poisson"
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        return tags
