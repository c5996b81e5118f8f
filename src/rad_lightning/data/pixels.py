"""How many pixels are decoded: of one image at most, and in all threads together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

from PIL import Image

MOST = 178_956_970  # of one image, where nobody sets another limit: PIL's own
AT_ONCE = 200_000_000  # in all threads of a process, 10 bytes each or so; a larger image goes alone
LARGE = 24_000_000  # from here on a JPEG is decoded at a half, a quarter or an eighth of its size


class Limit:
    """The most pixels of an image, for this process; ``None``: ``MOST``."""

    def __init__(self) -> None:
        self.pixels = MOST

    def set(self, pixels: int | None) -> None:
        self.pixels = MOST if pixels is None else pixels
        Image.MAX_IMAGE_PIXELS = None  # whose warnings and errors come at other numbers


limit = Limit()


class Room:
    """Counts the pixels that are being decoded."""

    def __init__(self, most: int) -> None:
        self.most, self.used, self.changed = most, 0, Condition()

    @contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        """Wait until so many may be decoded beside the others; alone, any number may."""
        with self.changed:
            self.changed.wait_for(lambda: not self.used or self.used + pixels <= self.most)
            self.used += pixels
        try:
            yield
        finally:
            with self.changed:
                self.used -= pixels
                self.changed.notify_all()


room = Room(AT_ONCE)


def reduction(width: int, height: int, least: tuple[int, int] | None) -> int:
    """By how much a JPEG of this size may be reduced while it is decoded, 1, 2, 4 or 8: both sides
    stay twice as long as ``least = (height, width)``, so that a later reduction averages still."""
    if least is None or width * height <= LARGE:
        return 1
    share = min(width, height) // (2 * max(least))
    return next(by for by in (8, 4, 2, 1) if by <= max(1, share))
