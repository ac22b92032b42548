"""Examples as pictures of a page."""

import base64
import io

import numpy as np
from torch import Tensor

from batchnorm.data import Signature
from batchnorm.errors import importing
from batchnorm.reporting.pieces import Picture

_SMALLEST = 5  # pixels of a side: less is no image
_LARGEST = 64  # pixels of a side that are kept
_SHOWN = 84  # pixels of the longer side on the page


def picture_of(signature: Signature, inputs: Tensor, alternative: str, lines: list[str]) -> Picture | None:
    """Return an example as a picture, or None if it is no image: grey or (3, height, width), from black to white."""
    pixels = (inputs.cpu().double() * signature.scale).numpy()
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and len(pixels) == 3)
    if not is_image or min(pixels.shape[-2:]) < _SMALLEST or pixels.min() < 0 or pixels.max() > 1:
        return None
    with importing("report", "pictures need Pillow"):
        from PIL import Image
    rows = (255 * (pixels if pixels.ndim == 2 else pixels.transpose(1, 2, 0))).round().astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(rows))
    image.thumbnail((_LARGEST, _LARGEST))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    factor = _SHOWN / max(image.size)
    width, height = (max(1, round(size * factor)) for size in image.size)
    return Picture(address, width, height, alternative, lines)
