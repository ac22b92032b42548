"""A finished run: what was trained, how it went, how good it is."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from batchnorm import markup
from batchnorm.config import Task, TrainingConfig
from batchnorm.data import Signature, TargetScale
from batchnorm.errors import InputError, MissingPackageError
from batchnorm.files import json_ready
from batchnorm.network import DenseNetwork
from batchnorm.results import Result
from batchnorm.training.predicting import outputs_of

if TYPE_CHECKING:
    import pandas as pd

_STATISTICS = {"running": "running averages", "population": "population statistics"}


@dataclass(frozen=True, eq=False)
class Run(Result):
    """A finished run.

    Parameters
    ----------
    network : torch.nn.Module
        Trained, in inference mode, with its running averages.
    config : TrainingConfig
    history : list of dict
        One record per evaluation: epoch, step, learning_rate, step_loss (mean over the epoch's steps), and accuracy
        and loss on the training and the validation set; of several labels accuracy_of_labels, too; of values r2, rmse
        and mae in place of accuracy.
    results : dict
        "epochs": how many were trained; "test": the same figures on the test set, with "running" averages and, if
        there are batch-norm layers, with "population" statistics; "note": why these could not be measured, if so. If
        these were replaced since, their figures are gone, and "recalibrated" names the "data" and the "method".
    population : dict of str to Tensor
        The exact population statistics of the training set, under the names of the running averages that they
        replace: ``network.load_state_dict(run.population, strict=False)``. ``batchnorm recalibrate RUN --in-place``
        replaces them.
    path : Path or None
        The run folder.
    signature : Signature or None
        Shape, type and scale of the inputs, and the names of the classes, labels or values; None of a run that an
        earlier version has begun.
    task : {"classification", "labels", "regression"}, default "classification"
    target_scale : TargetScale, optional
        What values were standardised with: the network's outputs are standardised, those of `predict` are not.
    layers : list of dict
        One record per look into the layers: "epoch", of the evaluation that it belongs to, −1 before the first step;
        "step", how many were taken; and "layers", as `ObservedLayers` describes them. Empty where nobody looked.
    """

    network: nn.Module
    config: TrainingConfig
    history: list[dict[str, Any]]
    results: dict[str, Any]
    population: dict[str, Tensor]
    path: Path | None
    signature: Signature | None
    task: Task = "classification"
    target_scale: TargetScale | None = None
    layers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def test_scores(self) -> dict[str, Any]:
        """Figures on the test set with the running averages: accuracy and loss, or of values r2, rmse, mae and loss."""
        return dict(self.results["test"]["running"])

    @property
    def test_accuracy(self) -> float:
        """Accuracy on the test set with the running averages.

        Raises
        ------
        InputError
            If values were learnt, which have none.
        """
        if self.task == "regression":
            raise InputError("values have no accuracy: test_scores has r2, rmse and mae")
        return float(self.results["test"]["running"]["accuracy"])

    @property
    def metrics(self) -> "pd.DataFrame":
        """`history` as a pandas frame: a row per evaluation, a column per figure.

        Raises
        ------
        MissingPackageError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                "Run.metrics is a pandas frame: pip install pandas, or use Run.history, the same as a list of dicts"
            ) from error
        return pd.DataFrame(self.history)

    def predict(self, inputs: ArrayLike) -> NDArray[Any]:
        """Predict examples with the running averages, as `test_scores` are measured.

        Parameters
        ----------
        inputs : array_like, shape (examples, *feature_shape)
            In the unit that the data came in: they are scaled here. Where `uint8` was trained on, whole numbers from 0
            to 255 of any type. An array in a file (`numpy.memmap`) is read a part at a time.

        Returns
        -------
        array
            Names of classes, `str` (examples,); labels, `bool` (examples, labels); or values in their unit, `float64`,
            (examples,) or of several (examples, values).

        Raises
        ------
        InputError
            If inputs have another shape, or values that were never trained on: NaN, infinite, fractions of pixels; or
            if an earlier version has begun the run, and did not record what is needed.
        """
        signature = self.known_signature()
        outputs = outputs_of(self.network, signature, inputs)
        if self.task == "classification":
            return np.asarray(np.array(signature.class_names)[outputs.argmax(1).numpy()])
        if self.target_scale is None:
            return np.asarray((outputs > 0).numpy())
        values = self.target_scale.in_unit(outputs).numpy()
        return np.asarray(values[:, 0] if values.shape[1] == 1 else values)

    def predict_proba(self, inputs: ArrayLike) -> NDArray[np.floating[Any]]:
        """Predict the probability of each class or label, in the order of ``signature.class_names``.

        Parameters, and what it raises, are those of `predict`.

        Returns
        -------
        array, shape (examples, classes) or (examples, labels)

        Raises
        ------
        InputError
            If values were learnt, which have none.
        """
        if self.task == "regression":
            raise InputError("values have no probabilities: use predict")
        outputs = outputs_of(self.network, self.known_signature(), inputs)
        return np.asarray((outputs.softmax(1) if self.task == "classification" else outputs.sigmoid()).numpy())

    def known_signature(self) -> Signature:
        """Return `signature`, or raise an `InputError` that says what the run lacks."""
        if self.signature is None:
            raise InputError(
                f"{self.path} was begun by an earlier version, which did not record the scale of its inputs and the "
                "names of its classes: train it anew, or use run.network, which takes scaled inputs"
            )
        return self.signature

    def in_unit(self) -> nn.Module:
        """Return a module whose outputs (batch, outputs) are values in their unit, with the trained network in it.

        It computes in the network's precision. Of classes and labels it is the network itself.

        Raises
        ------
        InputError
            If that precision does not hold the values.
        """
        if self.target_scale is None:
            return self.network
        like = next((p.detach() for p in self.network.parameters() if p.is_floating_point()), torch.zeros(()))
        layer = _unit_layer(self.target_scale, like)
        return nn.Sequential(self.network, *_column(self.network, self.target_scale), layer).eval()

    def __str__(self) -> str:
        test = self.results["test"]
        figures = ", ".join(f"{_figures(test[kind])} with {what}" for kind, what in _STATISTICS.items() if kind in test)
        name = "R²" if self.task == "regression" else "accuracy"
        return "; ".join([self._trained, f"test {name} {figures}", *self._remarks()])

    @property
    def _trained(self) -> str:
        n_epochs = self.results["epochs"]
        return f"{type(self.network).__name__} trained for {n_epochs} epoch{'' if n_epochs == 1 else 's'}"

    def _remarks(self) -> list[str]:
        notes = [self.results["note"]] if "note" in self.results else []
        return notes if self.path is None else [*notes, f"run folder {self.path}"]

    def to_dict(self) -> dict[str, Any]:
        """Return all but the tensors and `layers` as what JSON knows. Infinite and NaN become None."""
        described: dict[str, Any] = json_ready(
            {
                "run": None if self.path is None else str(self.path),
                "config": self.config.to_dict(),
                "history": self.history,
                **self.results,
            }
        )
        return described

    def _repr_html_(self) -> str:
        measures = (*(("r2", "rmse") if self.task == "regression" else ("accuracy",)), "loss")
        tested = ((what, self.results["test"].get(kind)) for kind, what in _STATISTICS.items())
        tests = [[what, *(_cell(figures[name]) for name in measures)] for what, figures in tested if figures]
        columns = ("epoch", *(f"{part} {name}" for name in measures for part in ("train", "validation")))
        names = [column.replace(" ", "_") for column in columns]
        history = [[_cell(record[name]) for name in names] for record in self.history]
        return markup.html(
            *markup.lines("\n".join([self._trained, *self._remarks()])),
            markup.table(["tested with", *measures], tests),
            markup.table(columns, history),
        )


def _figures(scores: dict[str, Any]) -> str:
    """Return the figure that says how good predictions are; of values with their errors."""
    if "accuracy" in scores:
        return f"{scores['accuracy']:.6g}"
    return f"{_cell(scores['r2'])} (root mean squared error {_cell(scores['rmse'])})"


def _cell(figure: float | list[float] | None) -> str:
    if figure is None:
        return "–"
    return ", ".join(f"{number:.5g}" for number in (figure if isinstance(figure, list) else [figure]))


def _column(network: nn.Module, scale: TargetScale) -> tuple[nn.Module, ...]:
    """Return layers that make a column of one value, which any other network may give as (batch,)."""
    is_column = isinstance(network, DenseNetwork) or len(scale.mean) > 1
    return () if is_column else (nn.Flatten(0), nn.Unflatten(0, (-1, 1)))


def _unit_layer(scale: TargetScale, like: Tensor) -> nn.Module:
    """Return a layer of torch's own that brings standardised values (batch, outputs) into their unit."""
    mean, deviation = (torch.tensor(numbers, dtype=torch.float64).to(like) for numbers in (scale.mean, scale.deviation))
    if not (mean.isfinite() & deviation.isfinite() & (deviation > 0)).all():
        raise InputError(f"{like.dtype} does not hold values of {scale}: use Run.predict, whose outputs are float64")
    layer = nn.Linear(len(mean), len(mean), device="meta")  # which draws nothing
    layer.weight, layer.bias = nn.Parameter(deviation.diag()), nn.Parameter(mean)
    return layer.requires_grad_(False)  # it is a unit, and nothing to be learnt
