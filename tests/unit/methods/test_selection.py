"""From the settings of ``method.trust`` to what a training may make of each image."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.common.randomness import stream_seed
from rad_lightning.config import MethodConfig, TrustConfig
from rad_lightning.evaluation.metrics import auroc
from rad_lightning.flows.heads import Head, HeadSpec
from rad_lightning.methods.registry import Training, build_method
from rad_lightning.methods.selection import (
    Trust,
    find_trust,
    sample_scores,
    sure,
    trust_steps,
)
from rad_lightning.methods.verdicts import PUSHED, follow, verdicts_alone
from rad_lightning.robust.review import Reviewed
from rad_lightning.robust.trusted import OutOfFold

SPEC = HeadSpec(
    grid=(3, 4), inputs=4, channels=4, blocks=2, hidden=8, clamp=2.0, position_dims=0,
    top_fraction=0.25, score="nll", seed=1,
)  # fmt: skip
IMAGES, PER_PART = 40, 2
GROUPS = torch.arange(IMAGES) // PER_PART * 3 - 5
BAD = torch.arange(IMAGES) % 10 >= 8  # 20 %, whole parts
DEFECT = slice(2, 5)  # positions


def samples(seed: int = 0) -> Tensor:
    """White samples ``(N, V, L, D)``; bad images have a defect of their own at three positions, the
    last of every second image shows nothing."""
    generator = Generator().manual_seed(seed)
    found = torch.randn(IMAGES, 2, 12, 4, generator=generator)
    defects = torch.randn(int(BAD.sum()), 1, 1, 4, generator=generator)
    found[BAD, :, DEFECT] += 5 * defects / defects.norm(dim=3, keepdim=True)
    found[::2, :, 11] = torch.nan
    return found.half()


def method(**trust: Any) -> MethodConfig:
    given: dict[str, Any] = {"source": "memories", "steps": 30, **trust}
    return MethodConfig(batch_size=128, lr=5e-3, trust=TrustConfig(**given))


def found(seed: int = 3, of: Tensor | None = None, **trust: Any) -> Trust:
    given = samples() if of is None else of
    return find_trust(method(**trust), Head(SPEC), given, GROUPS, BAD, seed)


def odd(trust: Trust) -> Tensor:
    """Which samples may be pushed away, ``(N, V, L)`` bool."""
    assert trust.exposed is not None
    return trust.exposed > 0


SOURCES = ["in_sample", "memories", "out_of_fold", "both"]


@pytest.mark.parametrize("by_part", [True, False])
@pytest.mark.parametrize("source", SOURCES)
def test_planted_images_are_the_most_suspicious(source: str, by_part: bool) -> None:
    trust = found(source=source, by_part=by_part)
    assert trust.suspicion.shape == (IMAGES,)
    assert trust.suspicion.min() == 0 and 0.8 < trust.suspicion.max() < 1
    assert auroc(trust.suspicion.double(), BAD.long()) > 0.9
    assert trust.weights.shape == (IMAGES, 2, 12)
    assert 0 < trust.contamination.value < 0.5


@pytest.mark.parametrize("source", SOURCES)
def test_equal_seeds_find_equal_trust(source: str) -> None:
    one, again = (
        found(source=source, use="expose", rate=0.2),
        found(source=source, use="expose", rate=0.2),
    )
    other = found(4, source=source, use="expose", rate=0.2)
    assert torch.equal(one.suspicion, again.suspicion) and torch.equal(odd(one), odd(again))
    assert one.contamination == again.contamination
    assert not torch.equal(one.suspicion, other.suspicion)


def test_two_sources_are_asked_for_their_mean_rank() -> None:
    both = found(source="both").suspicion
    single = [found(source=s).suspicion for s in ("out_of_fold", "memories")]
    assert not any(torch.equal(both, s) for s in single)
    assert all(torch.corrcoef(torch.stack([both, s]))[0, 1] > 0.5 for s in single)


@pytest.mark.parametrize(
    ("source", "steps"),
    [("memories", 0), ("in_sample", 7), ("out_of_fold", 7), ("both", 7)],
)
def test_the_steps_that_are_announced_are_taken(source: str, steps: int) -> None:
    ticks: list[int] = []
    cfg = method(source=source, steps=7)
    find_trust(cfg, Head(SPEC), samples(), GROUPS, BAD, 3, lambda: ticks.append(0))
    assert len(ticks) == steps == trust_steps(cfg.trust)


@pytest.mark.parametrize(("source", "folds"), [("in_sample", 1), ("out_of_fold", 4)])
def test_flows_are_of_all_images_or_of_the_asked_folds(source: str, folds: int) -> None:
    cfg, given = method(source=source, folds=4), samples()
    weights = torch.rand(given.shape[:3], generator=Generator().manual_seed(1))
    (scores,) = sample_scores(cfg, Head(SPEC), given, GROUPS, weights, 3, Generator(), lambda: None)
    flows = OutOfFold(folds, 30, 128, 5e-3, stream_seed("folds", 3))
    expected = flows.scores(Head(SPEC), given, GROUPS, weights)
    assert torch.equal(scores.nan_to_num(), expected.nan_to_num())


# What follows


@pytest.mark.parametrize(("reach", "rate"), [(1.0, 0.2), (2.0, 0.1), (2.0, 0.2), (0.5, 0.3)])
def test_a_split_leaves_out_the_most_suspicious(reach: float, rate: float) -> None:
    trust = found(use="split", reach=reach, rate=rate, by_part=False)
    assert trust.suspects.sum() == math.floor(reach * rate * IMAGES)
    assert trust.suspicion[trust.suspects].min() >= trust.suspicion[~trust.suspects].max()
    assert not trust.weights[trust.suspects].any()
    assert (trust.weights[~trust.suspects] == 1).all()
    assert trust.exposed is None and trust.assumed == rate


def test_no_more_than_nine_tenths_are_left_out() -> None:
    trust = found(use="split", reach=3, rate=0.9, by_part=False)
    assert trust.suspects.sum() == 36


def test_a_fence_leaves_out_what_stands_far_out_and_nothing_else() -> None:
    trust = found(use="fence", source="out_of_fold", steps=60)
    assert trust.suspects.any() and not trust.suspects[~BAD].any()
    assert (trust.weights[trust.suspects].amax((1, 2)) < 0.5).all()
    assert (trust.weights[~BAD] > 0.5).all() and trust.exposed is None
    wide = found(use="fence", source="out_of_fold", steps=60, fence=1e3)
    assert not wide.suspects.any() and wide.weights.max() == wide.weights[0].max()


def test_nothing_is_left_out_at_a_rate_of_zero() -> None:
    trust = found(use="split", rate=0.0)
    assert not trust.suspects.any() and (trust.weights == 1).all()


def test_the_rate_is_the_estimated_the_given_or_the_true_one() -> None:
    estimated = found()
    assert estimated.assumed == estimated.contamination.value
    assert found(rate=0.05).assumed == 0.05
    true = found(rate=0.05, known_rate=True)
    assert true.assumed == pytest.approx(0.2) and true.suspects.sum() == 8


def test_the_box_plot_s_fence_leaves_out_what_lies_far_beyond_the_others() -> None:
    few = samples()
    few[BAD] = samples(1)[~BAD][: int(BAD.sum())]
    few[[4, 7], :, :6] += 8
    trust = found(of=few, use="iqr", by_part=False)
    assert trust.suspects.nonzero()[:, 0].tolist() == [4, 7]
    assert not trust.weights[[4, 7]].any() and trust.weights[:4].all()


def test_images_of_a_part_share_their_suspicion_and_one_vote() -> None:
    groups = torch.cat([torch.zeros(6), torch.arange(1, IMAGES - 5)])
    cfg = method(use="split", rate=0.0)
    trust = find_trust(cfg, Head(SPEC), samples(), groups, BAD, 3)
    assert len(trust.suspicion[:6].unique()) == 1
    votes = trust.weights[:, 0, 0]
    assert float(votes[:6].sum()) == pytest.approx(float(votes[6]))
    assert float(votes.mean()) == pytest.approx(1)
    alone = find_trust(
        method(use="split", rate=0.0, by_part=False), Head(SPEC), samples(), groups, BAD, 3
    )
    assert len(alone.suspicion[:6].unique()) == 6 and (alone.weights == 1).all()


def test_images_of_a_single_part_are_judged_one_by_one() -> None:
    one = torch.zeros(IMAGES)
    trust = find_trust(method(rate=0.2), Head(SPEC), samples(), one, BAD, 3)
    assert auroc(trust.suspicion.double(), BAD.long()) > 0.9
    assert trust.contamination.low < trust.contamination.high


# Exposure


def test_the_oddest_samples_of_suspicious_images_are_pushed_away() -> None:
    trust = found(use="expose", rate=0.2, power=3.0, odd=0.25, temperature=0.1)
    assert trust.exposed is not None and trust.strength == 1
    pushed = odd(trust)
    doubt = (1 / (1 + torch.exp(-(trust.suspicion - 0.8) / 0.1)))[:, None, None].expand_as(pushed)
    torch.testing.assert_close(trust.exposed[pushed], (doubt**3)[pushed])
    shown = (~samples()[..., 0].isnan()).flatten(1)
    share = pushed.flatten(1).sum(1) / shown.sum(1)
    assert share.min() > 0.2 and share.max() <= 0.3
    assert not pushed[samples()[..., 0].isnan()].any()
    of_bad = pushed[BAD].float().mean((0, 1))  # by position
    assert of_bad[DEFECT].min() > 0.7 and of_bad[5:11].max() < 0.4
    torch.testing.assert_close(trust.weights, (1 - doubt[:, :1, :1].expand(IMAGES, 2, 12)) ** 3)


def test_as_many_samples_are_odd_as_the_head_scores_an_image_by() -> None:
    assert torch.equal(
        odd(found(use="expose", rate=0.2)), odd(found(use="expose", rate=0.2, odd=0.375))
    )
    head = Head(replace(SPEC, top_fraction=0.9))
    trust = find_trust(method(use="expose", rate=0.2), head, samples(), GROUPS, BAD, 3)
    assert torch.equal(odd(trust), ~samples()[..., 0].isnan())


@pytest.mark.parametrize(
    ("rate", "strength"), [(0.0, 0.0), (0.1, 0.0), (0.15, 0.5), (0.2, 1.0), (0.4, 1.0)]
)
def test_exposure_grows_from_the_floor_to_twice_the_floor(rate: float, strength: float) -> None:
    trust = found(use="expose", rate=rate, floor=0.1)
    assert trust.strength == pytest.approx(strength)
    assert (trust.exposed is None) is (strength == 0)
    full = found(use="expose", rate=rate, floor=0.01).weights if rate else torch.ones(1)
    torch.testing.assert_close(1 - trust.weights, (strength * (1 - full)).expand(IMAGES, 2, 12))


def test_what_is_known_to_be_injected_is_pushed_away_and_not_learned() -> None:
    trust = found(use="expose", known=True, rate=0.0, odd=0.25)
    assert torch.equal(trust.suspects, BAD) and trust.strength == 1
    assert trust.exposed is not None and set(trust.exposed.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(odd(trust).any(2).any(1), BAD)
    assert not trust.weights[BAD].any() and trust.weights[~BAD].all()


@pytest.mark.parametrize("use", ["fence", "split", "iqr", "expose"])
def test_every_use_finds_the_planted_images(use: str) -> None:
    trust = found(source="out_of_fold", use=use, rate=0.2)
    assert auroc(trust.suspicion.double(), BAD.long()) > 0.9
    assert trust.weights[BAD].mean() < 0.5 * trust.weights[~BAD].mean()


# Trust


def test_trust_of_some_images_is_theirs() -> None:
    trust = found(use="expose", rate=0.2)
    some = torch.arange(IMAGES) % 3 == 0
    part = trust.of(some)
    assert trust.exposed is not None and part.exposed is not None
    for name in ("suspicion", "suspects", "weights", "exposed"):
        assert torch.equal(getattr(part, name), getattr(trust, name)[some])
    assert (part.strength, part.assumed) == (trust.strength, trust.assumed)


def test_images_without_a_suspect_have_nothing_to_push_away() -> None:
    trust = found(use="expose", known=True, rate=0.2)
    assert trust.of(~BAD).exposed is None and trust.of(BAD).exposed is not None
    assert found(use="split").of(BAD).exposed is None


def test_the_summary_can_be_written() -> None:
    summary = found(use="split", rate=0.2, reach=1.0).summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["suspects"] == 8 and summary["images"] == IMAGES
    assert summary["assumed_rate"] == 0.2
    low, value, high = (summary["contamination"][k] for k in ("low", "value", "high"))
    assert 0 <= low <= value <= high <= 1


# Corners


def test_images_of_a_part_share_a_verdict() -> None:
    groups = torch.arange(IMAGES) // 4
    trust = find_trust(method(rate=0.15, reach=1.0), Head(SPEC), samples(), groups, BAD, 3)
    verdicts = [trust.suspects[groups == g] for g in range(10)]
    assert all(v.all() or not v.any() for v in verdicts) and trust.suspects.any()


@pytest.mark.parametrize("views", [1, 4])
def test_an_image_of_few_samples_has_an_odd_one(views: int) -> None:
    pooled = samples().float().nanmean((1, 2), keepdim=True).repeat(1, views, 1, 1)
    pooled += 0.1 * torch.randn(pooled.shape, generator=Generator().manual_seed(1))
    head = Head(replace(SPEC, grid=(1, 1)))
    trust = find_trust(method(use="expose", rate=0.2), head, pooled, GROUPS, BAD, 3)
    assert odd(trust).flatten(1).any(1).all()


def test_nothing_left_to_learn_is_a_user_error() -> None:
    given, groups = samples()[:10], torch.arange(10)
    cfg = method(use="split", rate=0.45, reach=2.0)
    trust = find_trust(cfg, Head(SPEC), given, groups, BAD[:10], 3)
    fitted = trust.suspects  # 9 of 10
    training = Training(given[fitted], groups[fitted], trust=trust.of(fitted))
    with pytest.raises(UserError, match="held out count as mislabelled"):
        build_method(cfg, Head(SPEC), training, 3)


@pytest.mark.parametrize(
    ("source", "images"),
    [("out_of_fold", 1), ("memories", 1)],
)
def test_too_few_images_to_rank_are_a_user_error(source: str, images: int) -> None:
    cfg = method(source=source, rate=0.9)
    with pytest.raises(UserError):
        find_trust(cfg, Head(SPEC), samples()[:images], torch.arange(images), BAD[:images], 3)


# Rounds and verdicts


@pytest.mark.parametrize(("low", "expected"), [(0.0, 0), (0.025, 0.5), (0.05, 1), (0.4, 1)])
def test_further_rounds_count_as_far_as_the_set_is_surely_contaminated(
    low: float, expected: float
) -> None:
    nobody = torch.zeros(10, dtype=torch.long)
    ranked = torch.linspace(1, 0, 10)
    assert sure(low, ranked, nobody) == pytest.approx(expected)
    # Verdicts tell more than the estimate.
    assert sure(low, ranked, torch.full((10,), int(Reviewed.GOOD))) < 0.1
    assert sure(low, ranked, torch.full((10,), int(Reviewed.MISLABELLED))) > 0.9


def test_further_rounds_take_more_steps_and_doubt_what_the_first_one_did() -> None:
    cfg = method(use="fence", source="out_of_fold", steps=40, rounds=2)
    ticks: list[int] = []
    twice = find_trust(cfg, Head(SPEC), samples(), GROUPS, BAD, 3, lambda: ticks.append(0))
    assert len(ticks) == 80 == trust_steps(cfg.trust)
    once = found(use="fence", source="out_of_fold", steps=40)
    assert not torch.equal(once.weights, twice.weights)
    assert twice.suspects[BAD].all() and twice.suspects[~BAD].float().mean() < 0.25
    assert twice.suspects.sum() >= once.suspects.sum()
    memories = method(use="fence", source="memories", rounds=5)
    assert trust_steps(memories.trust) == 0


@pytest.mark.parametrize("use", ["fence", "split", "expose"])
def test_verdicts_go_before_the_ranking(use: str) -> None:
    cfg, head = method(use=use, source="out_of_fold", steps=40, rate=0.2), Head(SPEC)
    bad = BAD.nonzero()[:, 0]
    reviewed = torch.zeros(IMAGES, dtype=torch.long)
    reviewed[bad[0]], reviewed[bad[1]] = Reviewed.MISLABELLED, Reviewed.GOOD
    trust = find_trust(cfg, head, samples(), GROUPS, BAD, 3, reviewed=reviewed)
    trust = follow(trust, cfg, head, samples(), reviewed)
    assert trust.suspects[bad[0]] and not trust.weights[bad[0]].any()
    assert not trust.suspects[bad[1]] and (trust.weights[bad[1]] > 0).all()
    assert trust.exposed is not None
    assert trust.strength == (1 if use == "expose" else pytest.approx(1 / IMAGES / PUSHED))
    assert trust.exposed[bad[0]].any() and not trust.exposed[bad[1]].any()
    assert trust.contamination.low >= 1 / IMAGES


def test_what_ten_good_verdicts_say_of_the_others() -> None:
    cfg = method(use="fence", source="out_of_fold", steps=40)
    before = find_trust(cfg, Head(SPEC), samples(), GROUPS, BAD, 3)
    order = before.suspicion.argsort(descending=True)
    reviewed = torch.zeros(IMAGES, dtype=torch.long)
    reviewed[order[:5]] = Reviewed.GOOD
    after = find_trust(cfg, Head(SPEC), samples(), GROUPS, BAD, 3, reviewed=reviewed)
    rest = order[5:]
    assert not after.suspects.any()
    assert (after.weights[rest] >= before.weights[rest]).all()


def test_the_other_images_of_a_mislabelled_part_are_left_out_and_not_pushed_away() -> None:
    cfg, head = method(use="fence", source="out_of_fold", steps=40), Head(SPEC)
    reviewed = torch.zeros(IMAGES, dtype=torch.long)
    reviewed[0], reviewed[1] = Reviewed.MISLABELLED, Reviewed.PART
    trust = find_trust(cfg, head, samples(), GROUPS, BAD, 3, reviewed=reviewed)
    trust = follow(trust, cfg, head, samples(), reviewed)
    assert trust.exposed is not None and trust.suspects[:2].all() and not trust.weights[:2].any()
    assert trust.exposed[0].any() and not trust.exposed[1:].any()


def test_verdicts_alone_leave_out_and_push_away_the_odd_spots() -> None:
    cfg, head, given = method(source="none"), Head(SPEC), samples()
    reviewed = torch.where(BAD, int(Reviewed.MISLABELLED), 0)
    trust = verdicts_alone(cfg, head, given, reviewed)
    assert trust.suspicion.isnan().all() and torch.equal(trust.suspects, BAD)
    assert not trust.weights[BAD].any() and (trust.weights[~BAD] == 1).all()
    assert trust.exposed is not None and not trust.exposed[~BAD].any()
    assert (trust.exposed[BAD].flatten(1).sum(1) >= 1).all()
    assert trust.contamination.low == pytest.approx(float(BAD.float().mean()))
