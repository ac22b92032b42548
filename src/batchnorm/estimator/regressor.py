"""`BatchNormRegressor`: one value or several."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from torch import Tensor

from batchnorm.data import dense
from batchnorm.estimator.base import BatchNormEstimator
from batchnorm.estimator.examples import standardized
from batchnorm.functional import Moments
from batchnorm.inputs.scaling import scale_of, table_moments


class BatchNormRegressor(RegressorMixin, BatchNormEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Predict values with a batch-normalised dense network: scikit-learn's `MLPRegressor`, faster and more accurate.

    Takes the place of `sklearn.neural_network.MLPRegressor`, whose parameters it knows. One value or several. A
    training minimises the squared error of targets that are brought to mean 0 and variance 1 inside; predictions are in
    their unit.

    The network has the precision of `X`: float64 for float64, else float32, which is faster. An example of weight 2
    counts as two, in the loss as in the moments.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default (100,)
        Units of each hidden layer; may be empty.
    activation : str, default "relu"
        "relu", "elu", "gelu", "silu", "tanh", "sigmoid" (also "logistic"), "selu", "leaky_relu" or "identity".
    optimizer : {"adamw", "sgd"}, default "adamw"
    alpha : float, default 10.0
        Weight decay, divided by the size of a batch as `MLPRegressor` divides its penalty. Not on biases and
        batch-norm parameters. AdamW shrinks the weights by it, beside the step.
    batch_size : int or "auto", default "auto"
        Examples per step; "auto": min(32, examples). At least 2: a single example has no variance.
    learning_rate_init : float, default 0.01
        The schedule's peak.
    schedule : str, default "one-cycle"
        How the learning rate goes. "one-cycle" and "cosine" anneal it to 0 over `max_iter` epochs, and the training
        ends there. "constant", "invscaling" (divided by (1 + examples seen) to the power of `power_t`) and "adaptive"
        (divided by 5 whenever nothing improves) go on until nothing improves, as `MLPRegressor` does.
    max_iter : int or "auto", default "auto"
        Epochs. "auto": about 1,000 steps, but 20 to 200 epochs; 200 without annealing.
    dropout : float, default 0.0
        Share of the hidden units that a training step drops.
    input_noise : float, default 0.0
        Standard deviation of the normal noise that a training step adds to its (standardised) inputs.
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
        `MLPRegressor`'s word for `optimizer`, which it overrides: "adam" is AdamW; so is, with a warning, "lbfgs".
    learning_rate : {"constant", "invscaling", "adaptive"}, default None
        `MLPRegressor`'s word for `schedule`, which it overrides; as there, without SGD all are "constant".
    power_t : float, default 0.5
        See `schedule`.
    max_fun : int, default 15000
        Not used: of lbfgs.
    loss : {"squared_error"}, default "squared_error"

    Attributes
    ----------
    n_features_in_ : int
    feature_names_in_ : ndarray of str, shape (n_features_in_,)
        If `X` had names that are all strings.
    network_ : DenseNetwork
        The torch module, in inference mode. It takes *standardised* inputs, on the device that it was trained on.
    coefs_, intercepts_ : list of ndarray
        The same function of *raw* inputs, without batch norm: weights (in, out) and biases (out,) of plain layers, with
        the activation between them.
    loss_ : float
        Mean loss over the steps of the last epoch: half the squared error, in units of the targets' variance.
    loss_curve_ : list of float
        The same for each epoch so far.
    best_loss_ : float or None
        The smallest of them; None with early stopping.
    validation_scores_ : list of float or None
        R² on the examples held back, counted by weight, for each epoch; None without early stopping.
    best_validation_score_ : float or None
        The largest of the last `fit`. It was reached with running averages.
    n_iter_ : int
        Epochs of the last `fit`, and of all `partial_fit` since.
    t_ : int
        Examples trained on so far, each as often as it was.
    n_layers_, n_outputs_ : int
        Layers, the inputs among them, and outputs of the last one.
    out_activation_ : str
        "identity".

    See Also
    --------
    BatchNormClassifier : The same for classes.

    References
    ----------
    Ioffe and Szegedy 2015, arXiv:1502.03167 (batch norm; Algorithm 2: population statistics).
    I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101 (AdamW).
    L. N. Smith and N. Topin, "Super-Convergence", 2017, arXiv:1708.07120 (one-cycle).

    Examples
    --------
    >>> from batchnorm import BatchNormRegressor
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.model_selection import cross_val_score
    >>> X, y = load_diabetes(return_X_y=True)
    >>> cross_val_score(BatchNormRegressor(random_state=0), X, y).mean().item() > 0.4
    True
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
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
        loss: str = "squared_error",
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
        self.loss = loss

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Train a network on examples, from the beginning unless `warm_start`.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)
            Numbers, none of them NaN or infinite. Of a numpy array or a CSR matrix that has more than 1 GiB (as trained
            on) no copy is made: rows, of a memory-mapped file for example, are read as they are needed.
        y : array_like, shape (examples,) or (examples, outputs)
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

    def partial_fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Train for one more epoch on more examples, be it one, at a rate that is not annealed.

        Inputs and targets are standardised, and batches normalised, with the moments of the last rows, some thousand;
        the network moves with them. An annealed `schedule`, the default, has here a constant rate of 0.3
        `learning_rate_init`.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)
        y : array_like, shape (examples,) or (examples, outputs)
        sample_weight : array_like, shape (examples,), or float, optional
            How often each example counts, at least 0.

        Returns
        -------
        self
        """
        return self._train(X, y, sample_weight, one_epoch=True)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return values, in the unit of the targets.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)

        Returns
        -------
        ndarray of float64, shape (examples,) or (examples, outputs)
        """
        outputs = self._outputs(X)
        values = outputs.double() * scale_of(self._targets) + self._targets.mean
        return np.asarray((values[:, 0] if values.shape[1] == 1 else values).numpy())

    def _read_targets(self, y: Any, *, new: bool, classes: Any) -> NDArray[Any]:
        values = dense(y).astype(np.float64, copy=False).reshape(y.shape[0], -1)
        if new:
            self.n_outputs_ = values.shape[1]
        if values.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {values.shape[1]} outputs, what was trained on before had {self.n_outputs_}")
        return values

    def _moments_of_targets(self, targets: NDArray[Any], counts: NDArray[np.float64] | None) -> Moments:
        return table_moments(targets, counts)

    def _labels(self, targets: NDArray[Any], scale: Moments) -> Tensor:
        return standardized(targets, scale)

    @property
    def _out_activation(self) -> str:
        return "identity"

    def _score_outputs(self, labels: Tensor, outputs: Tensor, weights: Tensor | None) -> float:
        return float(r2_score(labels.cpu(), outputs.cpu(), sample_weight=None if weights is None else weights.cpu()))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.input_tags.sparse = True
        return tags
