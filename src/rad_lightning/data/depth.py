"""How bright white is: cameras of 10, 12 or 14 bits write files of 16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rad_lightning.data.images import FULL, brightest
from rad_lightning.data.layouts.common import threaded

CLASSES = (255, 1023, 4095, 16383, FULL)  # of 8, 10, 12, 14 and 16 bits


def white_of(files: Sequence[Path]) -> int:
    """The white of a data set from its training images: the lowest of ``CLASSES`` that none of them
    exceeds. Of 8-bit files, and of such as cannot be read, there is nothing to find out: ``FULL``.
    """
    found = [value for value in threaded(brightest, list(files)) if value is not None]
    return next((c for c in CLASSES if c >= max(found)), FULL) if found else FULL


def white_note(white: int) -> tuple[str, ...]:
    """What a user should know of a white that is not that of the files' own depth."""
    if white == FULL:
        return ()
    return (
        f"16-bit files whose training images hold no value above {white}: read as "
        f"{white.bit_length()}-bit, 0 to {white} (data.white={white})",
    )
