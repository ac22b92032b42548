"""Examples as pictures of a page."""

from torch import Tensor

from batchnorm.data import Signature, png_address
from batchnorm.errors import importing
from batchnorm.reporting.pieces import Picture

_SMALLEST = 5  # pixels of a side: less is no image
_SHOWN = 84  # pixels of the longer side on the page


def picture_of(signature: Signature, inputs: Tensor, alternative: str, lines: list[str]) -> Picture | None:
    """Return an example as a picture, or None if it is no image: grey or (3, height, width), from black to white."""
    pixels = inputs.cpu().double() * signature.scale
    is_image = pixels.dim() == 2 or (pixels.dim() == 3 and len(pixels) == 3)
    if not is_image or min(pixels.shape[-2:]) < _SMALLEST or pixels.min() < 0 or pixels.max() > 1:
        return None
    with importing("report", "pictures need Pillow"):
        address = png_address(255 * pixels)
    factor = _SHOWN / max(pixels.shape[-2:])
    height, width = (max(1, round(side * factor)) for side in pixels.shape[-2:])
    return Picture(address, width, height, alternative, lines)
