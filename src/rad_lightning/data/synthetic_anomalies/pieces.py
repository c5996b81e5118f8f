"""What both kinds share: a piece is laid down where it can be seen.

Only raw draws of the generator, integers, single IEEE operations and square roots are used, so that
the same image and seed give the same bytes on every machine: sine, exponential, matrix products,
``rng.normal`` and image libraries may differ in the last bit between builds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rad_lightning.common.errors import UserError
from rad_lightning.data.images import ImageArray, MaskArray

SMALLEST = 16  # pixels a side
# A defect counts as visible if a quarter of its pixels change by more than 20 grey levels, and in
# cells of 1/16 of the image that hold a quarter of it, the mean change is more than 15 levels and
# most of the change: a rough texture pasted into itself changes every pixel and cannot be seen.
PIXEL_LEVELS, CELL_LEVELS, VISIBLE_PARTS, CELLS = 20, 15, 4, 16
TRIES = 8

Field = npt.NDArray[np.float64]


class Piece(NamedTuple):
    """New pixels ``(n, m, 3)`` in 0..255 at ``top, left``, and which of them to lay down."""

    top: int
    left: int
    pixels: Field
    inside: MaskArray


def check_image(image: ImageArray) -> None:
    good = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    if not good or min(image.shape[:2]) < SMALLEST:
        found = f"{image.dtype} {image.shape}"
        raise UserError(
            f"a synthetic defect needs uint8 (h, w, 3) of at least 16 x 16, not {found}"
        )


def first_visible(
    image: ImageArray, rng: np.random.Generator, draw: Callable[[], Piece]
) -> tuple[ImageArray, MaskArray]:
    """Draw pieces until one is visible; failing that, shift the brightness of the last place."""
    cell = max(2, min(image.shape[:2]) // CELLS)
    for _ in range(TRIES):
        top, left, pixels, inside = draw()
        place = (slice(top, top + inside.shape[0]), slice(left, left + inside.shape[1]))
        before = image[place]
        after = to_levels(pixels)
        if _is_visible(before, after, inside, cell):
            break
    else:
        # away from the nearer end of the scale: at most half of the pixels can be clipped
        light = int(before[inside].sum(dtype=np.int64)) >= 128 * 3 * int(inside.sum())
        shift = between(rng, 1.5, 4) * PIXEL_LEVELS
        after = to_levels(before.astype(np.float64) + (-shift if light else shift))
    made, mask = image.copy(), np.zeros(image.shape[:2], dtype=np.bool_)
    made[place][inside] = after[inside]
    mask[place] = inside
    return made, mask


def _is_visible(before: ImageArray, after: ImageArray, inside: MaskArray, cell: int) -> bool:
    change = (after.astype(np.int64) - before) * inside[..., None]
    pixels = np.abs(change).max(axis=2) > PIXEL_LEVELS
    starts = [np.arange(0, size, cell) for size in inside.shape]

    def per_cell(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        rows = np.add.reduceat(values, starts[0], axis=0)
        return np.add.reduceat(rows, starts[1], axis=1)

    counts = per_cell(inside.astype(np.int64))
    total, weight = np.abs(per_cell(change)), counts[..., None]
    common = 2 * total * total > weight * per_cell(change * change)
    cells = ((total > CELL_LEVELS * weight) & common).any(axis=2)
    enough = int(inside.sum()) / VISIBLE_PARTS
    return int(pixels.sum()) >= enough and int(counts[cells].sum()) >= enough


def to_levels(values: Field) -> ImageArray:
    levels: ImageArray = np.floor(np.clip(values, 0, 255) + 0.5).astype(np.uint8)
    return levels


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Uniform; ``rng.uniform`` may round differently where the compiler fuses operations."""
    return low + (high - low) * float(rng.random())


def start_of(rng: np.random.Generator, size: int, extent: int) -> int:
    return int(rng.integers(0, size - extent + 1))


def stretch(rng: np.random.Generator) -> float:
    """An aspect ratio: 0.3-1 or 1-3.3, each half of the time."""
    return between(rng, 0.3, 1) if rng.random() < 0.5 else between(rng, 1, 3.3)


def direction(rng: np.random.Generator) -> tuple[float, float]:
    """Cosine and sine of an angle within ±90°, by the tangent of its half: no trigonometry."""
    t = between(rng, -1, 1)
    return (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
