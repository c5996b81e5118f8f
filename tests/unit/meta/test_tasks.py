from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from rad_lightning.meta.tasks import (
    Bank,
    Bootstrap,
    CrossCategory,
    EpisodeBatches,
    PseudoNoise,
    Samples,
    Task,
    TaskSource,
    Trusted,
    corrupt,
    halves,
    some,
    weighted,
)

IMAGES, VIEWS, LENGTH = 12, 2, 5
# What a channel of a test sample tells of it.
IMAGE, VIEW, POSITION, SPOILED, CATEGORY = range(5)
GROUPS = torch.tensor([7, 7, 7, 3, 3, 9, 1, 1, 4, 5, 5, 5])
TRUSTED = torch.tensor([i % 3 == 0 for i in range(IMAGES)])


def labelled(images: int = IMAGES, corrupted: bool = False, category: int = 0) -> Tensor:
    """Samples ``(N, V, L, 5)`` that say where they are; some positions show no image."""
    shape = (images, VIEWS, LENGTH)
    parts = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    flags = (torch.full(shape, int(corrupted)), torch.full(shape, category))
    samples = torch.stack([*parts, *flags], -1).half()
    samples[1, :, 2:4] = torch.nan
    samples[3, 1] = torch.nan
    samples[4, 0, 1:] = torch.nan
    samples[4, 1] = torch.nan
    return samples


def bank(**more: int | bool) -> Bank:
    return Bank(labelled(**more), GROUPS)


def pseudo(trusted: Tensor = TRUSTED, max_rate: float = 0.5) -> PseudoNoise:
    return PseudoNoise(bank(), bank(corrupted=True), trusted, 6, max_rate)


def cross() -> CrossCategory:
    return CrossCategory([Bootstrap(bank(category=c), 4) for c in range(3)])


DOUBTED = torch.tensor([i in (0, 8, 9) for i in range(IMAGES)])


def trusting(doubt: Tensor | None = None) -> Trusted:
    """A quarter of its queries are odd samples, told by their channel ``SPOILED``."""
    believed = DOUBTED.float()
    doubt = believed if doubt is None else doubt
    return Trusted(bank(), believed, bank(corrupted=True), doubt, 4, 0.25)


SOURCES: dict[str, TaskSource] = {
    "bootstrap": Bootstrap(bank(), 4),
    "pseudo_noise": pseudo(),
    "cross_category": cross(),
    "trusted": trusting(),
}


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def tasks(source: TaskSource, count: int, support: int = 12, query: int = 8) -> Iterator[Task]:
    generator = seeded()
    for _ in range(count):
        yield source.draw_task(support, query, generator)


def channel(samples: Samples, which: int) -> Tensor:
    return samples.values[..., which].long()


def test_drawn_samples_are_those_at_the_returned_places() -> None:
    images = torch.tensor([4, 1, 3, 8])
    drawn = bank().draw(images, 200, seeded())
    assert drawn.values.shape == (200, 5) and drawn.values.dtype == torch.float32
    assert not drawn.values.isnan().any()
    assert torch.equal(channel(drawn, IMAGE), images[drawn.images])
    assert torch.equal(channel(drawn, VIEW), drawn.views)
    assert torch.equal(channel(drawn, POSITION), drawn.positions)


def test_jitter_moves_what_a_bank_gives_and_draws_the_same() -> None:
    images = torch.tensor([4, 1])
    still, moved = (Bank(labelled(), GROUPS, j).draw(images, 9, seeded()) for j in (0.0, 0.1))
    for one, two in zip(still[1:], moved[1:], strict=True):
        assert torch.equal(one, two)
    assert 0 < float((moved.values - still.values).abs().max()) < 1


def test_every_sample_of_an_image_is_drawn_and_all_about_as_often() -> None:
    drawn = bank().draw(torch.tensor([0]), 5000, seeded())
    _, counts = (drawn.views * LENGTH + drawn.positions).unique(return_counts=True)
    assert len(counts) == VIEWS * LENGTH
    assert counts.min() > 400 and counts.max() < 600


def test_an_image_of_one_sample_gives_that_sample() -> None:
    drawn = bank().draw(torch.tensor([4]), 20, seeded())
    assert (drawn.positions == 0).all() and (drawn.views == 0).all()


def test_draws_are_even_over_the_images() -> None:
    drawn = bank().draw(torch.tensor([2, 4, 6]), 11, seeded())
    assert drawn.images.bincount().tolist() == [4, 4, 3]


def test_the_bank_counts_what_shows_an_image() -> None:
    counts = bank().count.tolist()
    assert counts == [10, 6, 10, 5, 1, *[10] * 7]
    assert bank().start.tolist() == [sum(counts[:i]) for i in range(IMAGES)]
    assert len(bank()) == IMAGES


def test_images_without_samples_and_single_images_are_refused() -> None:
    empty = labelled()
    empty[5] = torch.nan
    with pytest.raises(ValueError, match="two images, each with a sample"):
        Bank(empty, GROUPS)
    with pytest.raises(ValueError, match="two images"):
        Bank(labelled()[:1], GROUPS[:1])


@pytest.mark.parametrize("name", SOURCES)
def test_support_and_query_never_share_a_physical_part(name: str) -> None:
    seen = set()
    for support, query, _ in tasks(SOURCES[name], 150):
        parts = [set(GROUPS[channel(s, IMAGE)].tolist()) for s in (support, query)]
        assert parts[0] and parts[1] and not parts[0] & parts[1]
        seen.add(frozenset(parts[0]))
    assert len(seen) > 10


@pytest.mark.parametrize("name", SOURCES)
def test_the_samples_of_a_task_are_those_at_the_returned_places(name: str) -> None:
    for support, query, _ in tasks(SOURCES[name], 20):
        for samples in (support, query):
            assert torch.equal(channel(samples, VIEW), samples.views)
            assert torch.equal(channel(samples, POSITION), samples.positions)
            pairs = torch.stack([samples.images, channel(samples, IMAGE)], 1).unique(dim=0)
            assert len(pairs) == len(samples.images.unique()) == len(pairs[:, 1].unique())


def test_a_task_is_drawn_from_as_many_images_as_asked_for() -> None:
    for support, query, rate in tasks(Bootstrap(bank(), 2), 30):
        assert len(channel(support, IMAGE).unique()) == 2
        assert len(channel(query, IMAGE).unique()) <= 2
        assert len(support.values) == 12 and len(query.values) == 8 and rate == 0


def test_images_of_a_single_part_are_halved_one_by_one() -> None:
    groups = torch.zeros(7, dtype=torch.long)
    seen = set()
    for seed in range(40):
        first, second = halves(groups, seeded(seed))
        assert sorted([*first.tolist(), *second.tolist()]) == list(range(7))
        assert len(first) == 4
        seen.add(tuple(first.tolist()))
    assert len(seen) > 15
    source = Bootstrap(Bank(labelled(), torch.full((IMAGES,), 8)), 6)
    for support, query, _ in tasks(source, 20):
        assert not set(channel(support, IMAGE).tolist()) & set(channel(query, IMAGE).tolist())


def test_halves_hold_every_image_once_and_half_of_the_parts() -> None:
    for seed in range(40):
        first, second = halves(GROUPS, seeded(seed))
        assert sorted([*first.tolist(), *second.tolist()]) == list(range(IMAGES))
        assert [len(GROUPS[h].unique()) for h in (first, second)] == [3, 3]


def test_some_images_are_different_ones_and_all_where_there_are_fewer() -> None:
    images = torch.tensor([3, 5, 8, 9])
    drawn = [some(images, 2, seeded(s)).tolist() for s in range(40)]
    assert all(len(set(d)) == 2 and set(d) <= {3, 5, 8, 9} for d in drawn)
    assert len({frozenset(d) for d in drawn}) == 6
    assert sorted(some(images, 9, seeded()).tolist()) == [3, 5, 8, 9]


def same(a: Task, b: Task) -> bool:
    parts = [*zip(a[0], b[0], strict=True), *zip(a[1], b[1], strict=True), (a[2], b[2])]
    return all(torch.equal(x, y) for x, y in parts)


@pytest.mark.parametrize("name", SOURCES)
def test_equal_seeds_draw_equal_episodes_and_others_others(name: str) -> None:
    batches = EpisodeBatches(SOURCES[name], 3, 60)
    one, again, other = (batches.draw(seeded(s), 1) for s in (4, 4, 5))
    assert same(one, again)
    assert not torch.equal(one.support.values, other.support.values)
    assert not torch.equal(one.query.values, other.query.values)


def test_the_tasks_of_a_step_differ() -> None:
    drawn = EpisodeBatches(Bootstrap(bank(), 4), 4, 160).draw(seeded(), 1)
    assert len({tuple(v.flatten().tolist()) for v in drawn.support.values}) == 4


def test_spoiling_rates_differ_within_a_step_and_stay_below_the_largest() -> None:
    rates = EpisodeBatches(pseudo(max_rate=0.4), 200, 4000).draw(seeded(), 1).rates
    assert rates.shape == (200,) and len(rates.unique()) > 190
    assert rates.min() >= 0 and rates.max() <= 0.4
    assert rates.min() < 0.05 and rates.max() > 0.35
    assert float(rates.mean()) == pytest.approx(0.2, abs=0.03)


def test_supports_are_spoiled_image_by_image_at_their_rate_and_queries_never() -> None:
    shares, rates = [], []
    for support, query, rate in tasks(pseudo(max_rate=1.0), 400, support=24):
        corrupted = channel(support, SPOILED)
        for image in support.images.unique():
            assert len(corrupted[support.images == image].unique()) == 1
        assert not channel(query, SPOILED).any()
        shares.append(corrupted.float().mean())
        rates.append(rate)
    share, asked = torch.stack(shares), torch.stack(rates)
    assert float((share - asked).mean()) == pytest.approx(0, abs=0.04)
    for low in (0.0, 0.25, 0.5, 0.75):
        within = (asked >= low) & (asked < low + 0.25)
        assert float(share[within].mean()) == pytest.approx(low + 0.125, abs=0.08)


def test_a_largest_rate_of_zero_spoils_nothing() -> None:
    for support, _, rate in tasks(pseudo(max_rate=0.0), 30):
        assert not channel(support, SPOILED).any() and rate == 0


def test_queries_come_from_trusted_images_only() -> None:
    seen = set()
    for support, query, _ in tasks(pseudo(), 100):
        assert TRUSTED[channel(query, IMAGE)].all()
        seen |= set(channel(support, IMAGE).tolist())
    assert seen == set(range(IMAGES))  # supports from all of them


@pytest.mark.parametrize("only", range(IMAGES))
def test_queries_come_from_the_one_trusted_image_whichever_half_it_falls_into(only: int) -> None:
    trusted = torch.arange(IMAGES) == only
    for support, query, _ in tasks(pseudo(trusted), 12):
        assert (channel(query, IMAGE) == only).all()
        assert not (GROUPS[channel(support, IMAGE)] == GROUPS[only]).any()


def test_pseudo_noise_without_trusted_images_or_spoiled_copies_is_refused() -> None:
    with pytest.raises(ValueError, match="one must be trusted"):
        pseudo(torch.zeros(IMAGES, dtype=torch.bool))
    with pytest.raises(ValueError, match="a copy with a defect"):
        replace(pseudo(), corrupted=Bank(labelled(8), GROUPS[:8]))


def test_each_task_is_of_one_category_and_every_category_is_drawn() -> None:
    counts = torch.zeros(3)
    for support, query, _ in tasks(cross(), 150):
        drawn = torch.cat([channel(support, CATEGORY), channel(query, CATEGORY)]).unique()
        assert len(drawn) == 1
        counts[drawn] += 1
    assert counts.min() > 30


@pytest.mark.parametrize(
    ("count", "size", "world", "drawn", "each"),
    [
        (4, 64, 1, 4, 8),
        (4, 64, 2, 2, 8),
        (4, 64, 4, 1, 8),
        (4, 64, 8, 1, 8),
        (3, 64, 2, 1, 10),
        (4, 3, 1, 4, 1),
    ],
)
def test_the_samples_of_a_step_are_shared_by_tasks_halves_and_ranks(
    count: int, size: int, world: int, drawn: int, each: int
) -> None:
    episodes = EpisodeBatches(Bootstrap(bank(), 4), count, size).draw(seeded(), world)
    for samples in (episodes.support, episodes.query):
        assert samples.values.shape == (drawn, each, 5)
        for part in (samples.positions, samples.images, samples.views):
            assert part.shape == (drawn, each) and part.dtype == torch.long
    assert episodes.rates.shape == (drawn,)


@pytest.mark.parametrize(("length", "share", "changed"), [(40, 0.1, 4), (40, 0.5, 20), (7, 0.1, 1)])
def test_spoiling_changes_the_asked_share_of_every_images_positions(
    length: int, share: float, changed: int
) -> None:
    samples = torch.zeros(20, 2, length, 6)
    made = corrupt(samples, seeded(), share)
    differs = (made != samples).all(-1)
    assert torch.equal(differs, (made != samples).any(-1))
    assert (differs.sum(2) == changed).all()
    assert torch.equal(differs[:, 0], differs[:, 1])  # a defect is where it is in every view
    assert len(differs[:, 0].unique(dim=0)) > 5
    assert not samples.any()


def test_spoiling_adds_noise_of_the_asked_scale() -> None:
    samples = 5 + torch.zeros(30, 2, 50, 6)
    made = corrupt(samples, seeded(), share=0.5, scale=3.0)
    added = (made - samples)[made != samples]
    assert float(added.std()) == pytest.approx(3, rel=0.05)
    assert float(added.mean()) == pytest.approx(0, abs=0.1)


def test_spoiling_keeps_the_type_the_holes_and_changes_all_where_there_is_one_position() -> None:
    made = corrupt(labelled(), seeded())
    assert made.dtype == torch.half
    assert torch.equal(made.isnan(), labelled().isnan())
    pooled = corrupt(torch.zeros(9, 2, 1, 4), seeded())
    assert (pooled != 0).all()


# Trusted queries, suspects at their end


def test_queries_end_with_odd_samples_of_doubted_images_and_nothing_else_holds_them() -> None:
    source = trusting()
    assert source.exposed(8) == 2
    seen = set()
    for support, query, rate in tasks(source, 100):
        assert len(support.values) == 12 and len(query.values) == 8 and rate == 0
        assert channel(query, SPOILED).tolist() == [0] * 6 + [1] * 2
        assert not channel(support, SPOILED).any()
        assert DOUBTED[channel(query, IMAGE)[-2:]].all()
        assert not DOUBTED[channel(query, IMAGE)[:-2]].any()  # suspicion 1: never queried
        assert not set(query.images[:-2].tolist()) & set(query.images[-2:].tolist())
        seen |= set(channel(support, IMAGE).tolist())
    assert seen == set(range(IMAGES))  # supports from all images, as noisy as they are


@pytest.mark.parametrize("only", range(IMAGES))
def test_one_doubted_image_is_pushed_away_whichever_half_it_falls_into(only: int) -> None:
    doubt = (torch.arange(IMAGES) == only).float()
    for support, query, _ in tasks(trusting(doubt=doubt), 12):
        assert (channel(query, IMAGE)[-2:] == only).all()
        assert not (GROUPS[channel(support, IMAGE)] == GROUPS[only]).any()


def test_images_are_queried_by_what_is_believed_and_pushed_by_what_is_doubted() -> None:
    doubt = torch.tensor([0.1, 0.9]).repeat(6)
    source = replace(
        trusting(), suspicion=doubt, doubt=doubt, images=1,
        bank=Bank(labelled(), torch.arange(IMAGES)),
    )  # fmt: skip
    judged, pushed = torch.zeros(2), torch.zeros(2)
    for _, query, _ in tasks(source, 500):
        judged += (channel(query, IMAGE)[:1] % 2).bincount(minlength=2)
        pushed += (channel(query, IMAGE)[-1:] % 2).bincount(minlength=2)
    assert float(judged[0] / judged.sum()) == pytest.approx(0.9, abs=0.06)
    assert float(pushed[1] / pushed.sum()) == pytest.approx(0.9, abs=0.06)


def test_without_odd_samples_all_of_a_query_is_believed() -> None:
    source = replace(trusting(), outliers=None)
    assert source.exposed(8) == 0
    for _, query, _ in tasks(source, 30):
        assert len(query.values) == 8 and not channel(query, SPOILED).any()
        assert not DOUBTED[channel(query, IMAGE)].any()


@pytest.mark.parametrize(
    ("share", "query", "count"),
    [(0.25, 8, 2), (0.2, 128, 26), (0.9, 8, 7), (0.9, 2, 1), (0.5, 1, 0), (0.1, 4, 0)],
)
def test_a_share_of_the_query_is_pushed_away_and_never_all(
    share: float, query: int, count: int
) -> None:
    source = replace(trusting(), share=share)
    assert source.exposed(query) == count
    _, drawn, _ = source.draw_task(4, query, seeded())
    assert channel(drawn, SPOILED).tolist() == [0] * (query - count) + [1] * count


def test_the_pushed_samples_of_a_step_are_marked_and_of_no_other_source() -> None:
    drawn = EpisodeBatches(trusting(), 3, 48).draw(seeded(), 1)
    assert drawn.exposed.dtype == torch.bool and drawn.exposed.shape == (3, 8)
    assert torch.equal(drawn.exposed, channel(drawn.query, SPOILED).bool())
    assert drawn.exposed.sum(1).tolist() == [2, 2, 2]
    for name, source in SOURCES.items():
        pushed = EpisodeBatches(source, 3, 48).draw(seeded(), 1).exposed
        assert pushed.shape == (3, 8) and pushed.any().item() is (name == "trusted")


def test_odd_samples_need_their_images_and_a_doubt() -> None:
    with pytest.raises(ValueError, match="one must be suspicious"):
        trusting(doubt=torch.zeros(IMAGES))
    with pytest.raises(ValueError, match="every image needs samples to push away"):
        replace(trusting(), outliers=Bank(labelled(8), GROUPS[:8]))


def test_weighted_images_are_different_ones_drawn_by_their_weight() -> None:
    images, weights = torch.tensor([3, 5, 8, 9]), torch.tensor([0.0, 1.0, 8.0, 1.0])
    drawn = [weighted(images, weights, 2, seeded(s)).tolist() for s in range(200)]
    assert all(len(set(d)) == 2 and 3 not in d for d in drawn)
    assert sum(8 in d for d in drawn) > 180
    assert sorted(weighted(images, weights, 9, seeded()).tolist()) == [5, 8, 9]
    assert sorted(weighted(images, torch.zeros(4), 9, seeded()).tolist()) == [3, 5, 8, 9]
    assert len(weighted(images, torch.zeros(4), 2, seeded())) == 2
