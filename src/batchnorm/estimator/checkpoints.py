"""What a training can be gone on from, to the bit: all that its loop depends on besides data and parameters."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchnorm.errors import InputError, in_words
from batchnorm.network import DenseNetwork
from batchnorm.training.engines import Engine

_PARTS = ("network", "optimizer", "best", "course")
_COUNTS = {"epoch": 0, "step": 0, "stalled": 0, "shrunk": 1}  # of a course, and the least that they may be


class Checkpoints(Protocol):
    """Where one training is saved, and what it begins from. Each checkpoint replaces the one before."""

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next one; asked after each step."""

    def load(self, network: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Any] | None:
        """Return the tensors and the state, as JSON, that `save` was given last; None for a new training.

        Parameters
        ----------
        network : mapping of str to Tensor
            The state of the network: the names, shapes and types that are expected behind "network." and "best.".
        """

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Save them. A new training does so before its first step."""

    def load_looks(self) -> list[dict[str, Any]] | None:
        """Return the looks into the layers that were saved last; None where none are wanted."""

    def save_looks(self, looks: Sequence[Mapping[str, Any]]) -> None:
        """Save the looks into the layers so far, always before the checkpoint that comes after them."""

    def interrupted(self) -> None:
        """Take note that a signal asks to stop: the training is saved after this step."""


@dataclass
class Progress:
    """How a training went.

    Parameters
    ----------
    losses, scores : list of float
        Per epoch the mean loss of its steps and, if there is one, the validation score.
    improving : bool
        Whether the last epoch came before the loss stopped to improve, or before the end of a schedule.
    """

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    improving: bool = False

    def values(self) -> list[float]:
        """Return what says how good each epoch was: the validation score, or else the loss; the more the better."""
        return self.scores or [-loss for loss in self.losses]

    def is_best(self) -> bool:
        """Tell whether the last score is better than all before."""
        return self.scores[-1] > max(self.scores[:-1], default=-math.inf)

    def record(self, epoch: int) -> dict[str, Any]:
        """Return what a monitor is told of an epoch."""
        scores = {"validation_score": self.scores[epoch]} if self.scores else {}
        return {"epoch": epoch, "loss": self.losses[epoch]} | scores


@dataclass
class Course:
    """How far a training is.

    Parameters
    ----------
    step_losses : array, shape (steps of an epoch,)
        Those of the epoch that has begun are set.
    progress : Progress
        Of complete epochs.
    epoch, step : int
        Complete epochs, and complete steps of the one after them.
    stalled : int
        Epochs since the last improvement, or since the rate was shrunk.
    shrunk : int
        What the adaptive schedule divides the rate by.
    is_over : bool
        Whether nothing improves any more.
    best : dict of str to Tensor
        With validation scores the network's state at the best one.
    """

    step_losses: NDArray[np.float64]
    progress: Progress = field(default_factory=Progress)
    epoch: int = 0
    step: int = 0
    stalled: int = 0
    shrunk: int = 1
    is_over: bool = False
    best: dict[str, Tensor] = field(default_factory=dict)

    def stalls(self, patience: float, tol: float) -> bool:
        """Take note of the last epoch, and tell whether more than `patience` came without an improvement of `tol`."""
        *before, value = self.progress.values()
        self.stalled = self.stalled + 1 if value < max((-math.inf, *before)) + tol else 0
        return self.stalled > patience

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint holds besides tensors."""
        return {**{name: getattr(self, name) for name in _COUNTS}, "is_over": self.is_over}


def tensors_of(course: Course, network: DenseNetwork, engine: Engine, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint; some are what is trained on, and change with the next step."""
    optimizer = engine.state_dict()  # first, as it may bring the network up to date
    parts = {
        "network": network.state_dict(),
        "optimizer": optimizer,
        "best": course.best,
        "course": {
            "generator": generator.get_state(),
            "step_losses": torch.from_numpy(course.step_losses[: course.step]),
            "losses": torch.tensor(course.progress.losses, dtype=torch.float64),
            "scores": torch.tensor(course.progress.scores, dtype=torch.float64),
        },
    }
    return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}


def restore_(
    checkpoint: tuple[Mapping[str, Tensor], Any],
    course: Course,
    network: DenseNetwork,
    engine: Engine,
    generator: torch.Generator,
    n_epochs: int,
    is_scored: bool,
) -> None:
    """Have a training that is about to begin be where a checkpoint was, whoever wrote it.

    Parameters
    ----------
    checkpoint : pair of mapping and JSON
        What `Checkpoints.load` returned.
    course, network, engine, generator
        Those of the training, which are changed.
    n_epochs : int
        How long it is at most.
    is_scored : bool
        Whether it has validation scores.

    Raises
    ------
    InputError
        If it is not that of such a training, or a number is NaN or infinite.
    """
    tensors, state = checkpoint
    try:
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
        for key, tensor in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = tensor
            is_good = ~tensor.isnan() if part == "optimizer" else tensor.isfinite()  # a square may be beyond float32
            _expect(f"whether {key[:80]} is finite", bool(is_good.all()), True)
        _take_counts_(course, state, n_epochs)
        _take_course_(course, parts["course"], is_scored)
        generator.set_state(parts["course"]["generator"])
        kept = network.state_dict()
        for name in ("network", "best"):
            if name == "network" or parts[name]:
                _check_same(name, parts[name], kept)
        network.load_state_dict(parts["network"])
        engine.load_state_dict(parts["optimizer"])
        course.best = parts["best"]
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        raise InputError(f"the checkpoint does not fit the run: {in_words(error)}") from error


def _take_counts_(course: Course, state: Any, n_epochs: int) -> None:
    if not isinstance(state, dict) or state.keys() != {*_COUNTS, "is_over"}:
        raise ValueError(f"its state is {str(state)[:80]}")
    for name, least in _COUNTS.items():
        if type(state[name]) is not int or not least <= state[name] < 2**63:
            raise ValueError(f"its {name} is {str(state[name])[:80]}")
        setattr(course, name, state[name])
    if type(state["is_over"]) is not bool:
        raise ValueError(f"its is_over is {str(state['is_over'])[:80]}")
    course.is_over = state["is_over"]
    is_at_end = course.is_over or course.epoch == n_epochs
    if course.epoch > n_epochs or course.step > (0 if is_at_end else len(course.step_losses)):
        raise ValueError(
            f"it is at epoch {course.epoch}, step {course.step} of {n_epochs} epochs of {len(course.step_losses)} steps"
        )


def _take_course_(course: Course, tensors: Mapping[str, Tensor], is_scored: bool) -> None:
    lengths = {"step_losses": course.step, "losses": course.epoch, "scores": course.epoch if is_scored else 0}
    for name, length in lengths.items():
        tensor = tensors[name]
        _expect(name, (tensor.dtype, tuple(tensor.shape)), (torch.float64, (length,)))
    course.step_losses[: course.step] = tensors["step_losses"].numpy()
    course.progress.losses, course.progress.scores = tensors["losses"].tolist(), tensors["scores"].tolist()


def _check_same(what: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    _expect(f"the tensors of {what}", sorted(tensors), sorted(expected))
    for name, tensor in expected.items():
        found = tensors[name]
        _expect(f"{what}.{name}", (found.dtype, tuple(found.shape)), (tensor.dtype, tuple(tensor.shape)))


def _expect(what: str, is_: Any, expected: Any) -> None:
    if is_ != expected:
        raise ValueError(f"{what}: {is_}, expected {expected}")
