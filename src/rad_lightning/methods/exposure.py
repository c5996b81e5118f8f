"""Outlier exposure in a batch: some samples are learned, the others are to become unlikely."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rad_lightning.config import TrustConfig
from rad_lightning.flows.heads import HeadSpec
from rad_lightning.methods.registry import Training
from rad_lightning.robust.exposure import hinge

ODD = 1.5  # of the share of samples that an image's score is made of


@dataclass(frozen=True)
class Exposure:
    """The loss of samples that are to become unlikely: ``weight`` times the hinge at ``margin``."""

    weight: float = 0.0
    margin: float = 0.0

    def split(self, losses: Tensor, exposed: Tensor | None) -> tuple[Tensor, Tensor]:
        """NLLs ``(..., B)``, outliers marked by ``exposed`` bool -> those that are learned,
        and the loss of the others, ``()``."""
        if exposed is None:
            return losses, losses.new_zeros(())
        return losses[~exposed], self.weight * hinge(losses[exposed], self.margin).mean()


def exposure_of(trust: TrustConfig, training: Training) -> Exposure:
    """As strong as the ranking of the training images says."""
    strength = training.trust.strength if training.trust else 0.0
    return Exposure(strength * trust.weight, trust.margin)


def outlier_share(cfg: TrustConfig, spec: HeadSpec) -> float:
    """Of a suspect's samples, those that may be pushed away."""
    return min(1.0, ODD * spec.top_fraction) if cfg.odd is None else cfg.odd
