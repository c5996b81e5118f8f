"""Why an image is suspected: its spots that no trusted image has, and the nearest trusted image.

A person decides by comparing. The map is the distance of every position's features to the nearest
ones in a memory of trusted images (as PatchCore scores, Roth et al., CVPR 2022). On real defects it
marks the spot far more clearly than the NLL of what has seen the suspects too, as flows of the
ranking and the whitening's Gaussian have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from rad_lightning.common.randomness import stream_seed
from rad_lightning.evaluation.overlays import colour_range
from rad_lightning.robust.memories import nearest

MEMORY = 20_000  # trusted samples: the map of an image takes a tenth of a second on a CPU
IMAGES_AT_ONCE = 64  # images held as float32 at once
REFERENCES = 16  # trusted images that the colours are scaled by
# The ends of the colours, see evaluation.overlays: distances spread less than an NLL.
TAIL, CLEAR = 0.99, 2.0


@dataclass(frozen=True)
class Evidence:
    """Of some of the N images: ``maps`` ``(n, V, L)`` and their colour range ``low..high``;
    ``twins`` ``(n,)`` the nearest trusted image of each, -1 where there is none."""

    maps: Tensor
    low: float
    high: float
    twins: tuple[int, ...]


def find_evidence(
    samples: Tensor, groups: Tensor, trusted: Tensor, rows: list[int], seed: int
) -> Evidence:
    """Compare the images at ``rows`` with the trusted ones of other physical parts.

    Args:
        samples: ``(N, V, L, D)``, whitened, NaN where there is no image.
        groups: ``(N,)`` physical parts.
        trusted: ``(N,)`` bool.
        rows: the images to explain.
        seed: of what is remembered.
    """
    memory = Memory.of(samples, groups, trusted, seed)
    maps = torch.stack([memory.distances(samples[r], groups[r]) for r in rows])
    known = trusted.nonzero()[:, 0]
    chosen = known[torch.linspace(0, len(known) - 1, min(REFERENCES, len(known))).long()]
    usual = torch.cat([memory.distances(samples[r], groups[r]).flatten() for r in chosen])
    low, high = colour_range(usual, TAIL, CLEAR)
    return Evidence(maps, low, high, tuple(twins(samples, groups, trusted, rows)))


@dataclass(frozen=True)
class Memory:
    """Samples ``(m, D)`` of trusted images, and the part ``(m,)`` of each."""

    samples: Tensor
    part: Tensor

    @classmethod
    def of(cls, samples: Tensor, groups: Tensor, trusted: Tensor, seed: int) -> Memory:
        flat, images = samples.flatten(1, 2), trusted.nonzero()[:, 0]
        length = flat.shape[1]
        generator = Generator().manual_seed(stream_seed("evidence", seed))
        drawn = torch.randperm(len(images) * length, generator=generator)[:MEMORY]
        image = images[drawn // length]
        found = flat[image, drawn % length].float()
        valid = found.isfinite().all(1)
        return cls(found[valid], groups[image][valid])

    def distances(self, image: Tensor, part: Tensor) -> Tensor:
        """``(V, L, D) -> (V, L)``: to the nearest sample of another part; NaN where there is no
        image, or nothing to compare it with."""
        others = self.samples[self.part != part]
        if not len(others):
            return torch.full(image.shape[:2], torch.nan)
        return nearest(image.float().flatten(0, 1), others)[0].view(image.shape[:2])


def twins(samples: Tensor, groups: Tensor, trusted: Tensor, rows: list[int]) -> list[int]:
    """For each of ``rows`` the trusted image of another part whose median sample is nearest:
    a defect of few positions does not change the median."""
    parts = torch.split(samples.flatten(1, 2), IMAGES_AT_ONCE)
    middles = torch.cat([part.float().nanmedian(1).values.nan_to_num() for part in parts])
    found = []
    for row in rows:
        eligible = (trusted & (groups != groups[row])).nonzero()[:, 0]
        distance = (middles[eligible] - middles[row]).norm(dim=1)
        found.append(int(eligible[distance.argmin()]) if len(eligible) else -1)
    return found
