"""What can be served."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from batchnorm.errors import InputError
from batchnorm.serving.limits import Limits
from batchnorm.serving.tables import ServedTable
from batchnorm.tables import TableRun, load_run


class ServedModel(Protocol):
    """A run that answers requests of one kind."""

    @property
    def title(self) -> str:
        """What it predicts, in a few words."""

    @property
    def content_type(self) -> str:
        """The type of the bodies that it takes."""

    @property
    def page(self) -> str:
        """The template, in the folder pages, of the page to try it with; it is given this model as ``model``."""

    def answer(self, body: bytes) -> dict[str, Any]:
        """Return the answer to a body, as what JSON knows; an `InputError` says what is wrong with the body."""

    def example(self) -> bytes:
        """Return a body as it should be."""

    def schemas(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return the JSON schemas of a body and of an answer, for OpenAPI."""


def serve_run(path: Path, limits: Limits) -> ServedModel:
    """Load a run to serve it, and have it answer once: what is imported at the first time is so before others wait.

    Raises
    ------
    InputError
        If it is no finished run, or one on a data set or on images.
    """
    run = load_run(path)
    if not isinstance(run, TableRun):
        raise InputError(
            f"{path} is a run on a data set: what is served so far are runs on tables (train FILE --target)"
        )
    model = ServedTable(run, limits)
    model.answer(model.example())
    return model
