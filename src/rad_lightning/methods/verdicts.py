"""A person's verdicts on training images, as a training follows them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rad_lightning.config import MethodConfig
from rad_lightning.flows.heads import Head
from rad_lightning.methods.exposure import outlier_share
from rad_lightning.methods.registry import USUAL, Trust, objective_of
from rad_lightning.robust.contamination import Contamination
from rad_lightning.robust.exposure import oddest, within_image
from rad_lightning.robust.review import Reviewed
from rad_lightning.robust.trusted import gaussian_scores


def exposes(method: MethodConfig) -> bool:
    """Whether the objective can push samples away; others leave confirmed anomalies out."""
    return objective_of(method).name == USUAL or method.meta.source == "trusted"


def verdicts_alone(method: MethodConfig, head: Head, samples: Tensor, reviewed: Tensor) -> Trust:
    """What follows from verdicts where the method ranks nothing: all others are believed.

    Args:
        samples: ``(N, V, L, D)``.
        reviewed: ``(N,)`` of ``Reviewed``.
    """
    mislabelled = reviewed == Reviewed.MISLABELLED
    known = float(mislabelled.float().mean())
    unranked = torch.full((len(samples),), torch.nan)
    weights = torch.ones(samples.shape[:3])
    estimate = Contamination(known, known, 1.0)
    trust = Trust(unranked, mislabelled, weights, None, estimate, known, 0.0)
    return follow(trust, method, head, samples, reviewed)


def follow(
    trust: Trust, method: MethodConfig, head: Head, samples: Tensor, reviewed: Tensor
) -> Trust:
    """``trust`` with the verdicts of ``reviewed`` ``(N,)``: confirmed anomalies are never learned,
    and their oddest samples pushed away; confirmed good images count in full.

    Which samples are odd comes from the selection's own scores where it has any, else from the
    Gaussian of the whitening, which needs no training.
    """
    bad, good = reviewed == Reviewed.MISLABELLED, reviewed == Reviewed.GOOD
    if not (bad | good).any():
        return trust
    weights = trust.weights.clone()
    weights[bad] = 0
    weights[good] = torch.where(weights[good] > 0, weights[good], 1.0)
    suspects = (trust.suspects | bad) & ~good
    exposed, strength = trust.exposed, trust.strength
    if bad.any() and exposes(method):
        exposed = torch.zeros_like(weights) if exposed is None or not strength else exposed.clone()
        share = outlier_share(method.trust, head.spec)
        odd = (
            within_image([gaussian_scores(head, samples[bad])])
            if trust.odd is None
            else trust.odd[bad]
        )
        exposed[bad], strength = oddest(odd, share).to(weights.dtype), 1.0
    if exposed is not None:
        exposed = exposed.clone()
        exposed[good] = 0
    return replace(trust, weights=weights, suspects=suspects, exposed=exposed, strength=strength)
