"""A head before its flow is trained: its whitening on cached features, and the samples it gives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.common.randomness import stream_seed
from rad_lightning.config import HeadConfig
from rad_lightning.features.cache import FeatureSet
from rad_lightning.flows.heads import Head, HeadSpec

WHITENING_SAMPLES = 32_768
IMAGES_AT_ONCE = 16  # images held as float32 at once


def build_head(cfg: HeadConfig, feature_shape: tuple[int, ...], seed: int) -> Head:
    """The head for features ``(V, C, H, W)``."""
    _, channels, height, width = feature_shape
    return Head(
        HeadSpec(
            grid=(height, width),
            inputs=channels,
            channels=cfg.channels,
            blocks=cfg.blocks,
            hidden=cfg.hidden,
            clamp=cfg.clamp,
            position_dims=cfg.position_dims,
            top_fraction=cfg.top_fraction,
            score=cfg.score,
            seed=stream_seed("init", seed),
            center=cfg.center,
            jitter=cfg.jitter,
        )
    )


def fit_whitening(head: Head, features: FeatureSet, rows: list[int], seed: int) -> None:
    """Fit the channel reduction, and the positions' centres where the head has them, on positions
    drawn evenly from the training images.

    Raises:
        UserError: fewer samples than channels.
    """
    generator = torch.Generator().manual_seed(stream_seed("whitening", seed))
    per_image = math.ceil(WHITENING_SAMPLES / len(rows))
    offset = torch.zeros(1, 1)
    if head.centres is not None:
        offset = position_means(features, rows)
        head.centres.copy_(offset)
    drawn = []
    for row in rows:
        maps = features.read([row])[0].flatten(2) - offset.T  # (V, C, L)
        view, at = (~maps[:, 0].isnan()).nonzero(as_tuple=True)
        chosen = torch.randperm(len(at), generator=generator)[:per_image]
        drawn.append(maps.transpose(1, 2)[view[chosen], at[chosen]])
    samples = torch.cat(drawn)
    if len(samples) <= head.spec.channels:
        raise UserError(
            f"head.channels = {head.spec.channels}: {len(rows)} training images give "
            f"{len(samples)} samples; use a value from 2 to {max(2, len(samples) - 1)}"
        )
    head.whitening.fit(samples)


def position_means(features: FeatureSet, rows: list[int]) -> Tensor:
    """The mean feature of every grid position over images and views, ``(L, C)``; the mean of all
    where no image reaches (padding)."""
    _, channels, *grid = features.shape()
    total, count = torch.zeros(math.prod(grid), channels), torch.zeros(math.prod(grid), 1)
    for i in range(0, len(rows), IMAGES_AT_ONCE):
        maps = (
            features.read(rows[i : i + IMAGES_AT_ONCE]).flatten(3).transpose(2, 3)
        )  # (n, V, L, C)
        total += maps.nansum((0, 1))
        count += (~maps[..., :1].isnan()).sum((0, 1))
    return torch.where(count > 0, total / count.clamp(min=1), total.sum(0) / count.sum())


def embed(head: Head, features: FeatureSet, rows: list[int]) -> Tensor:
    """Flow samples of the images at ``rows``: ``(n, V, L, D)`` float16, on the CPU."""
    device = head.whitening.mean.device
    if not rows:
        views, _, *grid = features.shape()
        return torch.empty(0, views, math.prod(grid), head.spec.channels, dtype=torch.half)
    parts = [
        head.embed(features.read(rows[i : i + IMAGES_AT_ONCE]).to(device)).half().cpu()
        for i in range(0, len(rows), IMAGES_AT_ONCE)
    ]
    return torch.cat(parts)
