"""From the NLL of positions to the score of an image and its anomaly map. Pure functions.

Positions without image (padding) are NaN throughout and count nowhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTHING = 4 / 256  # sigma of a map's Gaussian, as a share of the canvas' shorter side


def image_scores(position_nll: Tensor, top_fraction: float) -> Tensor:
    """Mean of the highest NLLs of each view, averaged over the views.

    Args:
        position_nll: ``(N, V, H, W)``.
        top_fraction: share of an image's positions that counts; at least one position does.

    Returns:
        ``(N,)``.
    """
    flat = position_nll.flatten(2)
    valid = (~flat.isnan()).sum(-1)
    ordered = torch.where(flat.isnan(), -torch.inf, flat).sort(-1, descending=True).values
    taken = (valid * top_fraction).round().clamp(min=1).long()
    counted = torch.arange(flat.shape[-1], device=flat.device) < taken[..., None]
    total = torch.where(counted, ordered, 0.0).sum(-1)
    return (total / taken).mean(1)


def anomaly_map(
    position_nll: Tensor, canvas: tuple[int, int], box: tuple[int, int, int, int], sigma: float
) -> Tensor:
    """One image's map on its own pixels.

    Args:
        position_nll: ``(V, H, W)``.
        canvas: height and width of the network's input.
        box: top, left, height, width of the image on the canvas.
        sigma: of the Gaussian smoothing, in pixels; 0 leaves it out.

    Returns:
        ``(height, width)`` of the box.
    """
    top, left, height, width = box
    full = canvas_maps(position_nll[None], canvas, sigma)[0]
    return full[top : top + height, left : left + width]


def canvas_maps(position_nll: Tensor, canvas: tuple[int, int], sigma: float) -> Tensor:
    """Anomaly maps on the network's input, padding included: ``(N, V, H, W) -> (N, *canvas)``.

    Padding takes the median of its image, so that smoothing draws nothing into the border.
    """
    grids = position_nll.nanmean(1)
    flat = grids.flatten(1)
    empty = flat.isnan()
    # The lower median as nanmedian takes it; that one cannot be exported.
    ordered = torch.where(empty, torch.inf, flat).sort(1).values
    middle = (((~empty).sum(1, keepdim=True) - 1) // 2).clamp(min=0)
    filled = torch.where(empty, ordered.gather(1, middle), flat).view(grids.shape)
    full = F.interpolate(filled[:, None], canvas, mode="bilinear", align_corners=False)
    return gaussian_blur(full, sigma)[:, 0]


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian over ``(B, 1, H, W)``, edges replicated."""
    if sigma <= 0:
        return x
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(x, (radius, radius, radius, radius), mode="replicate")
    across = F.conv2d(padded, kernel.view(1, 1, 1, -1))
    return F.conv2d(across, kernel.view(1, 1, -1, 1))


def position_encoding(height: int, width: int, dims: int) -> Tensor:
    """Sines and cosines of row and column: ``(H * W, dims)``, ``dims`` a multiple of 4."""
    if dims % 4:
        raise ValueError(f"dims = {dims}: a positional encoding needs a multiple of 4")
    frequencies = torch.pi * 2.0 ** torch.arange(dims // 4)
    rows = torch.linspace(0, 1, height)[:, None] * frequencies
    columns = torch.linspace(0, 1, width)[:, None] * frequencies
    by_row = torch.cat((rows.sin(), rows.cos()), 1)[:, None].expand(-1, width, -1)
    by_column = torch.cat((columns.sin(), columns.cos()), 1)[None].expand(height, -1, -1)
    return torch.cat((by_row, by_column), 2).flatten(0, 1)
