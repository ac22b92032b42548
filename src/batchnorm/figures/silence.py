"""What matplotlib tells whoever uses it, and whoever only reads a page need not know."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent() -> Iterator[None]:
    """Keep matplotlib quiet in the block.

    It logs that it builds a cache of fonts, that the home folder cannot be written to, and what it does not understand
    in a user's matplotlibrc; and it warns of characters that its own fonts lack, which a browser has.
    """
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
            yield
    finally:
        logger.setLevel(before)
