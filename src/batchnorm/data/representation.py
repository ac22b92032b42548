"""How a data set shows itself in a notebook: its parts, and an example of each class where it has images."""

import base64
import importlib.util
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from batchnorm import markup

if TYPE_CHECKING:
    from batchnorm.data.dataset import Dataset

_MOST_EXAMPLES = 10
_MOST_PIXELS = 64  # of a side: what a page holds of an image of any size
_SHOWN_PIXELS = 48


def dataset_html(dataset: "Dataset") -> str:
    """Return a data set as a piece of HTML."""
    inputs = dataset.train.inputs
    kind = str(inputs.dtype).removeprefix("torch.")
    shape = " × ".join(map(str, dataset.feature_shape))
    split = "" if dataset.split_seed is None else f", split with seed {dataset.split_seed}"
    text = (
        f"{dataset.name}: {_learnt(dataset)}\n"
        f"from {dataset.source}{split}; inputs of {shape}, {kind}, scaled by {dataset.train.scale:.4g}"
    )
    parts = markup.table(("part", "examples"), [(name, f"{len(part):,}") for name, part in dataset.parts.items()])
    shows_images = _are_images(inputs) and importlib.util.find_spec("PIL") is not None
    return markup.html(*markup.lines(text), parts, *(_strip(dataset) if shows_images else ()))


def _learnt(dataset: "Dataset") -> str:
    one, several = {
        "classification": ("class", "classes"),
        "labels": ("label", "labels"),
        "regression": ("value", "values"),
    }[dataset.task]
    names = markup.enumerated(map(str, dataset.class_names))
    return f"{dataset.n_classes:,} {one if dataset.n_classes == 1 else several} ({names})"


def _are_images(inputs: Tensor) -> bool:
    """Tell whether inputs are (examples, height, width), or (examples, 3, height, width), of 8 bits."""
    is_grey, is_coloured = inputs.dim() == 3, inputs.dim() == 4 and inputs.shape[1] == 3
    return str(inputs.dtype) == "torch.uint8" and (is_grey or is_coloured)


def _strip(dataset: "Dataset") -> Iterator[markup.Element]:
    """Yield an image of each class, or the first ones where classes are not what is learnt."""
    labels = dataset.train.labels
    if dataset.task == "classification":
        for label, name in enumerate(dataset.class_names[:_MOST_EXAMPLES]):
            examples = (labels == label).nonzero()
            if len(examples):
                yield _figure(dataset, int(examples[0]), str(name))
    else:
        for example in range(min(len(labels), _MOST_EXAMPLES)):
            yield _figure(dataset, example, f"example {example}")


def _figure(dataset: "Dataset", example: int, name: str) -> markup.Element:
    inputs = dataset.train.inputs[example].cpu() * (dataset.train.scale * 255)
    picture = markup.element(
        "img",
        src=png_address(inputs),
        alt=name,
        style=f"height: {_SHOWN_PIXELS}px; image-rendering: pixelated; margin: auto",
    )
    caption = markup.element("figcaption", markup.cut(name, 12))
    return markup.element("figure", picture, caption, style="display: inline-block; margin: 2px; text-align: center")


def png_address(pixels: Tensor) -> str:
    """Return an image as a small PNG file in a ``data:`` address, for a page.

    Parameters
    ----------
    pixels : Tensor, shape (height, width) or (3, height, width)
        Values from 0 to 255. An image of more than 64 pixels on a side is made smaller.
    """
    from PIL import Image

    channels_last = pixels if pixels.dim() == 2 else pixels.movedim(0, -1)
    image = Image.fromarray(channels_last.clamp(0, 255).round().byte().contiguous().numpy())
    image.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
