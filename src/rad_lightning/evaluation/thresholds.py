"""A decision threshold from the scores of the training images alone."""

from __future__ import annotations

import torch
from torch import Tensor

from rad_lightning.config import EvaluationConfig

NORMAL_MAD = 1.4826  # makes the median absolute deviation the standard deviation of a Gaussian


def threshold(train_scores: Tensor, cfg: EvaluationConfig) -> float:
    """The score above which an image is called anomalous.

    ``quantile`` takes that quantile of the training scores ``(N,)``, mislabelled images included;
    ``robust`` takes the median plus ``robust_z`` standard deviations estimated from the median
    absolute deviation, which stays put until half of the images are mislabelled.
    """
    if cfg.threshold == "quantile":
        return float(train_scores.double().quantile(cfg.quantile))
    centre, spread = robust_centre(train_scores)
    return centre + cfg.robust_z * spread


def robust_centre(scores: Tensor) -> tuple[float, float]:
    """Median and scaled median absolute deviation of ``(N,)`` scores."""
    wide = scores.double()
    centre = wide.quantile(0.5)
    spread = torch.clamp((wide - centre).abs().quantile(0.5) * NORMAL_MAD, min=1e-12)
    return float(centre), float(spread)
