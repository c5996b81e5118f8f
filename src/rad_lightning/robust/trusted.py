"""Which training images to trust before anything is trained."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rad_lightning.flows.heads import Head


def central_images(head: Head, samples: Tensor, fraction: float) -> Tensor:
    """The most ordinary images under the Gaussian that the whitening gives, ``(N,)`` bool.

    An untrained flow is the identity, so its NLL is the Mahalanobis distance: no training, no
    label. Rests on the assumption that normal images are more alike than anomalies.

    Args:
        head: untrained.
        samples: ``(N, V, L, D)``.
        fraction: how many images to trust, at least one.
    """
    device = head.whitening.mean.device
    scores = torch.cat(
        [
            head.image_scores(head.position_scores(part.to(device).float())).cpu()
            for part in torch.split(samples, 64)
        ]
    )
    trusted = torch.zeros(len(samples), dtype=torch.bool)
    trusted[scores.argsort()[: math.ceil(fraction * len(scores))]] = True
    return trusted
