"""Examples as pictures of a page."""

import base64
import io

import numpy as np
from torch import Tensor

from batchnorm.data import Signature
from batchnorm.errors import importing
from batchnorm.reporting.pieces import Picture

_LARGEST = 64  # pixels of a side that are kept
_SHOWN = 84  # pixels of the longer side on the page


def picture_of(signature: Signature, inputs: Tensor, alternative: str, lines: list[str]) -> Picture | None:
    """Return an example as a picture, or None if it is no image of 8 bits."""
    if signature.image_size is None:
        return None
    with importing("report", "pictures need Pillow"):
        from PIL import Image
    pixels = inputs.cpu().numpy()
    image = Image.fromarray(pixels if signature.is_grey else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((_LARGEST, _LARGEST))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    factor = _SHOWN / max(image.size)
    width, height = (max(1, round(size * factor)) for size in image.size)
    return Picture(address, width, height, alternative, lines)
