"""Bounded outlier exposure: losses that make something unlikely, up to a margin."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

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
