from copy import deepcopy
from dataclasses import astuple, replace

import pytest
import torch
from torch import Generator, Tensor

from rad_lightning.flows.coupling import nll
from rad_lightning.flows.heads import Head, HeadSpec
from rad_lightning.robust.contamination import Contamination, contamination, deviations
from rad_lightning.robust.trusted import (
    OutOfFold,
    central_images,
    fold_of,
    gaussian_scores,
    part_means,
    part_weights,
    ranks,
)

SPEC = HeadSpec(
    grid=(3, 4), inputs=5, channels=5, blocks=2, hidden=8, clamp=2.0, position_dims=4,
    top_fraction=0.5, score="nll", seed=1,
)  # fmt: skip
OUTLIERS = torch.tensor([3, 17, 64, 65, 128])


def stream(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def planted(count: int = 130, views: int = 2) -> Tensor:
    """White samples ``(N, V, L, D)``; the outliers have a defect on a quarter of their positions.

    More images than are scored at once, outliers on both sides of the border.
    """
    samples = torch.randn(count, views, 12, 5, generator=torch.Generator().manual_seed(0))
    samples[OUTLIERS, :, :3] += 4
    return samples.half()


def test_planted_outliers_are_the_images_that_are_not_trusted() -> None:
    trusted = central_images(Head(SPEC), planted(), 125 / 130)
    assert trusted.dtype == torch.bool and trusted.shape == (130,)
    assert (~trusted).nonzero()[:, 0].tolist() == OUTLIERS.tolist()


def test_the_trusted_images_are_those_nearest_to_the_centre() -> None:
    near = torch.linspace(0.1, 3, 20)[torch.randperm(20, generator=torch.Generator())]
    samples = near[:, None, None, None] * torch.ones(20, 1, 12, 5)
    trusted = central_images(Head(SPEC), samples, 0.25)
    assert trusted.sum() == 5 and near[trusted].max() < near[~trusted].min()


@pytest.mark.parametrize(
    ("fraction", "count"), [(0.5, 65), (1.0, 130), (0.01, 2), (1e-9, 1), (0.6, 78)]
)
def test_the_asked_share_is_trusted_and_at_least_one_image(fraction: float, count: int) -> None:
    assert central_images(Head(SPEC), planted(), fraction).sum() == count


def test_places_without_image_say_nothing() -> None:
    samples = planted()
    samples[:, :, 8:] = torch.nan
    samples[::2, :, 5] = torch.nan
    trusted = central_images(Head(SPEC), samples, 125 / 130)
    assert (~trusted).nonzero()[:, 0].tolist() == OUTLIERS.tolist()


# Ranks, parts, folds


def test_ranks_are_shares_and_ties_share_the_lower_one() -> None:
    found = ranks(torch.tensor([[5.0, 1.0, 3.0, 3.0], [2.0, 2.0, 2.0, 2.0]]))
    assert found.tolist() == [[0.75, 0.0, 0.25, 0.25], [0.0, 0.0, 0.0, 0.0]]


def test_nan_has_no_rank_and_is_not_counted() -> None:
    found = ranks(torch.tensor([4.0, torch.nan, 1.0, 2.0, torch.nan, 3.0]))
    expected = torch.tensor([0.75, torch.nan, 0.0, 0.25, torch.nan, 0.5])
    torch.testing.assert_close(found, expected, equal_nan=True)
    rows = torch.tensor([[3.0, torch.nan, torch.nan, 5.0], [1.0, 2.0, 3.0, torch.nan]])
    expected = torch.tensor([[0.0, -1.0, -1.0, 0.5], [0.0, 1 / 3, 2 / 3, -1.0]])
    torch.testing.assert_close(ranks(rows).nan_to_num(-1.0), expected)
    assert ranks(torch.full((2, 3), torch.nan)).isnan().all()


def test_infinite_values_rank_at_the_ends_and_below_one() -> None:
    found = ranks(torch.tensor([torch.inf, 1.0, -torch.inf, torch.inf, torch.nan]))
    torch.testing.assert_close(
        found, torch.tensor([0.5, 0.25, 0.0, 0.5, torch.nan]), equal_nan=True
    )


def test_a_part_shares_the_mean_of_its_images() -> None:
    found = part_means(torch.tensor([1.0, 2.0, 4.0, 6.0, 9.0]), torch.tensor([7, -1, 7, 7, 3]))
    torch.testing.assert_close(found, torch.tensor([11 / 3, 2.0, 11 / 3, 11 / 3, 9.0]))


def test_every_part_has_one_vote_in_all() -> None:
    groups = torch.tensor([7, -1, 7, 7, 3, 3])
    found = part_weights(groups)
    assert float(found.mean()) == pytest.approx(1)
    votes = torch.stack([found[groups == g].sum() for g in (-1, 3, 7)])
    torch.testing.assert_close(votes, torch.full((3,), 2.0))
    assert len(found[groups == 7].unique()) == 1


def test_images_of_a_single_part_count_as_parts() -> None:
    groups, values = torch.full((6,), 4), torch.arange(6.0)
    assert torch.equal(part_means(values, groups), values)
    assert torch.equal(part_weights(groups), torch.ones(6))
    folds = fold_of(groups, 3, stream())
    assert folds.bincount().tolist() == [2, 2, 2]


@pytest.mark.parametrize("folds", [1, 2, 3, 7])
def test_folds_hold_whole_parts_evenly(folds: int) -> None:
    groups = torch.tensor([5, 5, 5, -2, 8, 8, 7, 7, 7, 7, 1, 0])
    seen = set()
    for seed in range(20):
        found = fold_of(groups, folds, stream(seed))
        per_part = [found[groups == g].unique().tolist() for g in groups.unique().tolist()]
        assert all(len(p) == 1 for p in per_part)
        counts = torch.tensor([p[0] for p in per_part]).bincount()
        assert len(counts) == min(folds, 6) and counts.max() - counts.min() <= 1
        seen.add(tuple(found.tolist()))
    assert len(seen) > 1 or folds == 1


# Out-of-fold flows

SMALL = HeadSpec(
    grid=(2, 3), inputs=3, channels=3, blocks=2, hidden=8, clamp=2.0, position_dims=0,
    top_fraction=0.5, score="nll", seed=1,
)  # fmt: skip
WITH_POSITIONS = replace(SMALL, position_dims=4)
GROUPS = torch.arange(12) // 2
FLOWS = OutOfFold(folds=3, steps=25, batch=48, lr=2e-2, seed=5)


def images(count: int = 12, views: int = 1, seed: int = 0) -> Tensor:
    """Samples ``(N, V, L, D)`` around two centres, some places without image."""
    generator = stream(seed)
    side = torch.randint(0, 2, (count, views, 6, 1), generator=generator) * 2 - 1
    spread = 0.3 * torch.randn(count, views, 6, 3, generator=generator)
    samples = side * torch.tensor([1.0, 0.5, -1.0]) + spread
    samples[1::3, :, 4:] = torch.nan
    return samples


def even(samples: Tensor) -> Tensor:
    return torch.ones(samples.shape[:3])


def one_by_one(flows: OutOfFold, head: Head, samples: Tensor, weights: Tensor) -> Tensor:
    """The same flows trained one after the other, as one would write it down."""
    length = samples.shape[2]
    generator = stream(flows.seed)
    fold = fold_of(GROUPS, flows.folds, generator)
    shape = (fold.max() + 1, flows.batch)
    places = [
        torch.rand(shape, generator=generator, dtype=torch.double) for _ in range(flows.steps)
    ]
    flat = samples.flatten(0, 2).float()
    image = torch.arange(len(flat)) // (samples.shape[1] * length)
    found = torch.full((len(flat),), torch.nan)
    for k in range(int(fold.max()) + 1):
        flow = deepcopy(head.flow)
        learned = (fold[image] != k) | torch.tensor(flows.folds == 1)
        pool = (learned & ~flat[:, 0].isnan()).nonzero()[:, 0]
        sums = weights.flatten()[pool].double().cumsum(0)
        optimizer = torch.optim.Adam(flow.parameters(), flows.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, flows.lr, total_steps=flows.steps + 1, pct_start=0.1
        )
        for place in places:
            drawn = pool[torch.searchsorted(sums, place[k] * sums[-1], right=True)]
            loss = nll(
                flow, dict(flow.named_parameters()), flat[drawn], head.condition(drawn % length)
            ).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        rows = ((fold[image] == k) & ~flat[:, 0].isnan()).nonzero()[:, 0]
        with torch.no_grad():
            params = dict(flow.named_parameters())
            found[rows] = nll(flow, params, flat[rows], head.condition(rows % length))
    return found.view(samples.shape[:3])


@pytest.mark.parametrize("folds", [1, 2, 3, 6])
@pytest.mark.parametrize("spec", [SMALL, WITH_POSITIONS], ids=["bare", "positions"])
def test_flows_trained_at_once_are_those_trained_one_by_one(spec: HeadSpec, folds: int) -> None:
    head, samples = Head(spec), images(views=2)
    samples[3] *= 6  # its gradients are clipped
    weights = torch.rand(samples.shape[:3], generator=stream(2))
    flows = replace(FLOWS, folds=folds)
    found = flows.scores(head, samples, GROUPS, weights)
    expected = one_by_one(flows, head, samples, weights)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3, equal_nan=True)
    untrained = gaussian_scores(head, samples)
    assert (found - untrained).nan_to_num(0.0).abs().max() > 0.1


def test_an_image_never_trains_the_flow_that_scores_it() -> None:
    head, samples = Head(SMALL), images()
    fold = fold_of(GROUPS, 3, stream(FLOWS.seed))
    before = FLOWS.scores(head, samples, GROUPS, even(samples))
    samples[0] += 2
    after = FLOWS.scores(head, samples, GROUPS, even(samples))
    same = (after == before) | before.isnan()
    siblings = (fold == fold[0]) & (torch.arange(12) != 0)
    assert siblings.any() and same[siblings].all()
    assert not same[fold != fold[0]].all((1, 2)).any()
    assert not same[0].any()


def test_images_of_a_part_never_vouch_for_each_other_those_of_several_do() -> None:
    samples = images(20)
    samples[:3] = torch.tensor([5.0, -5.0, 5.0]) + 0.1 * samples[3:6]
    flows = OutOfFold(folds=20, steps=60, batch=64, lr=2e-2, seed=5)
    own = torch.arange(20)
    together = own.clone()
    together[:3] = 0
    absurd = [
        flows.scores(Head(SMALL), samples, groups, even(samples))[:3].nanmean()
        for groups in (together, own)
    ]
    assert absurd[0] > absurd[1] + 3


def test_one_fold_is_scored_by_a_flow_that_saw_it() -> None:
    samples = images()
    samples[0] = torch.tensor([5.0, -5.0, 5.0]) + 0.1 * samples[2]
    flows = replace(FLOWS, steps=60)
    scores = [
        replace(flows, folds=folds).scores(Head(SMALL), samples, GROUPS, even(samples))[0].mean()
        for folds in (1, 3)
    ]
    assert scores[0] < scores[1] - 3


def test_what_weighs_nothing_is_never_learned_from() -> None:
    head, samples = Head(SMALL), images()
    weights = even(samples)
    weights[0, :, 2:] = 0
    before = FLOWS.scores(head, samples, GROUPS, weights)
    samples[0, :, 2:] += 50
    after = FLOWS.scores(head, samples, GROUPS, weights)
    torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=0, equal_nan=True)
    samples[0, :, :2] += 50
    assert not torch.equal(FLOWS.scores(head, samples, GROUPS, weights)[2:4], before[2:4])


def test_places_without_image_stay_nan_and_half_precision_is_read() -> None:
    samples = images().half()
    found = FLOWS.scores(Head(WITH_POSITIONS), samples, GROUPS, even(samples))
    assert found.dtype == torch.float32 and torch.equal(found.isnan(), samples[..., 0].isnan())
    expected = FLOWS.scores(Head(WITH_POSITIONS), samples.float(), GROUPS, even(samples))
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_an_infinite_value_is_infinitely_odd_and_spoils_no_flow() -> None:
    samples = images()
    samples[0, 0, 3, 1] = torch.inf
    found = FLOWS.scores(Head(SMALL), samples, GROUPS, even(samples))
    assert found.isinf().nonzero().tolist() == [[0, 0, 3]]
    assert torch.equal(found.isnan(), images()[..., 0].isnan())


def test_equal_seeds_give_equal_scores_and_the_flow_of_the_head_stays_untrained() -> None:
    head, samples = Head(WITH_POSITIONS), images()
    before = deepcopy(head.state_dict())
    torch.manual_seed(1)
    first = FLOWS.scores(head, samples, GROUPS, even(samples))
    torch.manual_seed(2)
    again = FLOWS.scores(head, samples, GROUPS, even(samples))
    other = replace(FLOWS, seed=6).scores(head, samples, GROUPS, even(samples))
    torch.testing.assert_close(again, first, rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(other.nan_to_num(), first.nan_to_num())
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in head.flow.parameters())


@pytest.mark.parametrize("steps", [1, 2, 9, 10])
def test_every_number_of_steps_is_taken_and_told(steps: int) -> None:
    ticks: list[int] = []
    samples = images()
    flows = replace(FLOWS, steps=steps)
    found = flows.scores(Head(SMALL), samples, GROUPS, even(samples), tick=lambda: ticks.append(0))
    assert len(ticks) == steps
    assert not torch.equal(found.nan_to_num(), gaussian_scores(Head(SMALL), samples).nan_to_num())


def test_a_single_image_and_folds_without_anything_to_learn_are_refused() -> None:
    samples = images()
    with pytest.raises(ValueError, match="two images, got 1"):
        FLOWS.scores(Head(SMALL), samples[:1], GROUPS[:1], even(samples[:1]))
    weights = even(samples)
    weights[2:] = 0  # the flow that leaves the first part out has nothing
    with pytest.raises(ValueError, match="no image to learn from"):
        FLOWS.scores(Head(SMALL), samples, GROUPS, weights)


# Contamination


def scored(rate: float, seed: int, count: int = 200, apart: float = 8.0) -> Tensor:
    """Image scores, the first ``rate`` of them anomalous."""
    scores = torch.randn(count, generator=stream(seed))
    scores[: round(rate * count)] += apart
    return scores


def estimated(scores: Tensor, groups: Tensor) -> Contamination:
    return contamination(deviations(scores), groups, 3.0, stream())


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_the_share_of_far_images_is_found_within_its_interval(rate: float, seed: int) -> None:
    found = estimated(scored(rate, seed), torch.arange(200))
    assert found.value == pytest.approx(rate, abs=0.1)
    assert found.low < rate + 0.02 and rate - 0.02 < found.high
    assert found.low <= found.value <= found.high


def test_the_lower_end_of_clean_scores_is_zero_and_rare_images_do_not_raise_it() -> None:
    for seed in range(20):
        scores = scored(0, seed)
        assert estimated(scores, torch.arange(200)).low == 0
        scores[:10] += 9  # one in twenty is a rare normal one
        found = estimated(scores, torch.arange(200))
        assert found.low == 0 and found.value < 0.06


@pytest.mark.parametrize(("scale", "shift"), [(1000.0, -5.0), (1e-3, 7.0), (1.0, 1e4)])
def test_the_scale_of_scores_does_not_matter(scale: float, shift: float) -> None:
    scores = scored(0.2, 0).double()
    one = estimated(scores, torch.arange(200))
    other = estimated(scale * scores + shift, torch.arange(200))
    assert astuple(other) == pytest.approx(astuple(one), abs=1e-5)


def test_images_of_a_part_are_one_witness() -> None:
    scores, own = scored(0.2, 0), torch.arange(200)
    one = estimated(scores, own)
    thrice = estimated(scores.repeat(3), own.repeat(3))
    assert astuple(thrice) == pytest.approx(astuple(one), abs=1e-6)
    apart = estimated(scores.repeat(3), torch.arange(600))
    assert apart.high - apart.low < 0.85 * (one.high - one.low)


def test_images_of_a_single_part_still_give_an_interval() -> None:
    scores = scored(0.2, 0)
    assert estimated(scores, torch.zeros(200)) == estimated(scores, torch.arange(200))


def test_infinite_scores_are_counted_as_the_highest() -> None:
    scores = scored(0.3, 0)
    highest = scores.clone()
    scores[:20], highest[:20] = torch.inf, scores[20:].max()
    assert estimated(scores, torch.arange(200)) == estimated(highest, torch.arange(200))
    assert estimated(torch.full((5,), torch.inf), torch.arange(5)).value == 0


def test_equal_scores_show_no_contamination() -> None:
    found = estimated(torch.full((9,), 3.0), torch.arange(9))
    assert astuple(found) == (0, 0, 0)
