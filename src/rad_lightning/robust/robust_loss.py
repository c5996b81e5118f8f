"""Losses that treat the suspicious images of a batch differently from the others.

Functions of the NLLs of a batch, ``(B, S)``: S samples of each of B images, nats per dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rad_lightning.robust.exposure import anomaly_losses

# What a suspicious image weighs: as a normal one, as an anomaly. Others weigh (1, 0).
SUSPECT = {"trim": (0.0, 0.0), "loe_hard": (0.0, 1.0), "loe_soft": (0.5, 0.5)}


def image_losses(losses: Tensor) -> Tensor:
    """Mean NLL of an image's samples, ``(B, S) -> (B,)``."""
    return losses.mean(1)


@torch.no_grad()
def assign(scores: Tensor, form: str, rate: float) -> tuple[Tensor, Tensor]:
    """Weights of the images as normal ones and as anomalies, ``(B,), (B,)``.

    The ``round(rate·B)`` images of the highest ``scores`` ``(B,)`` are suspicious.

    Args:
        form: a key of ``SUSPECT``.
    """
    suspect = torch.zeros_like(scores, dtype=torch.bool)
    suspect[scores.topk(round(rate * len(scores))).indices] = True
    normal, anomalous = SUSPECT[form]
    return torch.where(suspect, normal, 1.0).to(scores), torch.where(suspect, anomalous, 0.0).to(
        scores
    )


def image_weights(
    losses: Tensor, form: str, rate: float, margin: float, top_fraction: float
) -> tuple[Tensor, Tensor]:
    """``assign`` by the scores of the form's source, ``(B, S) -> (B,), (B,)``.

    ``trim``: the NLL (RobustRealNVP, Liu et al., AAAI 2022, of images instead of samples).
    ``loe_hard``, ``loe_soft``: what an image costs more as a normal one than as an anomaly
    (latent outlier exposure, Qiu et al., ICML 2022).
    """
    scores = image_losses(losses)
    if form != "trim":
        scores = scores - anomaly_losses(losses, margin, top_fraction)
    return assign(scores, form, rate)


def robust_loss(
    losses: Tensor, form: str, rate: float, margin: float, weight: float, top_fraction: float
) -> Tensor:
    """The loss of a batch, ``(B, S) -> ()``: ``Σ w·L / max(1, Σ w) + weight·Σ v·A / B``.

    w, v are the images' weights, L their NLLs, A their anomaly losses. The first part is a mean
    over the images that count as normal, so that trimming does not shorten the steps; the second is
    divided by all images, so that suspects pull by their share. Without suspects it is the mean of
    ``losses``.
    """
    normal, anomalous = image_weights(losses, form, rate, margin, top_fraction)
    fit = (normal * image_losses(losses)).sum() / normal.sum().clamp(min=1)
    push = (anomalous * anomaly_losses(losses, margin, top_fraction)).mean()
    return fit + weight * push
