"""How what is drawn becomes an image like those that were trained on."""

import torch
from torch import Tensor

from batchnorm.data import Examples, Signature

_SOME = 1000  # examples that are looked at
_MNIST = 20 / 28  # the side of the box that a digit of MNIST fills, as a share of the image's
_FAINT = 0.2  # share of the ink's strength below which a pixel is background


def drawing_of(signature: Signature, examples: Examples | None) -> dict[str, float]:
    """Return the values of background and ink, and the share of an image's side that the drawn box fills.

    They are those of examples where there are any: background is what most borders are nearer to, and the box is what
    half the examples stay within.

    References
    ----------
    Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits": the box of 20 × 20 pixels, and its
    centre of mass in the middle of 28 × 28.
    """
    if examples is None:
        is_bytes = signature.dtype == "uint8"
        strongest = 255.0 if is_bytes and signature.scale == 1 / 255 else 1.0 / abs(signature.scale or 1.0)
        return {"background": 0.0, "ink": strongest, "extent": _MNIST}
    images = examples.inputs[:_SOME].cpu().double()
    images = images.mean(1) if images.dim() == 4 else images  # (examples, height, width)
    low, high = float(images.min()), float(images.max())
    border = torch.cat([images[:, [0, -1]].flatten(), images[:, :, [0, -1]].flatten()])
    is_dark = float(border.median()) <= (low + high) / 2
    background, ink = (low, high) if is_dark else (high, low)
    return {"background": background, "ink": ink, "extent": _extent((images - background) / ((ink - background) or 1))}


def _extent(strengths: Tensor) -> float:
    """Return the median share of a side that is inked, of the longer side of each image's box."""
    is_inked = strengths > _FAINT
    shares = []
    for across in (1, 2):
        line = is_inked.any(across).int()  # (examples, side)
        first, last = line.argmax(1), line.shape[1] - 1 - line.flip(1).argmax(1)
        shares.append((last - first + 1) / line.shape[1])
    return float(torch.stack(shares).amax(0).median())
