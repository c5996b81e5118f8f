"""From the settings of ``method.trust`` to what a training may make of each image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from rad_lightning.config import MethodConfig, TrustConfig
from rad_lightning.flows.heads import Head
from rad_lightning.randomness import stream_seed
from rad_lightning.robust.memories import sparse_memories
from rad_lightning.robust.trusted import (
    Contamination,
    OutOfFold,
    alike,
    contamination,
    gaussian_scores,
    image_suspicion,
    part_weights,
    ranks,
)

FENCE = 1.5  # of a box plot, in interquartile ranges
MOST = 0.9  # share of the images that may be suspects


@dataclass(frozen=True)
class Trust:
    """What is thought of N training images before the training.

    ``suspicion`` ``(N,)`` from 0, the most ordinary, to 1; ``weights`` ``(N, V, L)``: how often a
    sample is learned from; ``exposed`` ``(N, V, L)``: how often one is pushed away, if any is.
    """

    suspicion: Tensor
    suspects: Tensor
    weights: Tensor
    exposed: Tensor | None
    contamination: Contamination
    assumed: float  # the contamination that the suspects were chosen by
    strength: float  # of the exposure, from 0 to 1

    def of(self, images: Tensor) -> Trust:
        """The same of some of the images, ``(N,)`` bool."""
        exposed = None if self.exposed is None else self.exposed[images]
        if exposed is not None and not (exposed > 0).any():
            exposed = None
        return replace(
            self,
            suspicion=self.suspicion[images],
            suspects=self.suspects[images],
            weights=self.weights[images],
            exposed=exposed,
        )

    def summary(self) -> dict[str, Any]:
        """For ``result.json``."""
        return {
            "contamination": asdict(self.contamination),
            "assumed_rate": self.assumed,
            "strength": self.strength,
            "suspects": int(self.suspects.sum()),
            "images": len(self.suspects),
        }


def find_trust(
    method: MethodConfig,
    head: Head,
    samples: Tensor,
    groups: Tensor,
    injected: Tensor,
    seed: int,
    tick: Callable[[], object] = lambda: None,
) -> Trust:
    """Rank the training images, and decide what follows from it.

    Args:
        head: with its whitening fitted and its flow untrained; stays so.
        samples: ``(N, V, L, D)``.
        groups: ``(N,)`` physical parts.
        injected: ``(N,)`` bool, read by the oracles ``known_rate`` and ``known`` alone.
        tick: called after every gradient step, ``trust_steps`` times.
    """
    cfg = method.trust
    generator = Generator().manual_seed(stream_seed("trust", seed))
    shape = samples.shape[:3]
    base = part_weights(groups) if cfg.by_part else torch.ones(len(samples))
    base = base[:, None, None].expand(shape)
    weights = base
    for turn in range(cfg.rounds):
        scores = sample_scores(method, head, samples, groups, weights, seed + turn, generator, tick)
        images = torch.stack([image_suspicion(head, s) for s in scores])
        estimate = contamination(images[0], groups, generator)
        together = torch.stack(
            [image_suspicion(head, s, groups if cfg.by_part else None) for s in scores]
        )
        suspicion = ranks(ranks(together).mean(0))
        odd = torch.stack([ranks(s.flatten(1)).view(shape) for s in scores]).mean(0)
        assumed = assumed_rate(cfg, estimate, injected)
        suspects = choose(cfg, together[0], suspicion, assumed)
        if cfg.quota:
            suspects &= ~spared(samples, suspicion, cfg.quota)
        if cfg.known:
            suspects = injected
        exposed = None
        if cfg.use == "soft":
            weights = base * (1 - suspicion)[:, None, None]
        elif cfg.use == "expose":
            doubt = suspects.float() if cfg.known else suspicion**cfg.power
            exposed = doubt[:, None, None] * (odd.nan_to_num(0.0) >= 1 - cfg.odd)
            # Of a further round: without the oddest samples of suspects.
            weights = base * ~(suspects[:, None, None] & (exposed > 0))
            if cfg.known:
                weights = base * ~suspects[:, None, None]
        else:
            weights = base * ~suspects[:, None, None]
    if cfg.use == "expose" and not cfg.known:
        # Suspects stay: some are normal, and a flow that never learns those would be taught to
        # push away all that is rare.
        weights = base
    strength = 1.0 if cfg.known else min(1.0, max(0.0, (assumed - cfg.floor) / cfg.floor))
    if not strength:
        exposed = None
    return Trust(suspicion, suspects, weights, exposed, estimate, assumed, strength)


def trust_steps(cfg: TrustConfig) -> int:
    """Gradient steps that ``find_trust`` takes."""
    trained = cfg.source in ("out_of_fold", "both", "in_sample")
    return cfg.rounds * cfg.steps if trained else 0


def sample_scores(
    method: MethodConfig,
    head: Head,
    samples: Tensor,
    groups: Tensor,
    weights: Tensor,
    seed: int,
    generator: Generator,
    tick: Callable[[], object],
) -> list[Tensor]:
    """Scores of all samples from each source that is asked, ``(N, V, L)`` each."""
    cfg = method.trust
    found = []
    if cfg.source in ("out_of_fold", "both", "in_sample"):
        folds = 1 if cfg.source == "in_sample" else cfg.folds
        flows = OutOfFold(
            folds, cfg.steps, method.batch_size, method.lr, stream_seed("folds", seed)
        )
        found.append(flows.scores(head, samples, groups, weights, tick))
    if cfg.source in ("memories", "both"):
        device = head.whitening.mean.device
        distances = sparse_memories(
            samples.to(device).float(), groups, cfg.memories, cfg.memory_share, generator
        )
        found.append(distances.cpu())
    if cfg.source == "gaussian":
        found.append(gaussian_scores(head, samples))
    return found


def assumed_rate(cfg: TrustConfig, estimate: Contamination, injected: Tensor) -> float:
    """The contamination that suspects are chosen by: given, known or estimated."""
    if cfg.known_rate:
        return float(injected.float().mean())
    return estimate.value if cfg.rate is None else cfg.rate


def choose(cfg: TrustConfig, scores: Tensor, suspicion: Tensor, rate: float) -> Tensor:
    """The suspects, ``(N,)`` bool."""
    if cfg.use == "iqr":
        low, high = scores.quantile(torch.tensor([0.25, 0.75], dtype=scores.dtype))
        fenced: Tensor = scores > high + FENCE * (high - low)
        return fenced
    count = math.floor(min(cfg.reach * rate, MOST) * len(suspicion))
    suspects = torch.zeros(len(suspicion), dtype=torch.bool)
    suspects[suspicion.argsort(descending=True)[:count]] = True
    return suspects


def spared(samples: Tensor, suspicion: Tensor, quota: float) -> Tensor:
    """The ``quota`` least suspicious of each cluster of alike images, ``(N,)`` bool: what is rare
    but normal is not purged as a whole."""
    cluster = alike(samples.float().nanmean((1, 2)), max(1, round(math.sqrt(len(samples)))))
    keep = torch.zeros(len(samples), dtype=torch.bool)
    for c in torch.unique(cluster):
        rows = (cluster == c).nonzero()[:, 0]
        keep[rows[suspicion[rows].argsort()[: math.ceil(quota * len(rows))]]] = True
    return keep
