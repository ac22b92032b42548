"""A place to play: a canvas to draw on, and the network that answers in the reader's browser, in both of its functions.

`pack` makes a document of a trained network, of JSON values alone, and `piece` makes of that what a page holds: its
``html`` stands in the page's body, its ``style`` in the head, its ``script`` behind the html. They stand in a
self-contained page as they are; where a policy asks for it, `STYLE` and `SCRIPTS` come as files of their own.

    document = pack(run.network, run.known_signature(), task=run.task, examples=dataset.train)
    made = piece(document)

`pack` raises an `InputError` that says why there is nothing to play with: inputs that are no images, a network of
another class, weights that are not finite or too many.
"""

from batchnorm.playground.packing import pack
from batchnorm.playground.piece import SCRIPTS, STYLE, Piece, piece

__all__ = ["SCRIPTS", "STYLE", "Piece", "pack", "piece"]
