"""A decision threshold from the scores of the training images alone."""

from __future__ import annotations

import torch
from torch import Tensor

from rad_lightning.config import EvaluationConfig

NORMAL_MAD = 1.4826  # makes the median absolute deviation the standard deviation of a Gaussian


def threshold(train_scores: Tensor, held_out: Tensor, cfg: EvaluationConfig) -> float:
    """The score above which an image is called anomalous.

    ``robust`` takes the median of the held-out training images plus ``robust_z`` standard
    deviations. The flow was fitted to the other images, so their scores are too low to place a
    threshold; but there are more of them, so the spread is the larger one of both kinds. It comes
    from the median absolute deviation: mislabelled images move it by a bounded amount, however far
    out they lie. ``quantile`` takes that quantile of the held-out scores.

    Args:
        train_scores: ``(N,)``.
        held_out: ``(N,)`` bool; where none is, all images stand in for them.
    """
    if cfg.threshold == "quantile":
        unseen = train_scores[held_out] if held_out.any() else train_scores
        return float(unseen.double().quantile(cfg.quantile))
    centre, spread = reference(train_scores, held_out)
    return centre + cfg.robust_z * spread


def reference(train_scores: Tensor, held_out: Tensor) -> tuple[float, float]:
    """Centre and standard deviation of what a normal image scores, robustly; arguments as of
    ``threshold``. A score's distance from the one in units of the other is its robust z."""
    unseen = train_scores[held_out] if held_out.any() else train_scores
    centre, spread = robust_centre(unseen)
    return centre, max(spread, robust_centre(train_scores)[1])


def robust_centre(scores: Tensor) -> tuple[float, float]:
    """Median and scaled median absolute deviation of ``(N,)`` scores."""
    wide = scores.double()
    centre = wide.quantile(0.5)
    spread = torch.clamp((wide - centre).abs().quantile(0.5) * NORMAL_MAD, min=1e-12)
    return float(centre), float(spread)
