"""Channel reduction before the flow: principal components scaled to unit variance."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Whitening(nn.Module):
    """``y = (x - mean) @ projection``, with identity covariance on the data it was fitted to.

    Args:
        inputs: channels of the backbone features.
        outputs: D, the components kept.
    """

    mean: Tensor
    projection: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("projection", torch.zeros(inputs, outputs))

    @property
    def outputs(self) -> int:
        return int(self.projection.shape[1])

    def fit(self, x: Tensor) -> Whitening:
        """Fit to ``(P, C)``.

        Directions in which the data hardly varies are damped instead of blown up to unit variance:
        their variance is floored at a millionth of the largest one.

        Raises:
            ValueError: non-finite features, or fewer samples than 2.
        """
        if len(x) < 2 or not torch.isfinite(x).all():
            raise ValueError(f"whitening needs at least 2 finite samples, got {len(x)}")
        wide = x.double()
        mean = wide.mean(0)
        centred = wide - mean
        covariance = centred.T @ centred / (len(x) - 1)
        values, vectors = torch.linalg.eigh(covariance)
        values = values.flip(0)[: self.outputs]
        vectors = vectors.flip(1)[:, : self.outputs]
        # eigh leaves the sign open; fix it, so that results do not depend on the library.
        peak = vectors.abs().argmax(0, keepdim=True)
        vectors = vectors * vectors.gather(0, peak).sign()
        floor = values[0].clamp(min=1e-12) * 1e-6
        self.mean.copy_(mean)
        self.projection.copy_(vectors / values.clamp(min=floor).sqrt())
        return self

    def leave(self) -> Whitening:
        """Change nothing: features as the backbone gives them, for methods whose authors use those.

        Raises:
            ValueError: fewer outputs than inputs.
        """
        if self.outputs != len(self.mean):
            raise ValueError(f"{self.outputs} outputs cannot hold {len(self.mean)} inputs")
        self.mean.zero_()
        self.projection.copy_(torch.eye(self.outputs))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., D)``."""
        return (x - self.mean) @ self.projection
