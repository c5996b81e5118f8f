from dataclasses import replace

import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor
from torch import Generator, Tensor

from rad_lightning.evaluation.evaluate import score
from rad_lightning.flows.heads import Head, HeadSpec
from rad_lightning.robust import memories
from rad_lightning.robust.memories import (
    MemoryHead,
    core_set,
    draw_memories,
    local_outlier_factors,
    lof_head,
    nearest,
    sparse_head,
    sparse_memories,
)

SPEC = HeadSpec(
    grid=(3, 4), inputs=6, channels=5, blocks=2, hidden=8, clamp=2.0, position_dims=0,
    top_fraction=0.25, score="nll", seed=1,
)  # fmt: skip
POOLED = replace(SPEC, grid=(1, 1))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def stream(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def padded(samples: Tensor) -> Tensor:
    """The last column of a grid of 12 shows nothing, in every second image nor does position 1."""
    samples = samples.clone()
    samples[:, :, 3::4] = torch.nan
    samples[::2, :, 1] = torch.nan
    return samples


# Sparse memories


def by_hand(samples: Tensor, drawn: list[tuple[Tensor, Tensor]]) -> Tensor:
    expected = torch.full(samples.shape[:3], torch.nan)
    for place in torch.cartesian_prod(*map(torch.arange, samples.shape[:3])).tolist():
        n, v, at = place
        distances = [
            min(float((samples[n, v, at].float() - m).norm()) for m in memory)
            for memory, inside in drawn
            if not inside[n]
        ]
        expected[n, v, at] = sum(distances) / len(distances)
    return expected


@pytest.mark.parametrize("half", [False, True])
def test_distances_are_those_of_a_search_by_hand(half: bool) -> None:
    samples, groups = padded(noise(9, 2, 12, 5)), torch.arange(9) // 2
    samples = samples.half() if half else samples
    found = sparse_memories(samples, groups, 3, 0.4, stream(), per_image=7)
    drawn = draw_memories(samples, groups, 3, 0.4, stream(), per_image=7)
    torch.testing.assert_close(found, by_hand(samples, drawn), equal_nan=True)
    assert torch.equal(found.isnan(), samples[..., 0].isnan())


@pytest.mark.parametrize("per_image", [7, 1000])
def test_a_memory_holds_samples_of_one_image_of_each_of_its_parts(per_image: int) -> None:
    groups = torch.tensor([5, 5, 5, -2, 8, 8, 7, 7, 7, 7])
    samples = padded(torch.arange(10 * 24).view(10, 2, 12, 1) + torch.zeros(5))
    seen = []
    for memory, inside in draw_memories(samples, groups, 40, 0.5, stream(), per_image):
        assert memory.isfinite().all() and len(memory.unique(dim=0)) == len(memory)
        images, counts = (memory[:, 0] // 24).long().unique(return_counts=True)
        assert len(images) == 2 == len(groups[images].unique())
        assert torch.equal(inside, torch.isin(groups, groups[images]))
        valid = (~samples[images, ..., 0].isnan()).flatten(1).sum(1)
        assert torch.equal(counts, valid.clamp(max=per_image))
        seen += images.tolist()
    assert set(seen) == set(range(10))


def test_a_copy_is_found_in_another_part_and_not_in_the_same() -> None:
    samples = noise(6, 1, 12, 5)
    samples[1] = samples[0]
    apart, same = torch.arange(6), torch.tensor([0, 0, 1, 2, 3, 4])
    # Memories of all other images, whole.
    found = sparse_memories(samples, apart, 6, 1.0, stream(), per_image=12)
    assert torch.equal(found[:2], torch.zeros(2, 1, 12)) and found[2:].min() > 0.1
    assert sparse_memories(samples, same, 6, 1.0, stream(), per_image=12).min() > 0.1


@pytest.mark.parametrize("groups", [[0, 0, 0, 4, 4], [3, 3, 3, 3, 3], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 4])
def test_every_image_is_measured_by_a_memory_without_its_part(
    groups: list[int], share: float, count: int
) -> None:
    samples, parts = noise(5, 1, 12, 5), torch.tensor(groups)
    assert sparse_memories(samples, parts, count, share, stream()).isfinite().all()
    drawn = draw_memories(samples, parts, count, share, stream(), 64)
    inside = torch.stack([x for _, x in drawn])
    assert inside.any(1).all() and not inside.all(1).any() and not inside.all(0).any()
    assert count <= len(drawn) <= count + 5  # each further one covers a part


def test_images_of_a_single_part_are_measured_by_each_other() -> None:
    samples = noise(4, 1, 12, 5)
    one = sparse_memories(samples, torch.full((4,), 9), 4, 0.5, stream())
    assert torch.equal(one, sparse_memories(samples, torch.arange(4), 4, 0.5, stream()))


def test_memories_hang_on_the_generator_alone() -> None:
    samples, groups = noise(12, 1, 12, 5), torch.arange(12)
    found = [sparse_memories(samples, groups, 2, 0.2, stream(s), 3) for s in (0, 0, 1)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_memories_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, groups = padded(noise(9, 2, 12, 5)), torch.arange(9)
    whole = sparse_memories(samples, groups, 3, 0.4, stream())
    monkeypatch.setattr(memories, "CELLS", {"cpu": 500})
    again = sparse_memories(samples, groups, 3, 0.4, stream())
    torch.testing.assert_close(again, whole, equal_nan=True)


def test_an_image_that_shows_nothing_is_in_no_memory_and_measured_nowhere() -> None:
    samples = noise(5, 1, 12, 5)
    samples[2] = torch.nan
    found = sparse_memories(samples, torch.arange(5), 4, 0.5, stream())
    assert found[2].isnan().all() and found[[0, 1, 3, 4]].isfinite().all()


def test_values_beyond_half_precision_are_infinitely_far_and_in_no_memory() -> None:
    samples = noise(5, 1, 12, 5)
    samples[2, 0, 3, 1] = torch.inf
    found = sparse_memories(samples, torch.arange(5), 4, 0.8, stream(), per_image=12)
    assert found.isinf().nonzero().tolist() == [[2, 0, 3]] and not found.isnan().any()


def test_positions_make_neighbours_near_in_place() -> None:
    # The images are alike, their left and right half swapped.
    values = noise(12, 5)
    samples = torch.stack((values, values.roll(6, 0)))[:, None]
    places = torch.arange(12)[:, None] // 6 * 3.0
    near = sparse_memories(samples, torch.arange(2), 2, 0.5, stream(), 12)
    torch.testing.assert_close(near, torch.zeros(2, 1, 12))
    near = sparse_memories(samples, torch.arange(2), 2, 0.5, stream(), 12, places)
    assert near.min() > 0.5 and near.max() <= 3


def test_fewer_than_two_images_have_no_memories() -> None:
    for samples in (noise(1, 1, 12, 5), torch.full((3, 1, 12, 5), torch.nan), noise(0, 1, 12, 5)):
        with pytest.raises(ValueError, match=r"memories need at least 2 images, got [01]$"):
            sparse_memories(samples, torch.arange(len(samples)), 4, 0.5, stream())


def test_a_planted_image_lies_farther_from_sparse_memories_than_any_other() -> None:
    samples = noise(30, 1, 12, 5)
    samples[7, :, :4] += 3
    found = sparse_memories(samples, torch.arange(30), 8, 0.15, stream()).mean((1, 2))
    assert found.argmax() == 7


def test_nearest_finds_small_distances_between_large_values() -> None:
    memory = 1000 + noise(50, 5)
    distance, index = nearest(memory[[3, 30]] + 1e-3, memory)
    assert index.tolist() == [3, 30] and distance.max() < 4e-3


# Local outlier factors


def naive_factors(points: Tensor, neighbours: int) -> list[float]:
    """Breunig et al., definitions 3 to 7, of ``(m, D)``."""
    m = len(points)
    if m == 1:
        return [1.0]
    k = min(neighbours, m - 1)
    distance = [[float((p - q).norm()) for q in points] for p in points]
    near = [
        sorted((j for j in range(m) if j != i), key=distance[i].__getitem__)[:k] for i in range(m)
    ]
    k_distance = [distance[i][near[i][-1]] for i in range(m)]
    density = [k / sum(max(k_distance[j], distance[i][j]) for j in near[i]) for i in range(m)]
    return [sum(density[j] for j in near[i]) / k / density[i] for i in range(m)]


def naive_of_all(samples: Tensor, neighbours: int) -> Tensor:
    expected = torch.full(samples.shape[:3], torch.nan, dtype=torch.double)
    for at in range(samples.shape[2]):
        valid = ~samples[:, :, at, 0].isnan()
        factors = naive_factors(samples[:, :, at][valid].double(), neighbours)
        expected[:, :, at][valid] = torch.tensor(factors, dtype=torch.double)
    return expected.float()


@pytest.mark.parametrize("neighbours", [1, 3, 6, 50])
@pytest.mark.parametrize("shape", [(8, 1, 12, 5), (5, 4, 1, 5), (2, 1, 4, 5)])
def test_factors_are_those_of_the_definition(
    neighbours: int, shape: tuple[int, int, int, int]
) -> None:
    samples = noise(*shape) * (1 + torch.arange(shape[2]))[:, None]
    found = local_outlier_factors(samples, neighbours)
    torch.testing.assert_close(found, naive_of_all(samples, neighbours), rtol=1e-4, atol=1e-4)


def scikit_learns(samples: Tensor, neighbours: int) -> Tensor:
    """Position by position; it asks for fewer neighbours than there are points, and for two."""
    expected = torch.full(samples.shape[:3], torch.nan, dtype=torch.double)
    for at in range(samples.shape[2]):
        valid = samples[:, :, at].isfinite().all(2)
        points = samples[:, :, at][valid].double()
        if len(points) > 1:
            lof = LocalOutlierFactor(n_neighbors=min(neighbours, len(points) - 1))
            lof.fit(points.numpy())
            expected[:, :, at][valid] = torch.from_numpy(-lof.negative_outlier_factor_)
    return expected.float()


@pytest.mark.parametrize("neighbours", [1, 2, 6, 20, 500])
@pytest.mark.parametrize(
    "shape", [(2, 1, 3, 5), (30, 1, 6, 2), (12, 4, 1, 7), (40, 3, 4, 16), (200, 2, 1, 32)], ids=str
)
def test_factors_are_scikit_learns(neighbours: int, shape: tuple[int, int, int, int]) -> None:
    samples = noise(*shape)
    samples[0] += 2 * torch.arange(shape[2])[:, None]  # from an inlier to a far outlier
    samples[1] *= 0.1
    found = local_outlier_factors(samples, neighbours)
    torch.testing.assert_close(found, scikit_learns(samples, neighbours), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("neighbours", [1, 4, 20])
def test_factors_are_scikit_learns_where_places_show_nothing(neighbours: int) -> None:
    samples = padded(noise(20, 2, 12, 5))
    samples[:7, 1] = torch.nan  # a view alone
    samples[3:, :, 6] = torch.nan  # fewer samples than neighbours
    samples[9, 0, 8, 2] = torch.nan  # a single feature
    found = local_outlier_factors(samples, neighbours)
    expected = scikit_learns(samples, neighbours)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert found[9, 0, 8].isnan() and found[:3, 0, 6].isfinite().all()


ANGLES = torch.arange(12) * torch.pi / 6
# Ties where it does not matter which of them is a neighbour: all are, or all have equal densities.
TIED = {
    "line": (torch.arange(12.0)[:, None], (2, 4, 6, 11)),
    "circle": (torch.stack((ANGLES.cos(), ANGLES.sin()), 1), (2, 4, 11)),
    "corners": (torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4), (1, 3, 4, 7, 15)),
    "pairs": (torch.tensor([0.0, 1, 10, 11, 30, 31, 34, 35])[:, None], (1, 3, 7)),
    "copies": (torch.tensor([0.0, 0, 0, 1, 1, 1, 5, 5, 5, 6])[:, None], (3, 5, 9)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "neighbours"), [(kind, k) for kind, (_, several) in TIED.items() for k in several]
)
@pytest.mark.parametrize("views", [1, 2])
def test_factors_are_scikit_learns_where_distances_tie(
    kind: str, neighbours: int, views: int
) -> None:
    points = TIED[kind][0]
    samples = points.view(-1, views, 1, points.shape[1])
    found = local_outlier_factors(samples, neighbours)
    torch.testing.assert_close(found, scikit_learns(samples, neighbours), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cells", [1, 40, 10**6])
def test_factors_with_places_without_image_in_whatever_chunks(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memories, "CELLS", {"cpu": cells})
    samples = padded(noise(9, 2, 12, 5))
    samples[1:, :, 6] = torch.nan  # one image and two views remain
    samples[1:, :, 8], samples[0, 0, 8] = torch.nan, torch.nan  # a lone sample
    found = local_outlier_factors(samples, 4)
    expected = naive_of_all(samples, 4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert found[0, 1, 8] == 1


def test_copies_do_not_make_their_neighbours_weigh_without_bound() -> None:
    samples = noise(40, 1, 4, 5)
    samples[:20] = samples[0]
    samples[20] = samples[0] + 0.01
    found = local_outlier_factors(samples, 6)
    assert found.isfinite().all() and found.max() < 500
    alike = local_outlier_factors(torch.ones(9, 1, 4, 5), 3)
    torch.testing.assert_close(alike, torch.ones(9, 1, 4))


def with_outlier(count: int = 40) -> Tensor:
    """Image 7 has a defect on a quarter of its positions."""
    samples = noise(count, 1, 12, 5)
    samples[7, :, :3] += 12
    return samples


def test_the_outlying_samples_are_dropped() -> None:
    samples = with_outlier()
    highest = local_outlier_factors(samples, 6).flatten().topk(3).indices
    assert set(highest.tolist()) == {84, 85, 86}  # of image 7
    dropped = lof_head(Head(SPEC), samples, 1.0, 6, 3.1 / 480, stream()).banks[0]
    assert len(dropped) == 477 and dropped.mean(1).max() < 6
    kept = lof_head(Head(SPEC), samples, 1.0, 6, 0.0, stream()).banks[0]
    assert len(kept) == 480 and (kept.mean(1) > 6).sum() == 3


def test_outlying_samples_that_stay_count_as_far_by_their_weight() -> None:
    samples = with_outlier()
    head = lof_head(Head(SPEC), samples, 1.0, 6, 0.0, stream())
    bank, weight = head.banks[0], head.weights[0]
    outlying = bank.mean(1) > 6
    assert weight[outlying].min() > 2 * weight[~outlying].max()
    near_defect, near_normal = samples[7, :, :1] + 0.2, samples[8, :, :1] + 0.2
    found = head.position_scores(torch.cat((near_defect, near_normal)).repeat(1, 12, 1)[:, None])
    assert found[0, 0, 0, 0] > 2 * found[1, 0, 0, 0]


def test_a_score_is_the_distance_times_the_weight_of_the_nearest() -> None:
    head = lof_head(Head(SPEC), noise(20, 1, 12, 5).half(), 0.3, 6, 0.15, stream())
    (bank,), (weight,) = head.banks, head.weights
    assert len(bank) == 62  # 0.3 of 204, rounded up
    query = noise(2, 1, 12, 5, seed=1)
    distance = (query.view(-1, 1, 5) - bank).norm(dim=2)
    expected = distance.amin(1) * weight[distance.argmin(1)]
    torch.testing.assert_close(head.position_scores(query), expected.view(2, 1, 3, 4))


def test_weights_are_the_factors_of_their_samples() -> None:
    samples = padded(noise(20, 1, 12, 5))
    factors = local_outlier_factors(samples, 6).flatten()
    head = lof_head(Head(SPEC), samples, 0.3, 6, 0.15, stream())
    distance, index = nearest(head.banks[0], samples.flatten(0, 2).nan_to_num(nan=1e4))
    assert distance.max() == 0 and torch.equal(head.weights[0], factors[index])
    assert head.weights[0].max() <= factors[~factors.isnan()].quantile(0.86)


def test_a_core_set_takes_the_farthest_next() -> None:
    line = torch.tensor([0.0, 1.0, 2.0, 3.5, 10.0])[:, None]
    for seed in range(20):
        chosen = core_set(line, 5, stream(seed)).tolist()
        assert sorted(chosen) == list(range(5))
        for i in range(1, 5):
            away = (line - line[chosen[:i]].T).abs().amin(1)
            assert away[chosen[i]] == away.max()
    assert len({int(core_set(line, 1, stream(seed))) for seed in range(20)}) > 1


def test_a_core_set_of_copies_chooses_none_twice() -> None:
    assert core_set(torch.ones(50, 5) / 3, 50, stream()).unique().tolist() == list(range(50))


def test_a_core_set_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memories, "CANDIDATES", 30)
    monkeypatch.setattr(memories, "KEPT", 20)
    assert len(lof_head(Head(SPEC), noise(20, 1, 12, 5), 0.5, 6, 0.1, stream()).banks[0]) == 20


def test_fewer_than_two_images_have_no_outlier_factors() -> None:
    for samples in (noise(1, 1, 12, 5), torch.full((3, 1, 12, 5), torch.nan), noise(0, 1, 12, 5)):
        with pytest.raises(ValueError, match=r"factors need at least 2 images, got [01]$"):
            lof_head(Head(SPEC), samples, 0.1, 6, 0.15, stream())


@pytest.mark.parametrize("drop", [0.0, 0.9])
@pytest.mark.parametrize("coreset", [1e-9, 1.0])
def test_two_images_are_enough(drop: float, coreset: float) -> None:
    head = lof_head(Head(POOLED), noise(2, 1, 1, 5), coreset, 6, drop, stream())
    assert head.position_scores(noise(3, 1, 1, 5)).isfinite().all()


# Heads


def build(form: str, head: Head, samples: Tensor, seed: int = 0) -> MemoryHead:
    if form == "sparse":
        return sparse_head(head, samples, torch.arange(len(samples)), 8, 0.15, stream(seed))
    return lof_head(head, samples, 0.1, 6, 0.15, stream(seed))


@pytest.mark.parametrize("form", ["sparse", "lof"])
@pytest.mark.parametrize("spec", [SPEC, POOLED])
def test_scores_tell_planted_anomalies_and_take_the_place_of_a_heads(
    form: str, spec: HeadSpec
) -> None:
    views, length = (1, 12) if spec is SPEC else (4, 1)
    head = build(form, Head(spec), noise(60, views, length, 5).half())
    test = noise(130, views, length, 5, seed=1).half()  # more than are scored at once
    test[::10, :, :3] += 6
    images, positions = score(head, test)  # type: ignore[arg-type]
    assert images.shape == (130,) and positions.shape == (130, views, *spec.grid)
    planted = torch.zeros(130, dtype=torch.bool)
    planted[::10] = True
    assert images[planted].min() > images[~planted].max()
    if spec is SPEC:
        assert (positions[::10, 0].flatten(1)[:, :3] > positions[1::10].max()).all()
    assert score(head, test[:0])[1].shape == (0, views, *spec.grid)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["sparse", "lof"])
def test_padding_scores_nan_and_overflow_infinity(form: str) -> None:
    head = build(form, Head(SPEC), padded(noise(20, 1, 12, 5)))
    test = padded(noise(4, 1, 12, 5, seed=1))
    test[1, 0, 5, 2] = torch.inf
    test[3, 0, 5, 2] = torch.nan  # diverged, but not padding
    found = head.position_scores(test).flatten(2)
    assert torch.equal(found.isnan(), test[..., 0].isnan())
    assert found.isinf().nonzero().tolist() == [[1, 0, 5], [3, 0, 5]]


def test_sparse_scores_are_the_mean_over_all_memories() -> None:
    samples, test = noise(20, 1, 12, 5), noise(2, 1, 12, 5, seed=1)
    head = build("sparse", Head(SPEC), samples)
    assert [len(bank) for bank in head.banks] == [3 * 12] * 8
    distances = [torch.cdist(test.view(-1, 5), bank).amin(1) for bank in head.banks]
    expected = torch.stack(distances).mean(0).view(2, 1, 3, 4)
    torch.testing.assert_close(head.position_scores(test), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["sparse", "lof"])
def test_heads_hang_on_the_generator_alone(form: str) -> None:
    samples, test = noise(20, 1, 12, 5), noise(2, 1, 12, 5, seed=1)
    found = [build(form, Head(SPEC), samples, s).position_scores(test) for s in (0, 0, 1)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_memory_head_is_otherwise_the_head_it_is_built_around() -> None:
    head = Head(SPEC)
    head.whitening.fit(noise(100, 6) * 3 + 1)
    built = build("lof", head, head.embed(noise(20, 1, 6, 3, 4)))
    features, positions = noise(3, 1, 6, 3, 4, seed=1), noise(3, 1, 3, 4)
    assert built.spec is head.spec and built.whitening is head.whitening
    assert torch.equal(built.embed(features), head.embed(features))
    assert torch.equal(built.image_scores(positions), head.image_scores(positions))


def test_memories_move_with_the_head() -> None:
    built = build("sparse", Head(SPEC), noise(20, 1, 12, 5)).to("meta")
    assert {x.device.type for x in (*built.banks, *built.weights, built.whitening.mean)} == {"meta"}
