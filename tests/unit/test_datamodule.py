from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rad_lightning.data.datamodule import SampleBatches, StepDataModule, Steps

Batches = list[tuple[Tensor, Tensor]]
SAMPLES = torch.arange(40.0).view(20, 2).half()
POSITIONS = torch.arange(20) % 4


def batches(
    *, seed: int = 0, rank: int = 0, world: int = 1, start: int = 0, size: int = 6, steps: int = 8
) -> Batches:
    module = StepDataModule(SampleBatches(SAMPLES, POSITIONS, size), steps=steps, seed=seed)
    module.trainer = SimpleNamespace(global_rank=rank, world_size=world, global_step=start)
    return list(module.train_dataloader())


def same(a: Batches, b: Batches) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


@pytest.mark.parametrize("step", [1, 3, 7])
def test_resuming_from_a_step_goes_on_with_the_same_batches(step: int) -> None:
    assert same(batches(start=step), batches()[step:])


def test_a_longer_training_starts_with_the_same_batches() -> None:
    assert same(batches(steps=12)[:8], batches(steps=8))


def test_a_batch_depends_on_nothing_drawn_before() -> None:
    first = batches()
    torch.manual_seed(99)
    torch.rand(5)
    assert same(first, batches())


def test_iterating_twice_gives_the_same() -> None:
    dataset = Steps(SampleBatches(SAMPLES, POSITIONS, 6), range(8), 1, [0, 0])
    assert same(list(dataset), list(dataset))


def test_steps_seeds_and_ranks_draw_different_batches() -> None:
    one, other_seed, other_rank = batches(), batches(seed=1), batches(rank=1)
    drawn = [tuple(x[:, 0].tolist()) for b in (one, other_seed, other_rank) for x, _ in b]
    assert len(set(drawn)) == 3 * 8


def test_samples_keep_their_positions_and_become_float() -> None:
    for samples, positions in batches():
        assert samples.dtype == torch.float32
        rows = (samples[:, 0] / 2).long()
        assert torch.equal(samples, SAMPLES[rows].float())
        assert torch.equal(positions, rows % 4)


def test_every_sample_is_drawn_sooner_or_later() -> None:
    drawn = torch.cat([x[:, 0] for x, _ in batches(steps=40)])
    assert len(drawn.unique()) == 20


@pytest.mark.parametrize(("size", "world", "each"), [(6, 1, 6), (6, 2, 3), (2, 4, 1), (999, 1, 20)])
def test_the_batch_size_is_shared_by_the_ranks(size: int, world: int, each: int) -> None:
    assert {len(x) for x, _ in batches(size=size, world=world)} == {each}


def test_without_a_trainer_it_is_one_process_from_the_start() -> None:
    module = StepDataModule(SampleBatches(SAMPLES, POSITIONS, 6), steps=8, seed=0)
    assert same(list(module.train_dataloader()), batches())
