"""Minibatches of flow samples for Lightning: one seeded stream per rank, exact on resume."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from rad_lightning.randomness import stream_seed


class SampleBatches(IterableDataset[tuple[Tensor, Tensor]]):
    """Batch ``t`` holds ``batch_size`` samples drawn from a generator seeded by (seed, rank, t).

    Because a batch depends on its step alone, a resumed run sees the batches that the interrupted
    one would have seen.
    """

    def __init__(
        self, samples: Tensor, positions: Tensor, batch_size: int, steps: range, key: list[int]
    ) -> None:
        self.samples, self.positions = samples, positions
        self.batch_size, self.steps, self.key = batch_size, steps, key

    def __len__(self) -> int:
        return self.steps.stop

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for step in self.steps:
            generator = torch.Generator().manual_seed(stream_seed("batches", *self.key, step))
            chosen = torch.randint(len(self.samples), (self.batch_size,), generator=generator)
            yield self.samples[chosen].float(), self.positions[chosen]


class SampleDataModule(LightningDataModule):
    """Training samples ``(P, D)`` with their flat grid positions ``(P,)``.

    Args:
        steps: optimisation steps of the whole training.
        batch_size: samples per step, over all ranks together.
    """

    def __init__(
        self, samples: Tensor, positions: Tensor, *, batch_size: int, steps: int, seed: int
    ) -> None:
        super().__init__()
        self.samples, self.positions = samples, positions
        self.batch_size, self.steps, self.seed = batch_size, steps, seed

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        rank, world, start = 0, 1, 0
        if self.trainer is not None:
            rank, world = self.trainer.global_rank, self.trainer.world_size
            start = self.trainer.global_step
        batches = SampleBatches(
            self.samples,
            self.positions,
            max(1, min(self.batch_size, len(self.samples)) // world),
            range(start, self.steps),
            [self.seed, rank],
        )
        return DataLoader(batches, batch_size=None)
