"""What inputs a trained network takes, in the unit that its data came in, and what its outputs stand for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from batchnorm.data.dataset import Dataset, unmasked
from batchnorm.data.examples import Examples
from batchnorm.errors import InputError

_RECORDED = ("feature_shape", "dtype", "scale", "class_names")
_PIXEL_SCALE = 1 / 255


@dataclass(frozen=True)
class Signature:
    """What goes into a network that was trained on a data set, and what comes out.

    Parameters
    ----------
    feature_shape : tuple of int
        Of one example.
    dtype : {"uint8", "float32", "float64"}
        What inputs are read as; "uint8" are whole numbers from 0 to 255.
    scale : float
        What the network's inputs are multiplied with before it sees them.
    class_names : tuple of str
        One per output, also of labels and values.
    """

    feature_shape: tuple[int, ...]
    dtype: str
    scale: float
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """Return the signature of what is trained on a data set."""
        kind = str(dataset.train.inputs.dtype).removeprefix("torch.")
        dtype = kind if kind in ("uint8", "float64") else "float32"
        return cls(dataset.feature_shape, dtype, dataset.train.scale, tuple(map(str, dataset.class_names)))

    @classmethod
    def recorded(cls, values: Mapping[str, Any]) -> Self | None:
        """Return the signature that a run has recorded, or None where an earlier version recorded less."""
        if any(name not in values for name in _RECORDED):
            return None
        shape, dtype, scale, class_names = (values[name] for name in _RECORDED)
        return cls(tuple(shape), dtype, scale, tuple(class_names))

    def record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "feature_shape": list(self.feature_shape),
            "dtype": self.dtype,
            "scale": self.scale,
            "class_names": list(self.class_names),
        }

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(width, height) if inputs are images of 8 bits per channel, grey or (3, height, width); else None."""
        is_image = len(self.feature_shape) == 2 or (len(self.feature_shape) == 3 and self.feature_shape[0] == 3)
        if not (is_image and self.dtype == "uint8" and self.scale == _PIXEL_SCALE):
            return None
        return self.feature_shape[-1], self.feature_shape[-2]

    @property
    def is_grey(self) -> bool:
        """Whether images have one channel."""
        return len(self.feature_shape) == 2

    def array(self, inputs: ArrayLike) -> NDArray[Any]:
        """Return inputs as an array of the right shape, whose values nobody has looked at yet.

        Raises
        ------
        InputError
            If they are no array of numbers of shape (examples, *feature_shape).
        """
        array = unmasked("inputs", inputs)
        self.check(array.shape, array.dtype)
        return array

    def check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Refuse what is no array of numbers of shape (examples, *feature_shape)."""
        if dtype.kind not in "buif":
            raise InputError(f"inputs are of type {dtype}, expected numbers")
        if shape[1:] != self.feature_shape or not shape:
            hint = ": use x[None] for one example" if shape == self.feature_shape else ""
            sizes = ", ".join(map(str, self.feature_shape))
            raise InputError(f"inputs have shape {shape}, expected (examples, {sizes}){hint}")

    def examples(self, array: NDArray[Any]) -> Examples:
        """Return some rows of what `array` returns as examples of no class in particular.

        Raises
        ------
        InputError
            If a value is NaN or infinite, or no whole number from 0 to 255 where such were trained on.
        """
        if self.dtype == "uint8":
            values = _whole(array)
        else:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
                values = array.astype(self.dtype)
            if not np.isfinite(values).all():
                raise InputError(f"inputs hold {array[~np.isfinite(values)][0]}, expected finite numbers")
        return Examples(
            torch.from_numpy(np.require(values, requirements=["C", "W"])),
            torch.zeros(len(values), dtype=torch.int64),
            self.scale,
        )


def _whole(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    wrong = ~((array >= 0) & (array <= 255))
    if array.dtype.kind == "f":
        wrong |= array % 1 != 0
    if wrong.any():
        raise InputError(
            f"inputs hold {array[wrong][0]}, expected whole numbers from 0 to 255 as in the training, which are scaled "
            "here: give them as they were before they were scaled"
        )
    return array.astype(np.uint8)
