"""A cell of a comparison: one arm from one seed, trained into a run folder of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from batchnorm.config import TrainingConfig
from batchnorm.data import Dataset
from batchnorm.errors import DivergedError, InputError
from batchnorm.network import DenseNetwork
from batchnorm.training import Monitor, Monitors, fit, resume
from batchnorm.training.runs import RunFolder

Outcome = dict[str, Any] | None  # of a training: None, or how it diverged


class Tell(Protocol):
    """Takes what is told of a training, by its name."""

    def __call__(self, **what: Any) -> None:  # noqa: D102
        ...


@dataclass(frozen=True)
class Cell:
    """One training.

    Parameters
    ----------
    name : str
        Of its run folder.
    config : TrainingConfig
    initial_scale : float
        What the weights are multiplied with, once they are drawn.
    """

    name: str
    config: TrainingConfig
    initial_scale: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {"name": self.name, "config": self.config.to_dict(), "initial_scale": self.initial_scale}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Cell":
        """Build one from what `to_dict` returned."""
        return cls(**{**values, "config": TrainingConfig.from_dict(values["config"])})

    def train(self, dataset: Dataset, folder: Path, monitor: Monitor) -> Outcome:
        """Train it, or go on with it, in a folder of such runs.

        Returns
        -------
        dict or None
            How it diverged: after how many steps of a finite loss ("step"), and "why". None if it did not.
        """
        path, counter = folder / self.name, _Counter()
        monitors = Monitors(monitor, counter)
        try:
            if path.exists():
                self.open(folder)
                resume(path, dataset, monitor=monitors)
            else:
                fit(self._network(dataset), dataset, self.config, out=path, monitor=monitors)
        except DivergedError as error:
            return {"step": counter.steps, "why": str(error).partition(";")[0]}
        return None

    def open(self, folder: Path) -> RunFolder:
        """Open its run folder, in a folder of such runs.

        Raises
        ------
        InputError
            If that cannot be read, or holds another run.
        """
        run = RunFolder.open(folder / self.name)
        if run.config != self.config:
            raise InputError(f"{run.path} holds another run: move it away, or choose another folder")
        return run

    def _network(self, dataset: Dataset) -> DenseNetwork:
        network = DenseNetwork.from_config(self.config, dataset.n_features, dataset.n_classes)
        with torch.no_grad():
            for layer in network:
                if isinstance(layer, torch.nn.Linear):
                    layer.weight *= self.initial_scale
        return network


class Teller(Monitor):
    """Tells someone how many "epochs" are complete, and of a "warning"."""

    def __init__(self, tell: Tell):
        self._tell, self._per_epoch = tell, 0

    def begin(self, config: TrainingConfig, steps_per_epoch: int, epoch: int, step: int) -> None:
        """Tell how many were complete before."""
        self._per_epoch = steps_per_epoch
        self._tell(epochs=epoch)

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Tell how many are complete with the last step of one."""
        if step == self._per_epoch:
            self._tell(epochs=epoch + 1)

    def warn(self, message: str) -> None:
        """Pass it on."""
        self._tell(warning=message)


class _Counter(Monitor):
    """Counts the steps whose loss was finite."""

    def __init__(self) -> None:
        self._per_epoch = self.steps = 0

    def begin(self, config: TrainingConfig, steps_per_epoch: int, epoch: int, step: int) -> None:
        self._per_epoch, self.steps = steps_per_epoch, epoch * steps_per_epoch + step

    def step(self, epoch: int, step: int, loss: float) -> None:
        self.steps = epoch * self._per_epoch + step
