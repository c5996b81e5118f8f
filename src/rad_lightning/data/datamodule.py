"""Training batches for Lightning: one seeded stream per rank, exact on resume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pytorch_lightning import LightningDataModule
from torch import Generator, Tensor
from torch.utils.data import DataLoader, IterableDataset

from rad_lightning.randomness import stream_seed


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
    """

    samples: Tensor
    positions: Tensor
    size: int
    stream = "batches"

    def draw(self, generator: Generator, world: int) -> tuple[Tensor, Tensor]:
        size = max(1, min(self.size, len(self.samples)) // world)
        chosen = torch.randint(len(self.samples), (size,), generator=generator)
        return self.samples[chosen].float(), self.positions[chosen]


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
