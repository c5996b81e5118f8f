from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rad_lightning.methods.batches import SampleBatches, StepDataModule, Steps

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


WEIGHTS = torch.arange(20) % 5 * 1.0  # 0 for every fifth
EXPOSED = (torch.arange(20) % 5 == 0) * 1.0


def drawn(size: int = 20, *, world: int = 1, seed: int = 0, **options: Any) -> list[Tensor]:
    """Places of the drawn samples, and whatever comes after samples and positions."""
    batch = SampleBatches(SAMPLES, POSITIONS, size, **options)
    values, positions, *rest = batch.draw(torch.Generator().manual_seed(seed), world)
    places = (values[:, 0] / 2).long()
    assert torch.equal(values, SAMPLES[places].float()) and values.dtype == torch.float32
    assert torch.equal(positions, POSITIONS[places])
    return [places, *rest]


def test_without_options_samples_are_uniform_integers_of_the_generator() -> None:
    for seed in range(5):
        (places,) = drawn(6, seed=seed)
        expected = torch.randint(20, (6,), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(places, expected)


def test_samples_are_drawn_by_their_weights_and_never_at_weight_zero() -> None:
    places = torch.cat([drawn(weights=WEIGHTS, seed=seed)[0] for seed in range(1000)])
    counts = places.bincount(minlength=20)
    assert torch.equal(counts > 0, WEIGHTS > 0)
    torch.testing.assert_close(counts / 20_000, WEIGHTS / 40, atol=0.01, rtol=0)


def test_the_scale_of_the_weights_does_not_matter() -> None:
    for scale in (1e-3, 0.5, 2048.0):
        assert torch.equal(drawn(weights=WEIGHTS * scale)[0], drawn(weights=WEIGHTS)[0])


@pytest.mark.parametrize("weights", [None, WEIGHTS, 1 - EXPOSED])
def test_pushed_samples_come_last_and_from_the_exposed_alone(weights: Tensor | None) -> None:
    exposed, others = torch.zeros(20), torch.zeros(20)
    for seed in range(100):
        places, pushed = drawn(weights=weights, exposed=EXPOSED, share=0.25, seed=seed)
        assert pushed.tolist() == [False] * 15 + [True] * 5
        exposed[places[pushed]] += 1
        others[places[~pushed]] += 1
    assert torch.equal(exposed > 0, EXPOSED > 0)
    assert torch.equal(others > 0, torch.ones(20) > 0 if weights is None else weights > 0)


@pytest.mark.parametrize(
    ("size", "world", "share", "normal", "pushed"),
    [
        (10, 1, 0.2, 8, 2),
        (10, 2, 0.2, 4, 1),
        (999, 1, 0.2, 16, 4),
        (10, 1, 0.01, 9, 1),  # at least one
        (10, 1, 0.9, 1, 9),
        (1, 1, 0.5, 1, 1),  # and one to learn from
        (4, 4, 0.9, 1, 1),
    ],
)
def test_a_fixed_share_of_a_batch_is_pushed_away(
    size: int, world: int, share: float, normal: int, pushed: int
) -> None:
    _, found = drawn(size, world=world, exposed=EXPOSED, share=share)
    assert found.dtype == torch.bool
    assert (int((~found).sum()), int(found.sum())) == (normal, pushed)


def test_weighted_batches_are_what_their_generator_makes_them() -> None:
    one, again, other = (
        drawn(weights=WEIGHTS, exposed=EXPOSED, share=0.5, seed=seed)[0] for seed in (4, 4, 5)
    )
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_jitter_moves_what_is_drawn_and_draws_the_same() -> None:
    still, moved = (
        SampleBatches(SAMPLES, POSITIONS, 6, jitter=jitter).draw(
            torch.Generator().manual_seed(0), 1
        )
        for jitter in (0.0, 0.1)
    )
    assert torch.equal(still[1], moved[1])
    assert 0 < float((moved[0] - still[0]).abs().max()) < 1
