"""What the classifier and the regressor share: from parameters and data to a trained network, and its outputs."""

import warnings
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, is_regressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from batchnorm.config import TrainingConfig
from batchnorm.data import Table, row_blocks
from batchnorm.estimator.checkpoints import Checkpoints, Progress
from batchnorm.estimator.examples import (
    Rows,
    forget_empty_columns_,
    make_examples,
    multiply_adds,
    network_dtype,
    sparse_product,
    split_first,
    without_weights,
)
from batchnorm.estimator.inherited import Inherited
from batchnorm.estimator.parameters import (
    batch_size_of,
    check_parameters,
    for_one_epoch,
    is_streamed,
    make_config,
    unfinished,
)
from batchnorm.estimator.reading import check_targets_known, is_plain, names_of, read_table
from batchnorm.estimator.representation import NetworkRepresentation
from batchnorm.estimator.rescaling import plain_layers, rescale_inputs_, rescale_outputs_
from batchnorm.estimator.saving import Saving
from batchnorm.estimator.training import State, recalibrate_, train
from batchnorm.estimator.weights import Epoch, checked_weights, concentration, counts_of, held_back_of
from batchnorm.evaluation import BLOCK_SIZE, inference_form
from batchnorm.functional import Moments
from batchnorm.inputs import BOUND, Columns, Frame, StoredFrame, followed, moments_with, standardizer, unscaled
from batchnorm.losses import Loss
from batchnorm.network import DenseNetwork, copied
from batchnorm.toolkit.model import inference, without_gradients
from batchnorm.training import check_device, monitor_for, own_surroundings, threads_for

_FOLDED_FROM = 10 * BLOCK_SIZE  # rows: folding batch norm away takes longer than what it spares fewer
_COMPUTED = "{} cannot be set: it is computed from network_, whose parameters can be changed in its place"


class BatchNormEstimator(NetworkRepresentation, Saving, Inherited, BaseEstimator, ABC):  # type: ignore[misc]  # sklearn is untyped
    """Trains a `DenseNetwork` on a table, and computes its outputs for others. A subclass says what its targets are.

    Besides what the subclasses document, a fitted estimator has ``_inputs`` and ``_targets``, the moments that it
    standardises with, ``_state``, what the next epoch depends on, and ``_columns``, what a frame becomes.
    """

    network_: DenseNetwork
    n_outputs_: int
    n_iter_: int
    loss_curve_: list[float]
    best_loss_: float | None
    validation_scores_: list[float] | None
    best_validation_score_: float | None
    _inputs: Moments
    _targets: Moments
    _bound: float | None
    _state: State
    _columns: Columns | None = None  # none: of plain numbers

    # ---- what a subclass says ---------------------------------------------------------------------------------------

    @abstractmethod
    def _read_targets(self, y: Any, *, new: bool, classes: Any) -> NDArray[Any]:
        """Return checked targets, classes as numbers and values in their own unit, and set `n_outputs_`.

        Parameters
        ----------
        y : array
        new : bool
            Whether they need not fit what was trained on before.
        classes : array or None
            Those of a training that goes on; None: those in `y`.
        """

    @property
    @abstractmethod
    def _out_activation(self) -> str:
        """Name of what turns the network's outputs into predictions, in scikit-learn's words."""

    @abstractmethod
    def _score_outputs(self, labels: Tensor, outputs: Tensor, weights: Tensor | None, scale: Moments) -> float:
        """Return what early stopping goes by: the more the better."""

    @abstractmethod
    def _moments_of_targets(self, targets: NDArray[Any], counts: NDArray[np.float64] | None) -> Moments:
        """Return what is known of targets before a training: means and variances, or the rates of classes."""

    @abstractmethod
    def _outputs_scale(self, targets: Moments) -> Moments:
        """Return what outputs are standardised with, where targets have these moments."""

    @abstractmethod
    def _loss(self, targets: Moments) -> Loss:
        """Return what is minimised, where targets have these moments."""

    def _labels(self, targets: NDArray[Any], scale: Moments) -> Tensor:
        """Return targets as the labels of `Examples`."""
        return torch.from_numpy(targets)

    def _weigh_by_class(
        self, targets: NDArray[Any], weights: NDArray[np.float64] | None, one_epoch: bool
    ) -> NDArray[np.float64] | None:
        """Return how often each example counts, in view of its class and of how often the user has it count."""
        return weights

    def _stratification(self, targets: NDArray[Any]) -> NDArray[Any] | None:
        """Return the classes of which a validation part gets its share."""
        return None

    # ---- training ---------------------------------------------------------------------------------------------------

    def _train(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None,
        *,
        one_epoch: bool = False,
        classes: Any = None,
        checkpoints: Checkpoints | None = None,
    ) -> Self:
        """Train: a whole training or, if `one_epoch`, one epoch of one whose end nobody knows.

        With `checkpoints`, which are for a whole one from scratch, a signal raises `TrainingInterrupted`.
        Whatever is raised on the way, the estimator is afterwards what it was.
        """
        before = dict(vars(self))
        try:
            with own_surroundings(self.device):
                self._train_or_raise(X, y, sample_weight, one_epoch, classes, checkpoints)
        except BaseException:
            self.__dict__ = before
            raise
        return self

    def _train_or_raise(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None,
        one_epoch: bool,
        classes: Any,
        checkpoints: Checkpoints | None,
    ) -> None:
        parameters = self.get_params(deep=False)
        check_parameters(type(self).__name__, parameters)
        device = check_device(self.device)
        if one_epoch:
            if self.early_stopping:
                raise ValueError("partial_fit does not support early_stopping=True, as it holds no examples back")
            parameters = for_one_epoch(parameters)
        goes_on = hasattr(self, "network_") and (one_epoch or self.warm_start)

        table, targets = self._read(X, y, classes, goes_on, 1 if one_epoch else 2)
        copies = checked_weights(sample_weight, len(targets))
        weights = self._weigh_by_class(targets, copies, one_epoch)
        state = self._state.copy() if goes_on else State(_draw_seed(self.random_state))
        if not one_epoch:
            state.optimizer, state.optimizer_kind = {}, ""  # a schedule starts again, and so does the optimiser
        rows, held_back = self._split(targets, weights, state.seed, 1 if one_epoch else 2)
        if weights is not None:  # only their ratios count: float32 holds them, and a stream goes by rows
            weights = weights / weights[rows].mean()
        counts = counts_of(rows, weights, len(targets))  # of the rows that are trained on

        columns, cells = self._read_columns(table, targets, counts, state.seed, goes_on, one_epoch)
        inputs, scale, bound = self._scales(cells, targets, counts, goes_on)
        epoch = Epoch(rows, weights, batch_size_of(parameters))
        effect = concentration(rows, weights, copies, batch_size_of(parameters))
        n_columns = 0 if sparse.issparse(cells) else cells.shape[1]
        config = make_config(parameters, len(epoch), state.seed, concentration=effect, n_columns=n_columns)
        network = self._network(config, cells, goes_on, device)
        if goes_on:
            self._rescale_(network, inputs, scale)

        dtype = next(network.parameters()).dtype
        scaled, labels = standardizer(cells, inputs, bound), self._labels(targets, scale)
        examples = make_examples(scaled, labels, weights, dtype, device)
        validation = Rows(examples, held_back, dtype)
        progress = train(
            network,
            examples if epoch.weights is not None else without_weights(examples),
            epoch,
            config,
            parameters,
            state,
            loss=self._loss(scale),
            score=(lambda: self._score(network, validation, scale)) if len(held_back) else None,
            monitor=monitor_for(bool(self.verbose)),
            streams=one_epoch or is_streamed(parameters, len(epoch)),
            checkpoints=checkpoints,
        )
        if self.statistics == "population" and not one_epoch:
            recalibrate_(network, Rows(examples, rows, dtype), must_end=checkpoints is not None)
        self.network_, self._inputs, self._targets, self._state = network, inputs, scale, state
        self._bound, self._columns = bound, columns
        self._describe(progress, goes_on, one_epoch)
        if progress.improving and not one_epoch:
            warnings.warn(unfinished(parameters, config.epochs), ConvergenceWarning, stacklevel=4)

    def _read(self, X: Any, y: Any, classes: Any, goes_on: bool, least: int) -> tuple[Any, NDArray[Any]]:
        """Return a checked table, or a frame, and its targets."""
        check_targets_known(y)
        checks = {"multi_output": True, "y_numeric": is_regressor(self), "ensure_min_samples": least}
        table, y = read_table(self, X, y, new=not goes_on, **checks)
        return table, self._read_targets(y, new=not goes_on, classes=classes)

    def _scales(
        self, cells: Any, targets: NDArray[Any], counts: NDArray[np.float64] | None, goes_on: bool
    ) -> tuple[Moments, Moments, float | None]:
        """Return the moments of inputs and of targets, in view of those that are known, and the bound of inputs."""
        known = self._inputs if goes_on else unscaled(cells.shape[1])
        inputs = moments_with(known, cells, counts) if self.standardize else known
        scale = self._moments_of_targets(targets, counts)
        if goes_on:
            return inputs, followed(self._targets, scale), self._bound
        return inputs, scale, BOUND if self.standardize else None

    def _rescale_(self, network: DenseNetwork, inputs: Moments, scale: Moments) -> None:
        """Have what was learnt stay true in another scale."""
        rescale_inputs_(network, self._inputs, inputs)
        before, now = self._outputs_scale(self._targets), self._outputs_scale(scale)
        if before.n:  # classes have no scale
            rescale_outputs_(network, before, now)

    def _split(
        self, targets: NDArray[Any], weights: NDArray[np.float64] | None, seed: int, least: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows that are trained on and those that are held back for early stopping."""
        rows = np.arange(len(targets)) if weights is None else np.flatnonzero(weights)
        held_back = rows[:0]
        if self.early_stopping and len(rows) > 1:
            rows, held_back = held_back_of(rows, self._stratification(targets), self.validation_fraction, seed)
            if len(held_back) < 2:
                raise ValueError(
                    f"The validation set is too small: {len(held_back)} of {len(targets)} examples. Increase "
                    "validation_fraction or the number of examples"
                )
        if len(rows) < least:
            raise ValueError(
                f"n_samples={len(rows)} is left to train on, without those of weight 0 and those held back for "
                "early_stopping: batch norm needs at least 2, as a single example has no variance"
            )
        return rows, held_back

    def _read_columns(
        self,
        table: Any,
        targets: NDArray[Any],
        counts: NDArray[np.float64] | None,
        seed: int,
        goes_on: bool,
        one_epoch: bool,
    ) -> tuple[Columns | None, Any]:
        """Return what the columns of a frame become, and the numbers of this one; a table of numbers is what it is."""
        if not isinstance(table, Frame):
            return None, table
        columns, own = self._columns if goes_on else None, dict[int, NDArray[np.float64]]()
        if columns is None and not (isinstance(table, StoredFrame) and is_plain(self, table)):
            asked = self.categorical_features
            columns, own = Columns.learn(table, targets, counts, seed, asked, keep_constant=one_epoch)
        if isinstance(table, StoredFrame):
            return columns, table.to_numbers(columns, own)
        assert columns is not None
        return columns, columns.transform(table, own)

    def _network(self, config: TrainingConfig, cells: Any, goes_on: bool, device: torch.device) -> DenseNetwork:
        """Return the network to train: a new one, or a copy of what is there, which is kept if training fails."""
        if not goes_on:
            network = DenseNetwork.from_config(config, cells.shape[1], self.n_outputs_)
            if sparse.issparse(cells):
                forget_empty_columns_(network, cells)
            return network.to(device, network_dtype(cells))
        have, want = self.network_.architecture, config.architecture
        changed = [f"{name} was {have[name]!r} and is {want[name]!r}" for name in have if have[name] != want[name]]
        if changed:
            raise ValueError(
                f"what is trained already cannot become another network ({', '.join(changed)}): "
                "set the parameters back, or fit from scratch with warm_start=False"
            )
        return copied(self.network_, device)

    def _score(self, network: DenseNetwork, validation: Rows, scale: Moments) -> float:
        labels, outputs, weights = [], [], []
        with inference(network), without_gradients(network):
            validation, form = validation.split(inference_form(network))
            for inputs, block, counts in validation:
                labels.append(block)
                outputs.append(form(inputs))
                if counts is not None:
                    weights.append(counts)
        counted = torch.cat(weights) if weights else None
        return self._score_outputs(torch.cat(labels), torch.cat(outputs), counted, scale)

    def _describe(self, progress: Progress, goes_on: bool, one_epoch: bool) -> None:
        """Set the attributes that say how the training went."""
        before = (self.loss_curve_, self.validation_scores_ or []) if goes_on else ([], [])
        # A stream's curve is long: it is not searched with each batch.
        best = [self.best_loss_] if goes_on and self.best_loss_ is not None else before[0]
        self.n_iter_ = len(progress.losses) + (self.n_iter_ if one_epoch and goes_on else 0)
        self.t_ = self._state.examples
        self.n_layers_ = len(self.network_.architecture["hidden_layer_sizes"]) + 2
        self.out_activation_ = self._out_activation
        self.loss_curve_ = before[0] + progress.losses
        self.loss_ = self.loss_curve_[-1]
        stops = bool(progress.scores)
        self.best_loss_ = None if stops else min(best + progress.losses)
        self.validation_scores_ = before[1] + progress.scores if stops else None
        self.best_validation_score_ = max(progress.scores) if stops else None

    # ---- inference --------------------------------------------------------------------------------------------------

    def scale_inputs(self, X: Any) -> NDArray[Any]:
        """Return what `network_` takes (examples, features): columns scaled, and what is far out drawn in.

        Parameters
        ----------
        X : array_like, sparse matrix or data frame, shape (examples, features)
        """
        table = self._table(X)
        dtype = next(self.network_.parameters()).dtype
        return table.read(slice(None), torch.empty(table.cells.shape, dtype=dtype).numpy())

    def _table(self, X: Any) -> Table:
        check_is_fitted(self)
        table, _ = read_table(self, X)
        cells = self._columns.transform(table) if self._columns is not None else table
        return standardizer(cells, self._inputs, self._bound)

    @property
    def network_feature_names_(self) -> NDArray[Any]:
        """Names of the columns of `scale_inputs(X)`: what the columns of a frame became."""
        check_is_fitted(self)
        if self._columns is not None:
            return np.array(self._columns.names, dtype=object)
        return np.array(names_of(self, self.n_features_in_), dtype=object)

    def _threads_for(self, table: Table) -> AbstractContextManager[None]:
        """Have torch predict with one thread where a block of rows is too small for several."""
        return threads_for(multiply_adds(self.network_, min(len(table), BLOCK_SIZE), table.keeps_zeros))

    def _outputs(self, table: Table) -> Tensor:
        """Return the network's outputs (examples, outputs) in inference, on the CPU."""
        cells, weight = table.cells, next(self.network_.parameters())
        outputs = []
        with own_surroundings(weight.device), inference(self.network_), torch.no_grad():
            form = self.network_ if len(table) < _FOLDED_FROM else inference_form(self.network_)
            first, rest = split_first(form, table)
            width = cells.shape[1] if first is None else first.out_features
            for rows in row_blocks(len(table), width, most=BLOCK_SIZE):
                if first is None:
                    inputs = torch.empty(rows.stop - rows.start, width, dtype=weight.dtype)
                    table.read(rows, inputs.numpy())
                else:
                    inputs = sparse_product(table, rows, first)
                outputs.append(rest(inputs.to(weight.device)).cpu())
        return torch.cat(outputs)

    @property
    def coefs_(self) -> tuple[NDArray[Any], ...]:
        """Weights (in, out) of plain layers that compute the same, of `scale_inputs(X)`; read-only."""
        return tuple(_read_only(weight.numpy().T) for weight, _ in self._plain_layers())

    @coefs_.setter
    def coefs_(self, value: Any) -> None:
        raise AttributeError(_COMPUTED.format("coefs_"))

    @property
    def intercepts_(self) -> tuple[NDArray[Any], ...]:
        """The biases (out,) that go with `coefs_`."""
        return tuple(_read_only(bias.numpy()) for _, bias in self._plain_layers())

    @intercepts_.setter
    def intercepts_(self, value: Any) -> None:
        raise AttributeError(_COMPUTED.format("intercepts_"))

    def _plain_layers(self) -> list[tuple[Tensor, Tensor]]:
        check_is_fitted(self)
        inputs = self._inputs if self._bound is None else unscaled(len(self._inputs.mean))
        return plain_layers(self.network_, inputs, self._outputs_scale(self._targets))


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False  # it is a copy: what is assigned to it would be lost
    return array


def _draw_seed(random_state: Any) -> int:
    return int(check_random_state(random_state).randint(2**31 - 1))
