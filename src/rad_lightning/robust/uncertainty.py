"""Five readings of the uncertainty U ∈ [0, 1], all free of scale: NLLs have no natural unit.

Functions of losses alone, ``(T, Q)``: T tasks of Q samples each. Higher means that the training set
should be trusted less.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-12
# Of a normal distribution: (5 % to 25 %) over (25 % to 95 %), as quantiles.
NORMAL_RATIO = (1.6449 - 0.6745) / (1.6449 + 0.6745)


def tail_weight(losses: Tensor) -> Tensor:
    """How much wider the upper side of the losses is than a normal distribution's, ``(..., Q) ->
    (...)``.

    Both sides are measured from the lower quartile, which is one of normal samples as long as these
    are the majority: ``1 − r / r_normal`` with ``r = (q25 − q05) / (q95 − q25)``. It tells whether
    there is a tail, hardly how heavy: with anomalies far away it is full at a tenth of them. Few
    samples look heavy-tailed by chance (0.16 on average at Q = 32, 0.04 at 512).
    """
    levels = torch.tensor([0.05, 0.25, 0.95], dtype=losses.dtype, device=losses.device)
    low, quarter, high = losses.quantile(levels, dim=-1)
    upper = high - quarter
    # Losses that are all alike have no tail.
    ratio = torch.where(upper > 0, (quarter - low) / upper.clamp(min=TINY), NORMAL_RATIO)
    weight: Tensor = (1 - ratio / NORMAL_RATIO).clamp(0, 1)
    return weight


def generalisation_gap(seen: Tensor, unseen: Tensor) -> Tensor:
    """What unseen samples cost more than those of the training, ``(..., S), (..., Q) -> (...)``:
    ``g / (g + s)`` with s the standard deviation of the seen ones, 0 where the unseen cost less."""
    gap = (unseen.mean(-1) - seen.mean(-1)).clamp(min=0)
    return gap / (gap + seen.std(-1, correction=0)).clamp(min=TINY)


def view_variance(losses: Tensor, images: Tensor, views: Tensor) -> Tensor:
    """Share of the variance that lies between the views of an image, ``3 × (T, Q) -> (T,)``.

    Args:
        images: which of the task's images a sample is from, from 0.
        views: which view of it, from 0.
    """
    count, per_image = int(images.max()) + 1, int(views.max()) + 1
    cells = torch.zeros(len(losses), count * per_image, dtype=losses.dtype, device=losses.device)
    cell = images * per_image + views
    total = cells.scatter_add(1, cell, losses)
    known = cells.scatter_add(1, cell, torch.ones_like(losses))
    mean = torch.where(known > 0, total / known.clamp(min=1), torch.nan)
    mean = mean.view(len(losses), count, per_image)
    spread = (mean - mean.nanmean(2, keepdim=True)).square()
    within = spread.flatten(1).nanmean(1)
    overall = (mean - mean.flatten(1).nanmean(1)[:, None, None]).square().flatten(1).nanmean(1)
    return within / overall.clamp(min=TINY)


def ensemble_variance(losses: Tensor) -> Tensor:
    """How much models disagree on the same samples, ``(M, Q) -> ()``: the variance between the M
    models as a share of it and the variance between samples."""
    between_models = losses.var(0).mean()
    between_samples = losses.mean(0).var(correction=0)
    return between_models / (between_models + between_samples).clamp(min=TINY)


def loss_covariance(support: Tensor, query: Tensor) -> Tensor:
    """How little the losses of support and query go together over tasks, ``2 × (T,) -> ()``:
    ``(1 − correlation) / 2`` (after CoMet; Aqeel et al., ICCV 2025)."""
    a, b = support - support.mean(), query - query.mean()
    scale = (a.square().sum() * b.square().sum()).sqrt().clamp(min=TINY)
    return (1 - (a * b).sum() / scale) / 2
