"""Anomaly maps over their images, and thumbnails of them: arrays and bytes, no files."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO

import numpy as np
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from rad_lightning.data.images import ImageArray

THUMBNAIL = 160  # pixels on a side
OPACITY = 0.65  # of the hottest spot
LEVELS = 64  # colours of a map that is a picture of its own


def colour_range(usual: Tensor, tail: float = 0.999, clear: float = 3.0) -> tuple[float, float]:
    """One range for all maps: from the median position of usual images to a clear finding, which
    lies ``clear`` times as far above it as their quantile ``tail``; ``(0, 1)`` without any.

    Taken from usual images, because a score far from them has no natural scale.
    """
    values = usual[usual.isfinite()].sort().values
    if not len(values):
        return 0.0, 1.0
    low, last = float(values[len(values) // 2]), float(values[int(tail * (len(values) - 1))])
    return low, low + clear * max(last - low, 1e-6)


def blend(image: np.ndarray, heat: np.ndarray, low: float, high: float) -> np.ndarray:
    """The map over the image, ``(H, W, 3)`` in 0..1: the hotter, the less of the image shows
    through. ``low`` and ``high`` are the ends of the colours."""
    level = np.clip((heat - low) / max(high - low, 1e-12), 0, 1)[..., None]
    colour = colormaps["inferno"](level[..., 0])[..., :3]
    return np.asarray((1 - OPACITY * level) * image / 255 + OPACITY * level * colour)


def laid_over(image: ImageArray, heat: np.ndarray, low: float, high: float) -> ImageArray:
    """``blend`` in uint8, of a map of any size, which is brought to the image's."""
    height, width = image.shape[:2]
    if heat.shape != (height, width):
        scaled = Image.fromarray(np.float32(heat)).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        heat = np.asarray(scaled)
    return np.asarray(255 * blend(image, heat, low, high), dtype=np.uint8)


def heat_png(heat: np.ndarray, low: float, high: float) -> bytes:
    """The map ``(H, W)`` alone, as a PNG that gives ``blend`` when it is laid over an image;
    clear where nothing is known."""
    level = np.clip((heat - low) / max(high - low, 1e-12), 0, 1)
    index = np.rint((LEVELS - 1) * np.nan_to_num(level)).astype(np.uint8)
    steps = np.linspace(0, 1, LEVELS)
    picture = Image.fromarray(index).convert("P")
    picture.putpalette(np.rint(255 * colormaps["inferno"](steps)[:, :3]).astype(np.uint8).tobytes())
    buffer = BytesIO()
    alpha = np.rint(255 * OPACITY * steps).astype(np.uint8).tobytes()
    picture.save(buffer, "PNG", transparency=alpha, optimize=True)
    return buffer.getvalue()


def side_by_side(image: ImageArray, heat: np.ndarray, low: float, high: float) -> ImageArray:
    """The image and, right of it, the map over it: ``(H, 2 W, 3)``."""
    return np.concatenate((image, laid_over(image, heat, low, high)), axis=1)


def fitted(pixels: ImageArray, width: int, height: int) -> ImageArray:
    """In its own proportions at most so large, never enlarged."""
    small = Image.fromarray(pixels)
    small.thumbnail((width, height))
    return np.asarray(small)


def thumbnail(pixels: ImageArray) -> bytes:
    """A JPEG of an image, or of two side by side, of ``THUMBNAIL`` pixels each."""
    return jpeg(fitted(pixels, 2 * THUMBNAIL, THUMBNAIL))


def jpeg(pixels: ImageArray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def jpeg_uri(content: bytes) -> str:
    """A JPEG as a ``data:`` URI, for pages that load nothing."""
    return f"data:image/jpeg;base64,{b64encode(content).decode()}"


def png_uri(content: bytes) -> str:
    return f"data:image/png;base64,{b64encode(content).decode()}"
