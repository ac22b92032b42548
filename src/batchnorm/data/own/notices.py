"""What the user should know of images that were read, counted."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from batchnorm.data.own.pictures import Picture


@dataclass
class Notices:
    """How many images were read, what was done to how many of them, and which files were none, and why."""

    read: int = 0
    resized: int = 0
    transparent: int = 0
    coloured: int = 0
    unreadable: list[str] = field(default_factory=list)

    def count(self, picture: Picture) -> None:
        """Count an image that was read."""
        self.read += 1
        self.resized += picture.was_resized
        self.transparent += picture.was_transparent
        self.coloured += picture.was_coloured

    def changes(self, size: tuple[int, int]) -> Iterator[str]:
        """Yield in words what was done to images that became (width, height)."""
        of = f"of {self.read:,} images"
        if self.resized:
            yield f"{self.resized:,} {of} had another size, and were resized to {size[0]} × {size[1]}"
        if self.transparent:
            yield f"{self.transparent:,} {of} are transparent in parts: white was laid under"
        if self.coloured:
            yield f"{self.coloured:,} {of} are in colour, and were made grey as those of the training"


def files_in_words(n: int) -> str:
    """Return a number of files in words."""
    return f"{n:,} file{'s' if n > 1 else ''}"
