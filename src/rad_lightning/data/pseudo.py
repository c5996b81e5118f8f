"""Defects made on normal images: label noise where a dataset has too few real anomalies.

The same image and seed give the same bytes on every machine. Only raw draws of the generator,
integers, single IEEE operations and square roots are used: sine, exponential, matrix products,
``rng.normal`` and image libraries may differ in the last bit between builds.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from math import ceil, pi, sqrt
from pathlib import Path, PurePosixPath, PureWindowsPath
from threading import get_ident
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rad_lightning.common.errors import UserError
from rad_lightning.common.randomness import stream_seed
from rad_lightning.data.images import ImageArray, MaskArray, load_image

__all__ = ["KINDS", "cutpaste", "made_path", "make", "parse_made", "perlin_blend", "write_made"]

SMALLEST = 16  # pixels a side
# A defect counts as visible if a quarter of its pixels change by more than 20 grey levels, and in
# cells of 1/16 of the image that hold a quarter of it, the mean change is more than 15 levels and
# most of the change: a rough texture pasted into itself changes every pixel and cannot be seen.
PIXEL_LEVELS, CELL_LEVELS, VISIBLE_PARTS, CELLS = 20, 15, 4, 16
TRIES = 8

Field = npt.NDArray[np.float64]
Maker = Callable[[ImageArray, np.random.Generator], tuple[ImageArray, MaskArray]]


class _Piece(NamedTuple):
    """New pixels ``(n, m, 3)`` in 0..255 at ``top, left``, and which of them to lay down."""

    top: int
    left: int
    pixels: Field
    inside: MaskArray


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
    _check(image)
    piece = _patch if rng.random() < 0.5 else _scar
    return _first_visible(image, rng, lambda: piece(image, rng))


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
    _check(image)
    return _first_visible(image, rng, lambda: _spot(image, rng))


KINDS: dict[str, Maker] = {"cutpaste": cutpaste, "perlin": perlin_blend}


def make(image: ImageArray, kind: str, seed: int) -> tuple[ImageArray, MaskArray]:
    """The defect of this kind and seed on ``image``: as the makers in ``KINDS`` take and return.

    The place depends on the seed, hardly on the image: give each image its own seed.

    Raises:
        UserError: unknown kind, or not an image of at least 16 x 16.
    """
    if kind not in KINDS:
        raise UserError(
            f"synthetic defect {kind!r} does not exist: choose one of {', '.join(KINDS)}"
        )
    stream = np.random.PCG64(stream_seed(f"made {kind}", seed))
    return KINDS[kind](image, np.random.Generator(stream))


def made_path(kind: str, seed: int, source_path: str) -> str:
    """The path under which a made image is known: ``made/{kind}-{seed}/{source_path}.bmp``.

    Raises:
        UserError: unknown kind, a seed beyond 0 .. 2^63-1, or a source outside its folder.
    """
    path = f"made/{kind}-{seed}/{source_path}.bmp"
    if parse_made(path) != (kind, seed, source_path):
        raise UserError(
            f"no image can be made of {source_path!r} with {kind}-{seed}: use "
            f"{' or '.join(KINDS)}, a seed from 0 to 2^63-1, and a path within the dataset"
        )
    return path


def parse_made(path: str) -> tuple[str, int, str] | None:
    """Kind, seed and source path of a made image's path; ``None`` if it is any other path."""
    match = re.fullmatch(r"made/([a-z]+)-(0|[1-9][0-9]{0,18})/(.+)\.bmp", path, re.DOTALL)
    if match is None or match[1] not in KINDS or int(match[2]) >= 2**63:
        return None
    inside = not any(
        p.anchor or ".." in p.parts for p in (PurePosixPath(match[3]), PureWindowsPath(match[3]))
    )
    return (match[1], int(match[2]), match[3]) if inside else None


def write_made(folder: Path, path: str, source_file: Path) -> Path:
    """Make the image of ``path`` from its source and write it to ``folder / path``.

    A whole file that is there already is kept, without a look at the source. The file appears
    whole or not at all. It is an uncompressed BMP, the same on every machine that decodes the
    source to the same pixels.

    Raises:
        BadImage: the source cannot be read.
        UserError: ``path`` is no path of a made image, or the source is too small.
    """
    parsed = parse_made(path)
    if parsed is None:
        raise UserError(f"{path!r} is not the path of a made image (made/KIND-SEED/SOURCE.bmp)")
    file = folder / path
    if _is_whole(file):
        return file
    kind, seed, _ = parsed
    source = load_image(source_file)
    if min(source.shape[:2]) < SMALLEST:
        raise UserError(
            f"{source_file}: too small for a synthetic defect: use at least 16 x 16 pixels"
        )
    image, _ = make(source, kind, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{os.getpid()}.{get_ident()}")
    try:
        aside.write_bytes(_bmp(image))
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
    return file


def _check(image: ImageArray) -> None:
    good = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    if not good or min(image.shape[:2]) < SMALLEST:
        found = f"{image.dtype} {image.shape}"
        raise UserError(
            f"a synthetic defect needs uint8 (h, w, 3) of at least 16 x 16, not {found}"
        )


def _first_visible(
    image: ImageArray, rng: np.random.Generator, draw: Callable[[], _Piece]
) -> tuple[ImageArray, MaskArray]:
    """Draw pieces until one is visible; failing that, shift the brightness of the last place."""
    cell = max(2, min(image.shape[:2]) // CELLS)
    for _ in range(TRIES):
        top, left, pixels, inside = draw()
        place = (slice(top, top + inside.shape[0]), slice(left, left + inside.shape[1]))
        before = image[place]
        after = _to_levels(pixels)
        if _is_visible(before, after, inside, cell):
            break
    else:
        # away from the nearer end of the scale: at most half of the pixels can be clipped
        light = int(before[inside].sum(dtype=np.int64)) >= 128 * 3 * int(inside.sum())
        shift = _between(rng, 1.5, 4) * PIXEL_LEVELS
        after = _to_levels(before.astype(np.float64) + (-shift if light else shift))
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


def _to_levels(values: Field) -> ImageArray:
    levels: ImageArray = np.floor(np.clip(values, 0, 255) + 0.5).astype(np.uint8)
    return levels


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Uniform; ``rng.uniform`` may round differently where the compiler fuses operations."""
    return low + (high - low) * float(rng.random())


def _start(rng: np.random.Generator, size: int, extent: int) -> int:
    return int(rng.integers(0, size - extent + 1))


def _stretch(rng: np.random.Generator) -> float:
    """An aspect ratio: 0.3-1 or 1-3.3, each half of the time."""
    return _between(rng, 0.3, 1) if rng.random() < 0.5 else _between(rng, 1, 3.3)


def _direction(rng: np.random.Generator) -> tuple[float, float]:
    """Cosine and sine of an angle within ±90°, by the tangent of its half: no trigonometry."""
    t = _between(rng, -1, 1)
    return (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)


# ---- CutPaste


def _patch(image: ImageArray, rng: np.random.Generator) -> _Piece:
    height, width, _ = image.shape
    share, aspect = _between(rng, 0.02, 0.15), _stretch(rng)
    n = max(2, round(sqrt(share * aspect) * height))
    m = max(2, round(sqrt(share / aspect) * width))
    y, x = _start(rng, height, n), _start(rng, width, m)
    top, left = _start(rng, height, n), _start(rng, width, m)
    pixels = _jittered(image[y : y + n, x : x + m], rng)
    return _Piece(top, left, pixels, np.ones((n, m), dtype=np.bool_))


def _scar(image: ImageArray, rng: np.random.Generator) -> _Piece:
    height, width, _ = image.shape
    side = min(height, width)
    length = max(4.0, _between(rng, 0.12, 0.45) * side)
    thickness = max(2.0, _between(rng, 0.012, 0.05) * side)
    cos, sin = _direction(rng)
    n = ceil(length * abs(sin) + thickness * cos)
    m = ceil(length * cos + thickness * abs(sin))
    y, x = np.arange(n)[:, None] - (n - 1) / 2, np.arange(m) - (m - 1) / 2
    along, across = x * cos + y * sin + length / 2, y * cos - x * sin + thickness / 2
    inside = (along >= 0) & (along < length) & (across >= 0) & (across < thickness)
    # the piece is cut upright, and turned as it is pasted
    cut_y, cut_x = _start(rng, height, ceil(thickness)), _start(rng, width, ceil(length))
    rows = np.clip(np.floor(across).astype(np.intp), 0, ceil(thickness) - 1) + cut_y
    columns = np.clip(np.floor(along).astype(np.intp), 0, ceil(length) - 1) + cut_x
    light = _between(rng, 15, 70) * (1 if rng.random() < 0.5 else -1)
    pixels = _jittered(image[rows, columns], rng) + light
    return _Piece(_start(rng, height, n), _start(rng, width, m), pixels, inside)


def _jittered(pixels: ImageArray, rng: np.random.Generator) -> Field:
    """Brightness, contrast and saturation, each by up to 25 %."""
    light, contrast, colour = (_between(rng, 0.75, 1.25) for _ in range(3))
    mean = int(pixels.sum(dtype=np.int64)) / pixels.size
    grey = pixels.sum(axis=2, keepdims=True, dtype=np.int64) / 3
    jittered: Field = light * (mean + contrast * (grey - mean + colour * (pixels - grey)))
    return jittered


# ---- Perlin noise


def _spot(image: ImageArray, rng: np.random.Generator) -> _Piece:
    """A ragged spot of noise around one place, filled with a texture."""
    height, width, _ = image.shape
    share = 0.01 + 0.14 * _between(rng, 0, 1) * _between(rng, 0, 1)  # small ones are more frequent
    # The noise falls off along an ellipse, some times as large as the spot, in the image's frame.
    area, aspect = _between(rng, 2.5, 6) * share / pi, _stretch(rng)
    (cos, sin), a, b = _direction(rng), sqrt(area * aspect), sqrt(area / aspect)
    n = min(height, ceil(2 * height * sqrt(a * a * sin * sin + b * b * cos * cos)))
    m = min(width, ceil(2 * width * sqrt(a * a * cos * cos + b * b * sin * sin)))
    top, left = _start(rng, height, n), _start(rng, width, m)
    v, u = (np.arange(n)[:, None] - (n - 1) / 2) / height, (np.arange(m) - (m - 1) / 2) / width
    along, across = (u * cos + v * sin) / a, (v * cos - u * sin) / b
    field = _noise(rng, v, u, sqrt(share)) - _between(rng, 0.3, 1.2) * (
        along * along + across * across
    )

    count = min(ceil(share * height * width), field.size // 2)
    level = np.partition(field, -count, axis=None)[-count]
    edge = _between(rng, 0.02, 0.4) * (field.max() - level)
    opacity = _between(rng, 0.4, 1) * np.clip((field - level) / edge, 0, 1)[..., None]
    below = image[top : top + n, left : left + m]
    texture = _texture(image, top, left, v, u, rng)
    return _Piece(top, left, below + (texture - below) * opacity, field >= level)


def _noise(rng: np.random.Generator, v: Field, u: Field, size: float) -> Field:
    """Two octaves of Perlin noise over a column ``v`` and a row ``u``, features about ``size``."""
    cell_v, cell_u = size * _between(rng, 0.3, 1.2), size * _between(rng, 0.3, 1.2)
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


# ---- Textures


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
    return 128 + (values - 128) * _between(rng, 0.5, 1.3) + _shift(rng, channels)


def _shift(rng: np.random.Generator, channels: int) -> Field:
    """Mostly lighter or darker, a little another hue; in grey levels."""
    return _between(rng, -110, 110) + (2 * rng.random(channels) - 1) * 45


def _pattern(
    image: ImageArray, v: Field, u: Field, channels: int, rng: np.random.Generator
) -> Field:
    """Two colours, not far from one in the image, mixed by clouds, by stripes or by grain."""
    colour = image[rng.integers(0, image.shape[0]), rng.integers(0, image.shape[1]), :channels]
    first = colour + _shift(rng, channels)
    second = first + _shift(rng, channels)
    which = rng.integers(0, 3)
    if which == 0:
        mix = 0.5 + _perlin(rng, v[:, 0] * _between(rng, 4, 40), u * _between(rng, 4, 40))
    elif which == 1:
        cos, sin = _direction(rng)
        phase = (u * cos + v * sin) * _between(rng, 8, 50)
        mix = np.abs(2 * (phase - np.floor(phase)) - 1)
    else:
        mix = _between(rng, 0.3, 1) * rng.random((len(v), len(u)))
    mixed: Field = first + np.clip(mix, 0, 1)[..., None] * (second - first)
    return np.broadcast_to(mixed, (*mixed.shape[:2], 3))


# ---- Files


def _header(height: int, width: int) -> bytes:
    """BITMAPFILEHEADER and BITMAPINFOHEADER of an uncompressed image, 24 bits a pixel."""
    size = height * _row_bytes(width)
    file = struct.pack("<2sIHHI", b"BM", 54 + size, 0, 0, 54)
    return file + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, size, 0, 0, 0, 0)


def _row_bytes(width: int) -> int:
    return (3 * width + 3) // 4 * 4


def _bmp(image: ImageArray) -> bytes:
    height, width, _ = image.shape
    rows = np.zeros((height, _row_bytes(width)), dtype=np.uint8)
    rows[:, : 3 * width] = image[::-1, :, ::-1].reshape(height, -1)  # from below, as BGR
    return _header(height, width) + rows.tobytes()


def _is_whole(file: Path) -> bool:
    """Whether a file of ``_bmp`` is there; a broken disk or copy may have cut it."""
    try:
        with file.open("rb") as stream:
            start = stream.read(54)
        width, height = struct.unpack_from("<ii", start, 18)
        size = 54 + height * _row_bytes(width)
        return start == _header(height, width) and file.stat().st_size == size
    except (OSError, struct.error):
        return False
