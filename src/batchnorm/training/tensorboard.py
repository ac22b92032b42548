"""A training as event files of TensorBoard, with torch's own writer and the tags of its documentation."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchnorm.config import TrainingConfig
from batchnorm.errors import BatchnormError, InputError, importing
from batchnorm.files import as_path
from batchnorm.training.monitor import Monitor

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_SCORES = {"loss": "Loss", "accuracy": "Accuracy", "accuracy_of_labels": "Accuracy of labels", "r2": "R2"}
_SCORES |= {"rmse": "RMSE", "mae": "MAE"}
_DISTRIBUTIONS = {"before": "pre_activations", "after": "normalized", "outputs": "activations", "gradient": "gradients"}
_FIGURES = ("gradient_norm", "weight_norm", "update_ratio", "dead", "saturated")


class TensorBoardMonitor(Monitor):
    """Write a training for TensorBoard: ``tensorboard --logdir LOG_DIR`` shows it.

    Per evaluation there are the scalars "Loss/train", "Loss/validation" and "Loss/step" (the mean over the steps of the
    epoch), "Accuracy/train" and "Accuracy/validation" (of values "R2", "RMSE" and "MAE"; of several ones each with its
    number behind), and "learning_rate"; at the end "Loss/test" and "Accuracy/test" with the running averages,
    "Loss/test_population" and "Accuracy/test_population" with the population statistics. Per look into the layers
    (`Run.layers`), each with the layer's name behind, there are the histograms "pre_activations/", "normalized/",
    "activations/" and "gradients/", and the scalars "gradient_norm/", "weight_norm/", "update_ratio/", "dead/" and
    "saturated/". What they stand at is the number of steps that were taken.

    A training that goes on writes all of it again: TensorBoard shows what comes last, each event once. Nothing is
    written before the training has saved something.

    Parameters
    ----------
    log_dir : str or Path
        Made if it is not there. One for each training.
    seeds : bool, default False
        Whether it is told of several trainings, each of which gets a sub-folder "seed-N".

    Raises
    ------
    MissingPackageError
        If tensorboard is not installed.
    InputError
        If `log_dir` is a file.

    See Also
    --------
    Monitors : Several monitors of one training.
    """

    def __init__(self, log_dir: str | Path, *, seeds: bool = False):
        with importing("tensorboard", "event files need tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self._new_writer = SummaryWriter
        self._log_dir, self._seeds = as_path("log_dir", log_dir).absolute(), seeds
        if self._log_dir.exists() and not self._log_dir.is_dir():
            raise InputError(f"log_dir is {log_dir}, which is a file: name a folder")
        self._folder, self._step = self._log_dir, 0
        self._writer: SummaryWriter | None = None

    def begin(self, config: TrainingConfig, steps_per_epoch: int, epoch: int, step: int) -> None:
        """Take note of which training it is."""
        self._folder = self._log_dir / f"seed-{config.seed}" if self._seeds else self._log_dir
        self._step = 0

    def evaluated(self, record: dict[str, Any]) -> None:
        """Write an evaluation."""
        self._step = record["step"]
        self._add("learning_rate", record["learning_rate"])
        self._add("Loss/step", record["step_loss"])
        for part in ("train", "validation"):
            for name, tag in _SCORES.items():
                self._add(f"{tag}/{part}", record.get(f"{part}_{name}"))
        self._flush()

    def looked(self, look: dict[str, Any]) -> None:
        """Write a look into the layers."""
        for layer in look["layers"]:
            for kind, tag in _DISTRIBUTIONS.items():
                self._add_histogram(f"{tag}/{layer['name']}", layer[kind], look["step"])
            for kind in _FIGURES:
                self._add(f"{kind}/{layer['name']}", layer[kind], look["step"])
        self._flush()

    def finished(self, results: dict[str, Any]) -> None:
        """Write the figures on the test set."""
        for kind, part in (("running", "test"), ("population", "test_population")):
            for name, tag in _SCORES.items():
                self._add(f"{tag}/{part}", results["test"].get(kind, {}).get(name))

    def end(self) -> None:
        """Close the files."""
        if self._writer is not None:
            with suppress(OSError):  # a disk that is full
                self._writer.close()
            self._writer = None

    def _add(self, tag: str, figure: float | list[float] | None, step: int | None = None) -> None:
        """Write a figure, or each of several; nothing where there is none."""
        if isinstance(figure, list):
            for number, one in enumerate(figure):
                self._add(f"{tag}/{number}", one, step)
        elif figure is not None:
            self._opened().add_scalar(tag, figure, self._step if step is None else step)

    def _add_histogram(self, tag: str, found: dict[str, Any] | None, step: int) -> None:
        if found is None or not (n := sum(found["counts"])):
            return
        low, width = found["low"], (found["high"] - found["low"]) / len(found["counts"])
        ends = [low + width * (i + 1) for i in range(len(found["counts"]))]
        mean, sd = found["mean"], found["sd"]
        if mean is None or sd is None:  # some were NaN or infinite
            mean, sd = found["quantiles"][2], 0.0
        self._opened().add_histogram_raw(
            tag, low, found["high"], n, mean * n, (sd**2 + mean**2) * n, ends, found["counts"], global_step=step
        )

    def _opened(self) -> "SummaryWriter":
        if self._writer is None:
            try:
                # What an earlier session of this training has written is not shown any more: it comes again.
                self._writer = self._new_writer(str(self._folder), purge_step=0)
            except OSError as error:
                raise BatchnormError(f"{self._folder} cannot be written: {error.strerror or error}") from error
        return self._writer

    def _flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()
