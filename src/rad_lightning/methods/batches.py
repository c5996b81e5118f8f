"""Training batches for Lightning: one seeded stream per rank, exact on resume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from pytorch_lightning import LightningDataModule
from torch import Generator, Tensor
from torch.utils.data import DataLoader, IterableDataset

from rad_lightning.common.randomness import stream_seed
from rad_lightning.flows.sampling import drawn_from, jittered, running_sums
from rad_lightning.meta.tasks import Bank


class Batches(Protocol):
    """What a method learns from: draws the batch of a step, for one of ``world`` ranks."""

    @property
    def stream(self) -> str: ...

    def draw(self, generator: Generator, world: int) -> Any: ...


@dataclass(frozen=True)
class SampleBatches:
    """Flow samples ``(P, D)`` with their flat grid positions ``(P,)``, drawn with replacement.

    Args:
        size: samples per step, over all ranks together.
        weights: ``(P,)`` how often a sample is drawn; ``None``: all alike.
        exposed: ``(P,)`` the same for those that are to be pushed away; ``None``: there are none.
        share: of a batch that is pushed away, in this case.
        jitter: standard deviation of the noise on what is drawn.
    """

    samples: Tensor
    positions: Tensor
    size: int
    weights: Tensor | None = None
    exposed: Tensor | None = None
    share: float = 0.0
    jitter: float = 0.0
    stream = "batches"

    def draw(self, generator: Generator, world: int) -> tuple[Tensor, ...]:
        """Samples ``(B, D)``, positions ``(B,)``, and ``(B,)`` bool where some are pushed away."""
        size = max(1, min(self.size, len(self.samples)) // world)
        if self.exposed is None:
            chosen = self._among(self._learned, size, generator)
            return self._at(chosen, generator), self.positions[chosen]
        outliers = max(1, round(self.share * size))
        chosen = torch.cat(
            [
                self._among(self._learned, max(1, size - outliers), generator),
                self._among(self._outliers, outliers, generator),
            ]
        )
        exposed = torch.arange(len(chosen)) >= len(chosen) - outliers
        return self._at(chosen, generator), self.positions[chosen], exposed

    def _at(self, chosen: Tensor, generator: Generator) -> Tensor:
        return jittered(self.samples[chosen].float(), self.jitter, generator)

    @cached_property
    def _learned(self) -> Tensor | None:
        return None if self.weights is None else running_sums(self.weights)[None]

    @cached_property
    def _outliers(self) -> Tensor | None:
        return None if self.exposed is None else running_sums(self.exposed)[None]

    def _among(self, sums: Tensor | None, count: int, generator: Generator) -> Tensor:
        if sums is None:
            return torch.randint(len(self.samples), (count,), generator=generator)
        return drawn_from(sums, count, generator)[0]


class ImageBatch(NamedTuple):
    """S samples of each of B images ``(B, S, D)``, float32, and their positions ``(B, S)``."""

    values: Tensor
    positions: Tensor


@dataclass(frozen=True)
class ImageBatches:
    """Different images and, of each, equally many samples, drawn with replacement.

    Args:
        size: samples per step, over all ranks together; fewer where the images do not suffice.
        per_image: of them, from one image; no more than the largest image has.
    """

    bank: Bank
    size: int
    per_image: int = 32
    stream = "image_batches"

    def draw(self, generator: Generator, world: int) -> ImageBatch:
        count = self.bank.count
        each = min(self.per_image, int(count.max()))
        images = min(max(1, self.size // each // world), len(count))
        chosen = torch.randperm(len(count), generator=generator)[:images]
        drawn = self.bank.draw(chosen, each * images, generator)
        return ImageBatch(
            drawn.values.unflatten(0, (each, images)).transpose(0, 1),
            drawn.positions.view(each, images).T,
        )


class Steps(IterableDataset[Any]):
    """Batch ``t`` comes from a generator seeded by (seed, rank, t).

    Because a batch depends on its step alone, a resumed run sees the batches that the interrupted
    one would have seen.
    """

    def __init__(self, batches: Batches, steps: range, world: int, key: list[int]) -> None:
        self.batches, self.steps, self.world, self.key = batches, steps, world, key

    def __len__(self) -> int:
        return self.steps.stop

    def __iter__(self) -> Iterator[Any]:
        for step in self.steps:
            seed = stream_seed(self.batches.stream, *self.key, step)
            yield self.batches.draw(torch.Generator().manual_seed(seed), self.world)


class StepDataModule(LightningDataModule):
    """``steps`` optimisation steps on ``batches``."""

    def __init__(self, batches: Batches, *, steps: int, seed: int) -> None:
        super().__init__()
        self.batches, self.steps, self.seed = batches, steps, seed

    def train_dataloader(self) -> DataLoader[Any]:
        rank, world, start = 0, 1, 0
        if self.trainer is not None:
            rank, world = self.trainer.global_rank, self.trainer.world_size
            start = self.trainer.global_step
        steps = Steps(self.batches, range(start, self.steps), world, [self.seed, rank])
        return DataLoader(steps, batch_size=None)


def flat_samples(samples: Tensor) -> tuple[Tensor, Tensor]:
    """``(N, V, L, D)`` -> the samples that show an image ``(P, D)``, their positions ``(P,)``."""
    flat = samples.flatten(0, 2)
    valid = (~flat[:, 0].isnan()).nonzero()[:, 0]
    return flat[valid], valid % samples.shape[2]
