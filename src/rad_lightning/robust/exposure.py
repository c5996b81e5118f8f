"""Bounded outlier exposure: losses that make something unlikely, up to a margin, and of what."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rad_lightning.robust.trusted import ranks

SHARPNESS = 4.0  # of the softened hinge, per nat


def hinge(nll: Tensor, margin: float) -> Tensor:
    """``softplus(4·(margin − nll))/4`` of each element, in nats per dimension.

    What is less likely than the margin no longer pulls at the flow.
    """
    return F.softplus(margin - nll, beta=SHARPNESS)


def anomaly_losses(losses: Tensor, margin: float, top_fraction: float) -> Tensor:
    """``hinge`` of the mean of an image's highest NLLs, ``(B, S) -> (B,)``.

    The rest of an anomalous image looks normal and is left alone.

    Args:
        top_fraction: share of an image's samples that are read; at least one sample.
    """
    count = max(1, round(top_fraction * losses.shape[1]))
    return hinge(losses.topk(count, dim=1).values.mean(1), margin)


def within_image(scores: list[Tensor]) -> Tensor:
    """The rank of each sample within its image, the mean over the sources, ``(N, V, L)``."""
    return torch.stack([ranks(s.flatten(1)).view(s.shape) for s in scores]).mean(0)


def oddest(ranked: Tensor, share: float) -> Tensor:
    """The ``share`` of an image's samples of the highest rank, at least one, ``(N, V, L)`` bool."""
    ranked = ranked.nan_to_num(-1.0)
    # Ranks of a few samples end well below 1.
    return ranked >= ranked.amax((1, 2), keepdim=True).clamp(max=1 - share)
