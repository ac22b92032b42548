"""What a training tells while it runs. The training itself prints nothing."""

from typing import Any

from batchnorm.training.config import TrainingConfig


class Monitor:
    """Is told how a training goes; does nothing with it. Subclass it, and override what you want to know."""

    def begin(self, config: TrainingConfig, steps_per_epoch: int, epoch: int, step: int) -> None:
        """Take note that training begins, or goes on, with so many epochs, and steps of the next one, complete."""

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Take note of a step: its number in the epoch, from 1, and its batch's loss."""

    def evaluated(self, record: dict[str, Any]) -> None:
        """Take note of an evaluation, a record of `Run.history`. A run that goes on tells its earlier ones again."""

    def finished(self, results: dict[str, Any]) -> None:
        """Take note of the finished run's `Run.results`."""

    def warn(self, message: str) -> None:
        """Take note of a warning."""

    def end(self) -> None:
        """Take note that training has ended, well or not: called in every case."""
