"""From decoded images to the features that a head sees: ``(B, V, C, H, W)``.

Both heads share this shape. ``patch`` keeps the grid of the fused feature map; ``pooled`` averages
it to a grid of one position. Positions that show no image (padding) are NaN in every channel.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rad_lightning.data.images import decoding, image_size, load_image, resize_image
from rad_lightning.features.backbone import FrozenBackbone

PREVIEW = 512  # pixels on the longer side
CELL = 8  # pixels: a finer grid costs four times as much and shows texture, not parts
Box = tuple[int, int, int, int]  # top, left, height, width of the image on its canvas, in pixels


@dataclass(frozen=True)
class FeatureSpec:
    """Everything besides the backbone and the file that decides a feature's value."""

    form: str  # "patch" or "pooled"
    size: tuple[int, int]  # canvas height, width
    fit: str  # "stretch" or "pad"
    views: tuple[str, ...]
    local_pool: int = 3
    scales: tuple[float, ...] = (1.0,)
    precision: str = "float32"
    white: int = 65535  # of 16-bit files, see data.depth


# Each view with the turn that undoes it on a feature map.
VIEWS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "identity": (lambda x: x, lambda x: x),
    "hflip": (lambda x: x.flip(-1), lambda x: x.flip(-1)),
    "vflip": (lambda x: x.flip(-2), lambda x: x.flip(-2)),
    "rot180": (lambda x: x.flip(-1, -2), lambda x: x.flip(-1, -2)),
    "rot90": (lambda x: x.rot90(1, (-2, -1)), lambda x: x.rot90(-1, (-2, -1))),
    "rot270": (lambda x: x.rot90(-1, (-2, -1)), lambda x: x.rot90(1, (-2, -1))),
}


def content_box(image_hw: tuple[int, int], size: tuple[int, int], fit: str) -> Box:
    """Where an image of ``image_hw`` lies on a canvas of ``size``."""
    if fit == "stretch":
        return 0, 0, *size
    scale = min(size[0] / image_hw[0], size[1] / image_hw[1])
    height, width = (
        max(1, min(side, round(length * scale)))
        for side, length in zip(size, image_hw, strict=True)
    )
    return (size[0] - height) // 2, (size[1] - width) // 2, height, width


def load_placed(
    path: Path,
    size: tuple[int, int],
    fit: str,
    white: int,
    content: bytes | None = None,
    preview: int = PREVIEW,
) -> tuple[np.ndarray, Box, np.ndarray]:
    """The image in a file on its canvas ``(H, W, 3)``, its content box, and the image in its own
    proportions with at most ``preview`` pixels on its longer side.

    Raises:
        BadImage: it cannot be read.
    """
    least = (max(size[0], PREVIEW), max(size[1], PREVIEW))
    with decoding(path, content, least):
        image = load_image(path, content, white, least)
        canvas, box = place(image, size, fit, image_size(path, content))
        return canvas, box, shrunk(image, preview)


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """``(H, W, 3)`` in its own proportions, at most ``side`` on its longer side."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    return resize_image(image, (max(1, round(height * scale)), max(1, round(width * scale))))


def place(
    image: np.ndarray, size: tuple[int, int], fit: str, image_hw: tuple[int, int] | None = None
) -> tuple[np.ndarray, Box]:
    """``(h, w, 3)`` -> ``(H, W, 3)`` and its content box; ``image_hw`` is the size of the file,
    where the image comes reduced.

    Padding mirrors the image, so that a border position sees plausible surface, not a black edge.
    """
    box = content_box(image_hw or (image.shape[0], image.shape[1]), size, fit)
    top, left, height, width = box
    inner = resize_image(image, (height, width))
    around = (
        (top, size[0] - height - top),
        (left, size[1] - width - left),
        (0, 0),
    )
    return np.pad(inner, around, mode="symmetric"), box


def valid_positions(boxes: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Grid positions whose centre lies on the image of each box, ``(B, 4) -> (B, H, W)`` bool."""
    axes = []
    for axis, (cells, side) in enumerate(zip(grid, size, strict=True)):
        start, length = boxes[:, axis, None], boxes[:, axis + 2, None]
        centre = (torch.arange(cells, device=boxes.device) + 0.5) * (side / cells)
        inside = (centre >= start) & (centre < start + length)
        # Of a strip thinner than a cell: the cells that it touches most.
        touched = (centre - start - length / 2).abs() <= side / cells / 2
        axes.append(inside | touched & ~inside.any(1, keepdim=True))
    return axes[0][:, :, None] & axes[1][:, None, :]


def extract(
    backbone: FrozenBackbone, images: Tensor, boxes: list[Box], spec: FeatureSpec
) -> Tensor:
    """Features of a batch as the cache keeps them: ``(B, V, C, H', W')`` float16 on the CPU.

    Args:
        images: ``(B, 3, H, W)`` in 0..255, on the backbone's device.
        boxes: the content box of each image.
    """
    on_canvas = torch.tensor(boxes, device=images.device).view(-1, 4)
    return batch_features(backbone, images, on_canvas, spec).half().cpu()


def batch_features(
    backbone: FrozenBackbone, images: Tensor, boxes: Tensor, spec: FeatureSpec
) -> Tensor:
    """Features of a batch, every view turned back to the image's frame: ``(B, V, C, H', W')``.

    Its shapes depend on those of its inputs alone, so that it can be traced for an export.

    Args:
        images: ``(B, 3, H, W)`` in 0..255, on the backbone's device.
        boxes: the content box of each image, ``(B, 4)`` on the same device.
    """
    per_view = []
    narrow = spec.precision == "bfloat16"
    for view in spec.views:
        turn, back = VIEWS[view]
        # No autocast that is off: a saved program with one in it cannot be loaded.
        with torch.autocast(images.device.type, torch.bfloat16) if narrow else nullcontext():
            if spec.form == "patch":
                maps = backbone(turn(images))
                per_view.append(fuse([back(m) for m in maps], spec.local_pool, spec.size))
            else:
                scaled = (_rescale(images, s) for s in spec.scales)
                pyramid = [m for x in scaled for m in backbone(turn(x))]
                per_view.append(_pool([back(m) for m in pyramid], boxes, spec.size))
    features = torch.stack(per_view, 1)
    if spec.form == "patch" and spec.fit == "pad":
        grid = (features.shape[-2], features.shape[-1])
        valid = valid_positions(boxes, spec.size, grid)[:, None, None]
        features = features.masked_fill(~valid, torch.nan)
    return features


def fuse(maps: list[Tensor], local_pool: int, size: tuple[int, int]) -> Tensor:
    """Locally averaged maps of an input of ``size``, concatenated on the grid of the finest one
    whose cells are at least ``CELL`` pixels high, of the coarsest one where none is.

    ``local_pool`` x ``local_pool`` averaging gives each position a neighbourhood, as PatchCore
    does (Roth et al., CVPR 2022, section 3.1).
    """
    by_height = sorted((m.shape[-2:] for m in maps), reverse=True)
    grid = next((g for g in by_height if g[0] * CELL <= size[0]), by_height[-1])
    smooth = [
        F.avg_pool2d(m, local_pool, 1, local_pool // 2, count_include_pad=False) for m in maps
    ]
    return torch.cat([_to_grid(m, grid) for m in smooth], 1)


def _to_grid(x: Tensor, grid: torch.Size) -> Tensor:
    if x.shape[-2] >= grid[0]:
        return F.adaptive_avg_pool2d(x, (grid[0], grid[1]))
    return F.interpolate(x, (grid[0], grid[1]), mode="bilinear", align_corners=False)


def _rescale(images: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return images
    return F.interpolate(images, scale_factor=scale, mode="bilinear", antialias=True)


def _pool(maps: list[Tensor], boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Global average of each map over the image's own positions: ``(B, sum C, 1, 1)``."""
    pooled = []
    for m in maps:
        grid = (m.shape[-2], m.shape[-1])
        weight = valid_positions(boxes, size, grid)[:, None].float()
        pooled.append((m * weight).sum((-2, -1)) / weight.sum((-2, -1)).clamp(min=1))
    return torch.cat(pooled, 1)[..., None, None]
