"""What can be served."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from batchnorm.errors import InputError
from batchnorm.serving.examples import ServedArrays, ServedImages
from batchnorm.serving.limits import Limits
from batchnorm.serving.tables import ServedTable
from batchnorm.tables import TableRun, load_run
from batchnorm.training import Run


class ServedModel(Protocol):
    """A run that answers requests of one kind."""

    @property
    def title(self) -> str:
        """What it predicts, in a few words."""

    @property
    def content_type(self) -> str:
        """The type of the bodies that it takes, or ``image/*`` for any of images."""

    @property
    def page(self) -> str:
        """The template, in the folder pages, of the page to try it with; it is given this model as ``model``."""

    def answer(self, body: bytes) -> dict[str, Any]:
        """Return the answer to a body, as what JSON knows; an `InputError` says what is wrong with the body."""

    def example(self) -> bytes:
        """Return a body as it should be."""

    @property
    def shown_example(self) -> str:
        """The example, or a command that sends one, for the page that tells how to ask."""

    def schemas(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return the JSON schemas of a body and of an answer, for OpenAPI; a body that is no JSON is but described."""


def serve_run(path: Path, limits: Limits, weights: bool = False) -> ServedModel:
    """Load a run to serve it, and have it answer once: what is imported at the first time is so before others wait.

    Parameters
    ----------
    path : Path
    limits : Limits
    weights : bool, default False
        Whether the page holds the network itself, and answers beside the server. Of runs on images alone.

    Raises
    ------
    InputError
        If it is no finished run, or one that does not know its inputs; or its page cannot hold the network.
    """
    run = load_run(path)
    model = _model_of(run, limits, weights)
    model.answer(model.example())
    return model


def _model_of(run: Run | TableRun, limits: Limits, weights: bool) -> ServedModel:
    if isinstance(run, Run) and run.known_signature().image_size is not None:
        return ServedImages(run, limits, weights)
    if weights:
        raise InputError(
            "there is nothing to draw, and no use for the weights in the page: the run is not on images of 8 bits: "
            "serve it without weights",
            on_command_line="there is nothing to draw: the run is not on images of 8 bits: leave out --weights",
        )
    return ServedTable(run, limits) if isinstance(run, TableRun) else ServedArrays(run, limits)
