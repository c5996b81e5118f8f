"""CutPaste: a piece of the image elsewhere."""

from __future__ import annotations

from math import ceil, sqrt

import numpy as np

from rad_lightning.data.images import ImageArray, MaskArray
from rad_lightning.data.synthetic_anomalies.pieces import (
    Field,
    Piece,
    between,
    check_image,
    direction,
    first_visible,
    start_of,
    stretch,
)


def cutpaste(image: ImageArray, rng: np.random.Generator) -> tuple[ImageArray, MaskArray]:
    """Paste a piece of the image elsewhere: as a rectangle, or as a thin turned scar.

    After Li et al., "CutPaste", CVPR 2021, section 2. The rectangle has 2-15 % of the
    area and an aspect of 0.3-3.3 in the image's own frame: it fits an image of any shape, and is
    as in the paper once the image is resized to a square. Departures: scars are longer than
    the paper's 10-25 pixels of 256, which hardly fill one position of a feature map, and lighter or
    darker than what they are cut from, as on a rough surface they could not be seen; the colour
    jitter is up to 25 % instead of 10 %.

    Args:
        image: uint8 ``(h, w, 3)``, at least 16 x 16.

    Returns:
        The image, uint8 ``(h, w, 3)``, unchanged outside the mask, bool ``(h, w)``.
    """
    check_image(image)
    piece = _patch if rng.random() < 0.5 else _scar
    return first_visible(image, rng, lambda: piece(image, rng))


def _patch(image: ImageArray, rng: np.random.Generator) -> Piece:
    height, width, _ = image.shape
    share, aspect = between(rng, 0.02, 0.15), stretch(rng)
    n = max(2, round(sqrt(share * aspect) * height))
    m = max(2, round(sqrt(share / aspect) * width))
    y, x = start_of(rng, height, n), start_of(rng, width, m)
    top, left = start_of(rng, height, n), start_of(rng, width, m)
    pixels = _jittered(image[y : y + n, x : x + m], rng)
    return Piece(top, left, pixels, np.ones((n, m), dtype=np.bool_))


def _scar(image: ImageArray, rng: np.random.Generator) -> Piece:
    height, width, _ = image.shape
    side = min(height, width)
    length = max(4.0, between(rng, 0.12, 0.45) * side)
    thickness = max(2.0, between(rng, 0.012, 0.05) * side)
    cos, sin = direction(rng)
    n = ceil(length * abs(sin) + thickness * cos)
    m = ceil(length * cos + thickness * abs(sin))
    y, x = np.arange(n)[:, None] - (n - 1) / 2, np.arange(m) - (m - 1) / 2
    along, across = x * cos + y * sin + length / 2, y * cos - x * sin + thickness / 2
    inside = (along >= 0) & (along < length) & (across >= 0) & (across < thickness)
    # the piece is cut upright, and turned as it is pasted
    cut_y, cut_x = start_of(rng, height, ceil(thickness)), start_of(rng, width, ceil(length))
    rows = np.clip(np.floor(across).astype(np.intp), 0, ceil(thickness) - 1) + cut_y
    columns = np.clip(np.floor(along).astype(np.intp), 0, ceil(length) - 1) + cut_x
    light = between(rng, 15, 70) * (1 if rng.random() < 0.5 else -1)
    pixels = _jittered(image[rows, columns], rng) + light
    return Piece(start_of(rng, height, n), start_of(rng, width, m), pixels, inside)


def _jittered(pixels: ImageArray, rng: np.random.Generator) -> Field:
    """Brightness, contrast and saturation, each by up to 25 %."""
    light, contrast, colour = (between(rng, 0.75, 1.25) for _ in range(3))
    mean = int(pixels.sum(dtype=np.int64)) / pixels.size
    grey = pixels.sum(axis=2, keepdims=True, dtype=np.int64) / 3
    jittered: Field = light * (mean + contrast * (grey - mean + colour * (pixels - grey)))
    return jittered
