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
from rad_lightning.robust.review import Reviewed, bad, judged
from rad_lightning.robust.trusted import gaussian_scores

PUSHED = 0.3  # share of the images, from which on they are pushed away with the full weight


def exposes(method: MethodConfig) -> bool:
    """Whether the objective can push samples away; others leave confirmed anomalies out."""
    return objective_of(method).name == USUAL or method.meta.source == "trusted"


def verdicts_alone(method: MethodConfig, head: Head, samples: Tensor, reviewed: Tensor) -> Trust:
    """What follows from verdicts where the method ranks nothing: all others are believed.

    Args:
        samples: ``(N, V, L, D)``.
        reviewed: ``(N,)`` of ``Reviewed``.
    """
    mislabelled = bad(reviewed)
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
    and their oddest samples pushed away; the other images of their physical parts, which may not
    show the defect, are left out; confirmed good images count in full.

    Which samples are odd comes from the selection's own scores where it has any, else from the
    Gaussian of the whitening, which needs no training.
    """
    if not judged(reviewed).any():
        return trust
    shown, good = reviewed == Reviewed.MISLABELLED, reviewed == Reviewed.GOOD
    weights = trust.weights.clone()
    weights[bad(reviewed)] = 0
    weights[good] = torch.where(weights[good] > 0, weights[good], 1.0)
    suspects = (trust.suspects | bad(reviewed)) & ~good
    exposed, strength = trust.exposed, trust.strength
    if shown.any() and exposes(method):
        exposed = torch.zeros_like(weights) if exposed is None or not strength else exposed.clone()
        share = outlier_share(method.trust, head.spec)
        odd = (
            within_image([gaussian_scores(head, samples[shown])])
            if trust.odd is None
            else trust.odd[shown]
        )
        exposed[shown] = oddest(odd, share).to(weights.dtype)
        # The weight is that of all of them together: in full, a few would bend the whole flow.
        before = 0.0 if trust.exposed is None else strength
        strength = max(before, min(1.0, float(shown.float().mean()) / PUSHED))
    if exposed is not None:
        exposed = exposed.clone()
        exposed[good] = 0
    return replace(trust, weights=weights, suspects=suspects, exposed=exposed, strength=strength)
