"""Nearest neighbours in memories of training samples: suspicion without training, and detectors
without a flow.

Sparse memories follow MeDS (ICML 2026): a memory of few images is a low-pass filter, which keeps
what is frequent. The weighted core set follows SoftPatch (Jiang et al., NeurIPS 2022).
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from rad_lightning.common.threads import each
from rad_lightning.flows.heads import Head, HeadSpec
from rad_lightning.flows.whitening import Whitening

# Distances at once: 64 MiB on a GPU, on a CPU what fits its cache.
CELLS = {"cpu": 2**21, "cuda": 2**24}
CANDIDATES = 20_000  # samples that a core set is picked from
KEPT = 8192  # its size at most: seconds on a CPU
# A sample's mean reachability distance is at least this share of the average one: duplicates would
# have an infinite density, and their neighbours an infinite weight.
DENSITY_FLOOR = 0.01


def sparse_memories(
    samples: Tensor,
    groups: Tensor,
    count: int,
    share: float,
    generator: Generator,
    per_image: int = 64,
    positions: Tensor | None = None,
) -> Tensor:
    """How far every sample lies from memories that do not know its physical part, ``(n, V, L)``:
    the mean distance to the nearest sample of each, NaN where there is no image.

    Args:
        samples: ``(n, V, L, D)``, NaN where there is no image.
        groups: the images' physical parts, ``(n,)``. If all are of one, each counts as its own.
        count: memories; more are drawn while a part is in all of them.
        share: of the parts that a memory holds one image each of; at least one part, never all.
        per_image: samples of each of these images.
        positions: appended to the samples, ``(L, E)``, for neighbours that are also near in place.

    Raises:
        ValueError: fewer than 2 images.
    """
    if positions is not None:
        sides = positions.to(samples).expand(*samples.shape[:3], -1)
        samples = torch.cat((samples, sides), 3)
    total = torch.zeros(samples.shape[:3], device=samples.device)
    memories_of = torch.zeros(len(samples), 1, 1, device=samples.device)
    for memory, inside in draw_memories(samples, groups, count, share, generator, per_image):
        rows = (~inside).nonzero()[:, 0].to(samples.device)
        total[rows] += nearest(samples[rows].flatten(0, 2), memory)[0].view_as(total[rows])
        memories_of[rows] += 1
    return total / memories_of


def draw_memories(
    samples: Tensor, groups: Tensor, count: int, share: float, generator: Generator, per_image: int
) -> list[tuple[Tensor, Tensor]]:
    """Memories ``(m, D)``, each with the images whose part is in it, ``(n,)`` bool; arguments as of
    ``sparse_memories``. No part is in all of them."""
    flat = samples.flatten(1, 2)
    valid = flat.isfinite().all(2).cpu()
    shown = valid.any(1).nonzero()[:, 0]
    if len(shown) < 2:
        raise ValueError(f"memories need at least 2 images, got {len(shown)}")
    names = groups.cpu()[shown]
    if (names == names[0]).all():
        names = shown
    _, part = torch.unique(names, return_inverse=True)
    sizes = part.bincount()
    size = min(max(1, math.ceil(share * len(sizes))), len(sizes) - 1)
    covered = torch.zeros(len(sizes), dtype=torch.bool)
    drawn: list[tuple[Tensor, Tensor]] = []
    while len(drawn) < count or not covered.all():
        chosen = torch.randperm(len(sizes), generator=generator)
        if len(drawn) >= count:
            chosen = chosen[chosen != (~covered).nonzero()[0]]
        chosen = chosen[:size]
        # One random image of each part: the first one of a shuffled order, sorted by part.
        order = torch.randperm(len(part), generator=generator)
        order = order[part[order].argsort(stable=True)]
        images = shown[order[(sizes.cumsum(0) - sizes)[chosen]]]
        keys = torch.rand(len(images), valid.shape[1], generator=generator)
        keys, picked = keys.masked_fill(~valid[images], -1).topk(min(per_image, keys.shape[1]))
        row, column = (keys >= 0).nonzero(as_tuple=True)
        memory = flat[images[row].to(flat.device), picked[row, column].to(flat.device)]
        held = torch.zeros_like(covered).index_fill_(0, chosen, True)
        inside = torch.zeros(len(samples), dtype=torch.bool)
        inside[shown] = held[part]
        covered |= ~held
        drawn.append((memory.float(), inside))
    return drawn


def nearest(queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the nearest of ``memory (m, D)`` and which it is, ``(Q, D) -> (Q,), (Q,)``; NaN
    where a query holds NaN, infinity where it holds that."""
    rows = max(1, CELLS.get(memory.device.type, CELLS["cpu"]) // max(memory.shape))
    norms = memory.square().sum(1)

    def found(part: Tensor) -> tuple[Tensor, Tensor]:
        query = part.to(memory.dtype)
        # Squared, and without the query's own norm: the order is the same.
        index = torch.addmm(norms, query, memory.T, alpha=-2).min(1).indices
        # Computed again, since differences of large squares hide small distances.
        return (query - memory[index]).norm(dim=1), index

    parts = each(found, torch.split(queries, rows), memory.device)
    distances, indices = zip(*parts, strict=True)
    return torch.cat(distances), torch.cat(indices)


def local_outlier_factors(samples: Tensor, neighbours: int) -> Tensor:
    """LOF (Breunig et al., SIGMOD 2000) of every sample among those of its position, over all
    images and views: ``(n, V, L, D) -> (n, V, L)``, NaN where there is no image.

    k neighbours are k also where distances tie, as in scikit-learn, and fewer where fewer images
    show the position; a lone sample's factor is 1.
    """
    x = samples.flatten(0, 1).transpose(0, 1)  # (L, M, D)
    valid = x.isfinite().all(2)
    length, total = valid.shape
    shape = (length, total, min(neighbours, total))
    near = torch.empty(shape, device=x.device)
    index = torch.empty(shape, dtype=torch.long, device=x.device)
    cells = CELLS.get(x.device.type, CELLS["cpu"])
    rows = max(1, min(total, cells // total))
    step = max(1, cells // (rows * total))
    for here in torch.split(torch.arange(length, device=x.device), step):
        places = x[here].float().masked_fill(~valid[here, :, None], 0)
        for start in range(0, total, rows):
            distance = torch.cdist(places[:, start : start + rows], places)
            distance.masked_fill_(~valid[here, None], torch.inf)
            distance.diagonal(start, 1, 2).fill_(torch.inf)
            found = distance.topk(shape[2], largest=False)
            near[here, start : start + rows], index[here, start : start + rows] = found
    known, flat = near.isfinite(), index.flatten(1)
    several = known.any(2) & valid
    degree = known.sum(2).clamp(min=1)
    k_distance = near.masked_fill(~known, 0).amax(2)
    reach = torch.maximum(near, k_distance.gather(1, flat).view(shape)).masked_fill(~known, 0)
    mean = reach.sum(2) / degree
    mean = mean.clamp(min=(DENSITY_FLOOR * mean[several].mean()).clamp(min=1e-12))
    others = mean.reciprocal().gather(1, flat).view(shape).masked_fill(~known, 0).sum(2) / degree
    factors = torch.where(several, others * mean, 1.0).masked_fill(~valid, torch.nan)
    return factors.T.reshape(samples.shape[:3])


def core_set(samples: Tensor, size: int, generator: Generator) -> Tensor:
    """Which of ``(P, D)`` to keep, ``(size,)``: a random one, then always the one farthest from all
    before (greedy k-centre, as PatchCore; Roth et al., CVPR 2022)."""
    first = int(torch.randint(len(samples), (), generator=generator))
    chosen = torch.full((size,), first, device=samples.device)
    norms = samples.square().sum(1)
    closest = torch.full_like(norms, torch.inf)
    for i in range(1, size):
        last = chosen[i - 1]
        distance = torch.addmv(norms, samples, samples[last], alpha=-2).add_(norms[last])
        # Rounding must not let a sample be chosen twice.
        closest = torch.minimum(closest, distance).index_fill_(0, last, -torch.inf)
        chosen[i] = closest.argmax()
    return chosen


class MemoryHead(nn.Module):
    """Scores by the distance to the nearest sample of a memory times that one's weight, the mean
    over the memories; otherwise as the head it is built around.

    Args:
        head: its whitening is fitted; its flow is not used.
        banks: the memories, each ``(m, D)``.
        weights: of their samples, each ``(m,)``; 1 if not given.
    """

    def __init__(
        self, head: Head, banks: list[Tensor], weights: list[Tensor] | None = None
    ) -> None:
        super().__init__()
        self.head = head
        self.count = len(banks)
        for i, bank in enumerate(banks):
            self.register_buffer(f"bank_{i}", bank)
            self.register_buffer(f"weight_{i}", weights[i] if weights else torch.ones(len(bank)))
        self.to(head.whitening.mean.device)

    @property
    def banks(self) -> list[Tensor]:
        return [self.get_buffer(f"bank_{i}") for i in range(self.count)]

    @property
    def weights(self) -> list[Tensor]:
        return [self.get_buffer(f"weight_{i}") for i in range(self.count)]

    @property
    def spec(self) -> HeadSpec:
        return self.head.spec

    @property
    def whitening(self) -> Whitening:
        return self.head.whitening

    def embed(self, features: Tensor) -> Tensor:
        """As ``Head.embed``."""
        return self.head.embed(features)

    def image_scores(self, position_scores: Tensor) -> Tensor:
        """As ``Head.image_scores``."""
        return self.head.image_scores(position_scores)

    @torch.no_grad()
    def position_scores(self, samples: Tensor) -> Tensor:
        """Scores of ``(N, V, L, D)``: ``(N, V, H, W)``, NaN where there is no image."""
        flat = samples.flatten(0, 2)
        scores = flat.new_full((len(flat),), torch.nan, dtype=torch.float32)
        valid = (~flat[:, 0].isnan()).nonzero()[:, 0]
        scores[valid] = 0
        for bank, weight in zip(self.banks, self.weights, strict=True):
            distance, index = nearest(flat[valid], bank)
            found = (distance * weight[index]).float()
            scores[valid] += found.nan_to_num(nan=torch.inf, posinf=torch.inf) / self.count
        return scores.view(*samples.shape[:2], *self.spec.grid)


def sparse_head(
    head: Head,
    samples: Tensor,
    groups: Tensor,
    count: int,
    share: float,
    generator: Generator,
    per_image: int = 64,
) -> MemoryHead:
    """A head of the memories that ``sparse_memories`` draws. Every image is compared with all
    of them, so that a training image may be compared with itself."""
    drawn = draw_memories(samples, groups, count, share, generator, per_image)
    return MemoryHead(head, [memory for memory, _ in drawn])


def lof_head(
    head: Head, samples: Tensor, coreset: float, neighbours: int, drop: float, generator: Generator
) -> MemoryHead:
    """SoftPatch: outlying samples are dropped, a core set of the rest weighs its distances by LOF.

    Args:
        head: its whitening is fitted.
        samples: ``(n, V, L, D)``, NaN where there is no image.
        coreset: share of the remaining samples to keep; ``KEPT`` at most, of ``CANDIDATES`` random
            ones, so that a CPU picks them in a few seconds.
        neighbours: of the local outlier factor.
        drop: share of the samples to drop, those of the highest factors.

    Raises:
        ValueError: fewer than 2 images.
    """
    shown = int(samples.isfinite().all(3).flatten(1).any(1).sum())
    if shown < 2:
        raise ValueError(f"local outlier factors need at least 2 images, got {shown}")
    factors = local_outlier_factors(samples.to(head.whitening.mean.device), neighbours).flatten()
    ordered = factors.argsort(stable=True)[: int(factors.isfinite().sum())]  # NaN comes last
    rest = ordered[: len(ordered) - int(drop * len(ordered))]
    size = min(math.ceil(coreset * len(rest)), KEPT)
    some = torch.randperm(len(rest), generator=generator)[:CANDIDATES]
    rest = rest[some.to(rest.device)]
    candidates = samples.flatten(0, 2)[rest.to(samples.device)].to(rest.device).float()
    kept = core_set(candidates, size, generator)
    return MemoryHead(head, [candidates[kept]], [factors[rest[kept]]])
