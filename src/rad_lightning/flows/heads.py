"""The head: whitening, flow and scoring over backbone features. What a checkpoint holds.

``patch`` treats every grid position as a sample; ``pooled`` is the same with a grid of one position
and several views, so one class serves both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rad_lightning.common.errors import UserError
from rad_lightning.common.threads import each
from rad_lightning.flows.coupling import CouplingFlow, latent_norm, standard_normal_nll
from rad_lightning.flows.scoring import image_scores, position_encoding
from rad_lightning.flows.whitening import Whitening

# Samples that go through the flow at once while scoring: what a CPU core's cache holds, or a GPU.
SAMPLES_AT_ONCE = {"cpu": 1024, "cuda": 65536}


@dataclass(frozen=True)
class HeadSpec:
    """What a head is built from; plain values, stored with the checkpoint."""

    grid: tuple[int, int]
    inputs: int  # C
    channels: int  # D
    blocks: int
    hidden: int
    clamp: float
    position_dims: int
    top_fraction: float
    score: str  # "nll" or "latent"
    seed: int  # of the flow's initial weights
    center: str = "global"  # or "position": each grid position has a mean of its own
    jitter: float = 0.0  # of training samples, see ``sampling.bandwidth``; nothing else reads it


class Head(nn.Module):
    """Features ``(N, V, C, H, W)`` -> NLL of every position -> image scores.

    Raises:
        UserError: more channels than the backbone gives.
    """

    encoding: Tensor | None
    centres: Tensor | None

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        if spec.channels > spec.inputs:
            raise UserError(
                f"head.channels = {spec.channels}: the features have {spec.inputs}; "
                f"use a value from 2 to {spec.inputs}"
            )
        self.spec = spec
        self.whitening = Whitening(spec.inputs, spec.channels)
        self.flow = CouplingFlow(
            spec.channels, spec.blocks, spec.hidden, spec.clamp, spec.seed, spec.position_dims
        )
        encoding = position_encoding(*spec.grid, spec.position_dims) if spec.position_dims else None
        self.register_buffer("encoding", encoding, persistent=False)
        places = spec.grid[0] * spec.grid[1]
        centres = torch.zeros(places, spec.inputs) if spec.center == "position" else None
        self.register_buffer("centres", centres)

    @torch.no_grad()
    def embed(self, features: Tensor) -> Tensor:
        """Flow samples of ``(N, V, C, H, W)``: ``(N, V, L, D)``, NaN where there is no image."""
        by_position = features.flatten(3).transpose(2, 3)
        if self.centres is not None:
            by_position = by_position - self.centres
        whitened: Tensor = self.whitening(by_position)
        return whitened

    def condition(self, positions: Tensor) -> Tensor | None:
        """The positional encoding of flat positions, ``(B,) -> (B, E)``, if there is one."""
        return None if self.encoding is None else self.encoding[positions]

    @torch.no_grad()
    def position_scores(self, samples: Tensor) -> Tensor:
        """Scores of ``(N, V, L, D)``: ``(N, V, H, W)``, NaN where there is no image."""
        count, views, length, _ = samples.shape
        flat = samples.flatten(0, 2)
        valid = (~flat[:, 0].isnan()).nonzero()[:, 0]
        flat = flat.to(self.whitening.mean.dtype)
        scores = flat.new_full((len(flat),), torch.nan, dtype=torch.float32)
        if len(valid):
            parts = valid.split(SAMPLES_AT_ONCE.get(flat.device.type, 8192))
            found = each(lambda rows: self.measure(flat[rows], rows % length), parts, flat.device)
            scores[valid] = torch.cat(found)
        return scores.view(count, views, *self.spec.grid)

    @torch.no_grad()
    def dense_scores(self, samples: Tensor) -> Tensor:
        """As ``position_scores``, but computed where there is no image too: its shapes depend on
        those of ``samples`` alone, so that it can be traced for an export."""
        count, views, length, _ = samples.shape
        flat = samples.flatten(0, 2)
        empty = flat[:, 0].isnan()
        positions = torch.arange(length, device=flat.device).repeat(count * views)
        found = self.measure(flat.nan_to_num(), positions)
        return found.masked_fill(empty, torch.nan).view(count, views, *self.spec.grid)

    def measure(self, samples: Tensor, positions: Tensor) -> Tensor:
        """The scores of ``(B, D)`` at the flat ``positions (B,)``; infinite where they overflow."""
        z, log_det = self.flow(samples, self.condition(positions))
        nll = self.spec.score == "nll"
        found = (standard_normal_nll(z, log_det) if nll else latent_norm(z)).float()
        return found.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)

    def image_scores(self, position_scores: Tensor) -> Tensor:
        """``(N, V, H, W) -> (N,)``."""
        return image_scores(position_scores, self.spec.top_fraction)
