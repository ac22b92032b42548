"""Damaged images are read or refused in one line: `cd tests && python -m fuzz.images`."""

import io
import random
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from batchnorm.data.own import pictures
from batchnorm.errors import InputError
from fuzz.mutations import main, mutate, one_line
from image_folders import digits, mnist

_SIZE = (5, 4)
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


def check(count: int, seed: int) -> dict[str, int]:
    """Read `count` damaged files; return how many were read and refused."""
    rng, ended = random.Random(seed), {"read": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        for _ in range(count):
            content = mutate(rng.choice(_images()), rng)
            path.write_bytes(content)
            try:
                ended[_read(path)] += 1
            except BaseException:
                print(content)
                raise
    return ended


@cache
def _images() -> list[bytes]:
    """Return images of every format: made up in every mode, and some digits."""
    random_ = np.random.default_rng(0)
    shown = [Image.fromarray(random_.integers(0, 256, (9, 7, 3)).astype(np.uint8))]
    shown += [shown[0].convert(mode) for mode in ("L", "P", "RGBA", "1")]
    shown += [Image.fromarray(pixels) for data in (digits(), mnist()) for pixels in data[0][:3]]
    found = []
    for image in shown:
        for kind in _FORMATS:
            file = io.BytesIO()
            (image.convert("RGB") if kind == "JPEG" else image).save(file, kind)
            found.append(file.getvalue())
    return found


def _read(path: Path) -> str:
    try:
        header = pictures.read_header(path)
        picture = pictures.read_picture(path, header, _SIZE, grey=False)
    except (pictures.UnreadableImage, InputError) as error:  # the latter of one that claims to be a bomb
        return one_line(error)
    assert picture.pixels.shape == (3, *reversed(_SIZE))
    assert picture.pixels.dtype == np.uint8
    return "read"


if __name__ == "__main__":
    main(check, __doc__)
