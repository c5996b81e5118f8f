"""Anomaly maps over their images, and thumbnails of them: arrays and bytes, no files."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO

import numpy as np
from matplotlib import colormaps
from PIL import Image

THUMBNAIL = 160  # pixels on a side


def blend(image: np.ndarray, heat: np.ndarray, low: float, high: float) -> np.ndarray:
    """The map over the image, ``(H, W, 3)`` in 0..1: the hotter, the less of the image shows
    through. ``low`` and ``high`` are the ends of the colours."""
    level = np.clip((heat - low) / max(high - low, 1e-12), 0, 1)[..., None]
    colour = colormaps["inferno"](level[..., 0])[..., :3]
    return np.asarray((1 - 0.65 * level) * image / 255 + 0.65 * level * colour)


def side_by_side(image: np.ndarray, heat: np.ndarray, low: float, high: float) -> np.ndarray:
    """The image and, right of it, the map over it: uint8 ``(H, 2 W, 3)``. A map of another size
    is brought to the image's."""
    height, width = image.shape[:2]
    if heat.shape != (height, width):
        scaled = Image.fromarray(np.float32(heat)).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        heat = np.asarray(scaled)
    return np.concatenate((image, np.uint8(255 * blend(image, heat, low, high))), axis=1)


def thumbnail(pixels: np.ndarray, side: int = THUMBNAIL) -> bytes:
    """A JPEG of uint8 ``(H, W, 3)``, at most ``side`` high and twice that wide."""
    small = Image.fromarray(pixels)
    small.thumbnail((2 * side, side))
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def jpeg_uri(content: bytes) -> str:
    """A JPEG as a ``data:`` URI, for pages that load nothing."""
    return f"data:image/jpeg;base64,{b64encode(content).decode()}"
