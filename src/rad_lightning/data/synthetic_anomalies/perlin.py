"""A texture blended in where Perlin noise is high (DRAEM)."""

from __future__ import annotations

from math import ceil, pi, sqrt

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


def perlin_blend(image: ImageArray, rng: np.random.Generator) -> tuple[ImageArray, MaskArray]:
    """Blend a texture into the image where Perlin noise is high.

    After Zavrtanik et al., "DRAEM", ICCV 2021, section 3.3. Unlike there, the noise falls off
    around one place and is thresholded at the level that marks 1-15 % of the image: one spot or a
    few close ones, never the whole picture. The texture is the image itself,
    shuffled or strongly recoloured, or a generated pattern; grey images get grey textures.

    Args:
        image: uint8 ``(h, w, 3)``, at least 16 x 16.

    Returns:
        The image, uint8 ``(h, w, 3)``, unchanged outside the mask, bool ``(h, w)``.
    """
    check_image(image)
    return first_visible(image, rng, lambda: _spot(image, rng))


def _spot(image: ImageArray, rng: np.random.Generator) -> Piece:
    """A ragged spot of noise around one place, filled with a texture."""
    height, width, _ = image.shape
    share = 0.01 + 0.14 * between(rng, 0, 1) * between(rng, 0, 1)  # small ones are more frequent
    # The noise falls off along an ellipse, some times as large as the spot, in the image's frame.
    area, aspect = between(rng, 2.5, 6) * share / pi, stretch(rng)
    (cos, sin), a, b = direction(rng), sqrt(area * aspect), sqrt(area / aspect)
    n = min(height, ceil(2 * height * sqrt(a * a * sin * sin + b * b * cos * cos)))
    m = min(width, ceil(2 * width * sqrt(a * a * cos * cos + b * b * sin * sin)))
    top, left = start_of(rng, height, n), start_of(rng, width, m)
    v, u = (np.arange(n)[:, None] - (n - 1) / 2) / height, (np.arange(m) - (m - 1) / 2) / width
    along, across = (u * cos + v * sin) / a, (v * cos - u * sin) / b
    field = _noise(rng, v, u, sqrt(share)) - between(rng, 0.3, 1.2) * (
        along * along + across * across
    )

    count = min(ceil(share * height * width), field.size // 2)
    level = np.partition(field, -count, axis=None)[-count]
    edge = between(rng, 0.02, 0.4) * (field.max() - level)
    opacity = between(rng, 0.4, 1) * np.clip((field - level) / edge, 0, 1)[..., None]
    below = image[top : top + n, left : left + m]
    texture = _texture(image, top, left, v, u, rng)
    return Piece(top, left, below + (texture - below) * opacity, field >= level)


def _noise(rng: np.random.Generator, v: Field, u: Field, size: float) -> Field:
    """Two octaves of Perlin noise over a column ``v`` and a row ``u``, features about ``size``."""
    cell_v, cell_u = size * between(rng, 0.3, 1.2), size * between(rng, 0.3, 1.2)
    coarse = _perlin(rng, v[:, 0] / cell_v, u / cell_u)
    return coarse + _perlin(rng, v[:, 0] / cell_v * 2.5, u / cell_u * 2.5) / 2


def _perlin(rng: np.random.Generator, y: Field, x: Field) -> Field:
    """Gradient noise (Perlin, SIGGRAPH 2002) on the grid of ``y`` and ``x``, in about ±0.7."""
    y, x = y - y[0] + rng.random(), x - x[0] + rng.random()
    row, column = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    down, right = y - row, x - column
    t = 2 * rng.random((row[-1] + 2, column[-1] + 2)) - 1
    side = np.where(rng.random(t.shape) < 0.5, -1, 1)
    grad_y, grad_x = 2 * t / (1 + t * t), side * (1 - t * t) / (1 + t * t)

    def corner(i: int, j: int) -> Field:
        at = np.ix_(row + i, column + j)
        value: Field = grad_y[at] * (down - i)[:, None] + grad_x[at] * (right - j)
        return value

    fade_y, fade_x = _fade(down)[:, None], _fade(right)
    upper, lower = corner(0, 0), corner(1, 0)
    upper += (corner(0, 1) - upper) * fade_x
    lower += (corner(1, 1) - lower) * fade_x
    return upper + (lower - upper) * fade_y


def _fade(t: Field) -> Field:
    return t * t * t * (t * (6 * t - 15) + 10)


def _texture(
    image: ImageArray,
    top: int,
    left: int,
    v: Field,
    u: Field,
    rng: np.random.Generator,
) -> Field:
    """What the spot at ``top, left`` is filled with, ``(n, m, 3)`` in 0..255."""
    n, m = len(v), len(u)
    channels = 1 if (image == image[..., :1]).all() else 3
    which = rng.random()
    if which < 0.35:
        return _recoloured(_shuffled(image, n, m, rng), channels, rng)
    if which < 0.65:
        return _recoloured(image[top : top + n, left : left + m], channels, rng)
    return _pattern(image, v, u, channels, rng)


def _shuffled(image: ImageArray, n: int, m: int, rng: np.random.Generator) -> ImageArray:
    """``(n, m, 3)`` of blocks from all over the image."""
    height, width, _ = image.shape
    blocks = int(rng.integers(2, 7))
    shift_y = rng.integers(0, height, (blocks, blocks))
    shift_x = rng.integers(0, width, (blocks, blocks))
    y, x = np.arange(n)[:, None], np.arange(m)
    block = (y * blocks // n, x * blocks // m)
    shuffled: ImageArray = image[(y + shift_y[block]) % height, (x + shift_x[block]) % width]
    return shuffled


def _recoloured(pixels: ImageArray, channels: int, rng: np.random.Generator) -> Field:
    """Inverted or not, with other contrast and another brightness per channel."""
    values = pixels.astype(np.float64)
    if rng.random() < 0.4:
        values = 255 - values
    return 128 + (values - 128) * between(rng, 0.5, 1.3) + _shift(rng, channels)


def _shift(rng: np.random.Generator, channels: int) -> Field:
    """Mostly lighter or darker, a little another hue; in grey levels."""
    return between(rng, -110, 110) + (2 * rng.random(channels) - 1) * 45


def _pattern(
    image: ImageArray, v: Field, u: Field, channels: int, rng: np.random.Generator
) -> Field:
    """Two colours, not far from one in the image, mixed by clouds, by stripes or by grain."""
    colour = image[rng.integers(0, image.shape[0]), rng.integers(0, image.shape[1]), :channels]
    first = colour + _shift(rng, channels)
    second = first + _shift(rng, channels)
    which = rng.integers(0, 3)
    if which == 0:
        mix = 0.5 + _perlin(rng, v[:, 0] * between(rng, 4, 40), u * between(rng, 4, 40))
    elif which == 1:
        cos, sin = direction(rng)
        phase = (u * cos + v * sin) * between(rng, 8, 50)
        mix = np.abs(2 * (phase - np.floor(phase)) - 1)
    else:
        mix = between(rng, 0.3, 1) * rng.random((len(v), len(u)))
    mixed: Field = first + np.clip(mix, 0, 1)[..., None] * (second - first)
    return np.broadcast_to(mixed, (*mixed.shape[:2], 3))
