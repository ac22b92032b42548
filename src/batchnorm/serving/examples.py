"""Runs of the trainer: one on images answers an image file, one on arrays answers arrays of JSON."""

import io
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from batchnorm import playground
from batchnorm.data import Picture, read_image
from batchnorm.errors import InputError, importing
from batchnorm.serving.bodies import list_of_body, rows_of
from batchnorm.serving.limits import Limits
from batchnorm.tables import outputs_of_examples, shortened
from batchnorm.training import Run

if TYPE_CHECKING:
    from markupsafe import Markup

_KINDS = {"classification": ("class", "classes"), "labels": ("label", "labels"), "regression": ("value", "values")}
_MOST_SHOWN = 2_000  # letters of an example on a page


class ServedImages:
    """A run on images, of which each request brings one.

    Parameters
    ----------
    run : Run
        Whose signature has an `image_size`.
    limits : Limits
        Of which the pixels of an image are looked at here.
    weights : bool
        Whether the page holds the network.

    Raises
    ------
    InputError
        If it is to hold it, and cannot.
    """

    content_type = "image/*"  # what it holds is told by the body itself
    page = "image.html"
    shown_example = "curl http://127.0.0.1:8000/predict -H 'Content-Type: image/png' --data-binary @image.png"

    def __init__(self, run: Run, limits: Limits, weights: bool):
        self._run, self._limits, self._signature = run, limits, run.known_signature()
        size = self._signature.image_size
        assert size is not None
        self.width, self.height = size
        self.canvas = _canvas(run, weights)

    @property
    def title(self) -> str:
        """What is predicted."""
        return f"images ({_outputs_in_words(self._run)})"

    def answer(self, body: bytes) -> dict[str, Any]:
        """Return what is predicted for an image.

        Returns
        -------
        dict
            "predictions" has one row, of what `batchnorm predict` writes, "notices" what was done to the image.

        Raises
        ------
        InputError
            If it is none, a damaged one, or one that is too large.
        """
        picture = read_image(body, self._signature, most_pixels=self._limits.pixels)
        outputs = outputs_of_examples(self._run, picture.pixels[None])
        return {"predictions": rows_of(outputs), "notices": list(self._notices(picture))}

    def _notices(self, picture: Picture) -> Iterator[str]:
        if picture.was_resized:
            yield f"the image had another size, and was resized to {self.width} × {self.height}"
        if picture.was_transparent:
            yield "the image is transparent in parts: white was laid under"
        if picture.was_coloured:
            yield "the image is in colour, and was made grey as those of the training"

    def example(self) -> bytes:
        """Return a grey image as PNG."""
        with importing("images", "images need Pillow"):
            from PIL import Image
        file = io.BytesIO()
        Image.new("L", (self.width, self.height), 128).save(file, "PNG")
        return file.getvalue()

    def schemas(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what describes a body, which is no JSON, and the JSON schema of an answer."""
        grey = " and made grey" if self._signature.is_grey else ""
        body = (
            f"One image file of {self._limits.pixels:,} pixels at most: PNG, JPEG, WebP, BMP or GIF (its first frame). "
            f"It is made upright, resized to {self.width} × {self.height}{grey}, and white is laid under it."
        )
        notices = {
            "type": "array",
            "items": {"type": "string"},
            "description": "What was done to the image so that it is as those of the training.",
        }
        return {"description": body}, _answer_schema(self._run, notices=notices)


def _canvas(run: Run, weights: bool) -> "Markup | None":
    """Return what a page holds to draw on; None where no drawing is as large, or as small, as the images are."""
    network = run.network if weights else None
    try:
        document = playground.pack(network, run.known_signature(), task=run.task, target_scale=run.target_scale)
    except InputError as error:
        if weights:
            said = f"{error}: serve it without weights"
            raise InputError(said, on_command_line=f"{error}: leave out --weights") from error
        return None
    return playground.piece(document).html


class ServedArrays:
    """A run on arrays.

    Parameters
    ----------
    run : Run
    limits : Limits
        Of which the rows of a request, its examples, are looked at here.
    """

    content_type = "application/json"
    page = "array.html"

    def __init__(self, run: Run, limits: Limits):
        self._run, self._limits, self._signature = run, limits, run.known_signature()
        self.shape = self._signature.feature_shape

    @property
    def title(self) -> str:
        """What is predicted."""
        return f"arrays ({_outputs_in_words(self._run)})"

    @property
    def expected(self) -> str:
        """What a number of it is, in words."""
        is_whole = self._signature.dtype == "uint8"
        return "whole numbers from 0 to 255, as in the training" if is_whole else "numbers, in the training's unit"

    @property
    def shown_example(self) -> str:
        """A body as the page shows it that tells how to ask."""
        text = self.example().decode()
        return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"

    def answer(self, body: bytes) -> dict[str, Any]:
        """Return what is predicted for the arrays of a body.

        Returns
        -------
        dict
            "predictions" has for each what `batchnorm predict` writes.

        Raises
        ------
        InputError
            If the body is not as `schemas` says.
        """
        inputs = self._inputs(body)
        return {"predictions": rows_of(outputs_of_examples(self._run, inputs))}

    def _inputs(self, body: bytes) -> NDArray[np.float64]:
        expected = f'{{"inputs": [array, …]}}, lists of shape {_in_words(self.shape)}'
        inputs = list_of_body(body, "inputs", expected, self._limits.rows)
        _check(inputs, (len(inputs), *self.shape), "inputs")
        try:
            return np.array(inputs, dtype=np.float64)
        except OverflowError as error:
            raise InputError(
                f"inputs hold a number that is beyond those of 64 bits, expected {self.expected}"
            ) from error

    def example(self) -> bytes:
        """Return the body of an array of zeros."""
        return json.dumps({"inputs": np.zeros((1, *self.shape), dtype=np.int64).tolist()}).encode()

    def schemas(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the JSON schemas of a body and of an answer."""
        is_whole = self._signature.dtype == "uint8"
        part: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 255} if is_whole else {"type": "number"}
        for size in reversed(self.shape):
            part = {"type": "array", "items": part, "minItems": size, "maxItems": size}
        inputs = {
            "type": "array",
            "items": part,
            "minItems": 1,
            "maxItems": self._limits.rows,
            "description": f"Arrays of shape {_in_words(self.shape)}: {self.expected}.",
        }
        body = {
            "type": "object",
            "properties": {"inputs": inputs},
            "required": ["inputs"],
            "additionalProperties": False,
        }
        return body, _answer_schema(self._run)


def _check(given: Any, shape: tuple[int, ...], where: str) -> None:
    """Refuse what are no lists in lists of a shape, of numbers. numpy would copy a long text beside each number."""
    if not isinstance(given, list):
        raise InputError(f"{where} is {shortened(given)}, expected a list of {shape[0]:,}")
    if len(given) != shape[0]:
        raise InputError(f"{where} has a length of {len(given):,}, expected {shape[0]:,}")
    if len(shape) > 1:
        for number, part in enumerate(given):
            _check(part, shape[1:], f"{where}[{number}]")
    elif not set(map(type, given)) <= {int, float}:
        number, wrong = next((i, value) for i, value in enumerate(given) if type(value) not in (int, float))
        raise InputError(f"{where}[{number}] is {shortened(wrong)}, expected a number")


def _answer_schema(run: Run, **others: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of predictions, named by those for no example at all, and of what else there is."""
    names = outputs_of_examples(run, np.empty((0, *run.known_signature().feature_shape)))
    predictions = {
        "type": "array",
        "items": {"type": "object"},
        "description": f"A row each, with {', '.join(names)}.",
    }
    properties = {"predictions": predictions, **others}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _outputs_in_words(run: Run) -> str:
    """Return such as "10 classes"."""
    n = len(run.known_signature().class_names)
    one, several = _KINDS[run.task]
    return f"{n:,} {one if n == 1 else several}"


def _in_words(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
