"""Backbone, head and maps as one network: images in, scores and anomaly maps out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rad_lightning.features.backbone import FrozenBackbone
from rad_lightning.features.extract import FeatureSpec, batch_features, valid_positions
from rad_lightning.flows.heads import Head
from rad_lightning.flows.scoring import SMOOTHING, canvas_maps


class Network(nn.Module):
    """A trained detector without what is around it: reading images, threshold, verdict.

    Its shapes depend on the batch size alone, so that it can be exported.

    Args:
        spec: how the images were looked at when the head was trained.
        rounded: features and samples take the half precision that they have in the feature cache,
            hence scores are those of the training, to the last bit on the same machine. Another
            runtime rounds a few of them the other way: compare it with ``rounded=False``.
    """

    def __init__(
        self, backbone: FrozenBackbone, head: Head, spec: FeatureSpec, rounded: bool = True
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.spec, self.rounded = backbone, head, spec, rounded
        self.has_maps = head.spec.grid != (1, 1)  # a grid of one position locates nothing
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor, boxes: Tensor | None = None) -> tuple[Tensor, ...]:
        """Scores ``(B,)`` and, where there are any, maps ``(B, H, W)``.

        Args:
            images: ``(B, 3, H, W)``, RGB in 0..255, of ``spec.size``.
            boxes: top, left, height, width of each image on its canvas, ``(B, 4)``; the whole
                canvas if not given.
        """
        if boxes is None:
            whole = torch.tensor([[0, 0, *self.spec.size]], device=images.device)
            boxes = whole.expand(images.shape[0], 4)
        features = self._stored(batch_features(self.backbone, images, boxes, self.spec))
        samples = self.head.embed(features)
        positions = self.head.dense_scores(self._stored(samples))
        scores = self.head.image_scores(positions)
        scores = scores.masked_fill(self._broken(features, boxes), torch.nan)
        if not self.has_maps:
            return (scores,)
        sigma = SMOOTHING * min(self.spec.size)
        return scores, canvas_maps(positions, self.spec.size, sigma)

    def _broken(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Whether the features of an image, ``(B, V, C, H, W)``, are no numbers where it is, not
        only where there is padding: it would count as padding. ``(B,)`` bool."""
        missing = ~(features.abs() < torch.inf)
        if self.has_maps and self.spec.fit == "pad":
            grid = (features.shape[-2], features.shape[-1])
            missing = missing & valid_positions(boxes, self.spec.size, grid)[:, None, None]
        return missing.flatten(1).any(1)

    def _stored(self, x: Tensor) -> Tensor:
        return x.half().float() if self.rounded else x
