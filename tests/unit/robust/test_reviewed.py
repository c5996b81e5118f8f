"""What verdicts on some images say about the others."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from rad_lightning.robust.contamination import Contamination
from rad_lightning.robust.review import (
    Reviewed,
    alike,
    counted,
    last_judged,
    most,
    of_parts,
    precision,
    simulated,
)
from rad_lightning.robust.trusted import first_of_parts

ESTIMATE = Contamination(0.1, 0.0, 0.2)
SUSPICION = torch.linspace(0.99, 0, 100)  # the first image is the most suspicious
ALONE = torch.arange(100)  # every image is a part


def verdicts(*first: Reviewed) -> Tensor:
    found = torch.zeros(100, dtype=torch.long)
    found[: len(first)] = torch.tensor(first, dtype=torch.long)
    return found


def test_the_upper_end_is_wilsons() -> None:
    # 3.84 / (10 + 3.84): Wilson's interval of 0 of 10, by hand
    assert most(0, 10) == pytest.approx(0.2775, abs=1e-3)
    assert most(10, 10) == pytest.approx(1)
    assert most(0, 0) == 1


def test_the_last_judged_ones_count_along_the_ranking_not_along_the_rows() -> None:
    reviewed = verdicts(*[Reviewed.MISLABELLED] * 7, *[Reviewed.GOOD] * 8)
    assert last_judged(SUSPICION, reviewed) == (2, 10)
    assert last_judged(SUSPICION.flip(0), reviewed.flip(0)) == (2, 10)
    assert last_judged(1 - SUSPICION, reviewed) == (7, 10)


def test_without_a_verdict_nothing_changes() -> None:
    assert counted(ESTIMATE, torch.ones(100), SUSPICION, verdicts()) == ESTIMATE
    assert precision(SUSPICION, verdicts()) == 1


def test_ten_good_suspects_say_that_the_set_is_clean() -> None:
    reviewed = verdicts(*[Reviewed.GOOD] * 10)
    found = counted(ESTIMATE, (SUSPICION > 0.7).float(), SUSPICION, reviewed)
    assert found.low == 0 and found.value < 0.02 and found.high < 0.3
    assert precision(SUSPICION, reviewed) < 0.05


def test_ten_mislabelled_suspects_are_counted_and_the_next_ones_doubted() -> None:
    reviewed = verdicts(*[Reviewed.MISLABELLED] * 10)
    doubt = (torch.arange(100) < 30).float()
    found = counted(ESTIMATE, doubt, SUSPICION, reviewed)
    assert found.low == pytest.approx(0.1)
    assert found.value == pytest.approx(0.1 + 0.2 * 10.5 / 11)
    assert found.high == 1


def test_the_interval_holds_the_truth_for_a_reviewer_who_goes_down_the_ranking() -> None:
    held = 0
    for seed in range(50):
        stream = Generator().manual_seed(seed)
        bad = torch.rand(100, generator=stream) < torch.linspace(0.9, 0, 100)
        reviewed = simulated(SUSPICION, ALONE, bad, 20, 0.0, stream)
        found = counted(ESTIMATE, torch.zeros(100), SUSPICION, reviewed)
        held += found.low <= bad.float().mean() <= found.high
    assert held >= 45


def test_a_simulated_reviewer_judges_the_most_suspicious_and_errs_as_told() -> None:
    bad = torch.arange(100) % 2 == 0
    suspicion = SUSPICION.clone()
    suspicion[3] = torch.nan
    right = simulated(suspicion, ALONE, bad, 10, 0.0, Generator().manual_seed(0))
    assert (right != Reviewed.NO).nonzero()[:, 0].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert ((right == Reviewed.MISLABELLED) == bad)[right != Reviewed.NO].all()
    wrong = simulated(suspicion, ALONE, bad, 10, 1.0, Generator().manual_seed(0))
    assert ((wrong == Reviewed.MISLABELLED) != bad)[wrong != Reviewed.NO].all()
    every = simulated(suspicion, ALONE, bad, 1000, 0.3, Generator().manual_seed(0))
    assert (every != Reviewed.NO).sum() == 99
    errs = ((every == Reviewed.MISLABELLED) != bad)[every != Reviewed.NO].float().mean()
    assert errs == pytest.approx(0.3, abs=0.15)


def test_a_simulated_reviewer_sees_one_image_of_each_part_first_as_on_the_page() -> None:
    groups = torch.arange(100) // 4
    bad = torch.arange(100) < 20

    def judged(budget: int) -> list[int]:
        found = simulated(SUSPICION, groups, bad, budget, 0.0, Generator().manual_seed(0))
        return (found != Reviewed.NO).nonzero()[:, 0].tolist()

    assert judged(5) == [0, 4, 8, 12, 16]
    assert judged(27) == sorted([*range(0, 100, 4), 1, 2])
    assert len(judged(1000)) == 100


def test_the_first_image_of_each_part_and_every_image_of_a_lone_part() -> None:
    order = [3, 2, 0, 1]
    assert first_of_parts(order, torch.tensor([7, 8, 7, 8])) == [0, 1]
    assert first_of_parts(order, torch.tensor([7, 8, 8, 8])) == [0, 2]
    assert first_of_parts(order, torch.tensor([7, 7, 7, 7])) == [0, 1, 2, 3]


def test_the_other_images_of_a_mislabelled_part_are_counted_with_it_and_not_judged() -> None:
    groups = torch.arange(100) // 4
    reviewed = torch.zeros(100, dtype=torch.long)
    reviewed[0], reviewed[1], reviewed[4] = Reviewed.MISLABELLED, Reviewed.GOOD, Reviewed.GOOD
    found = of_parts(reviewed, groups)
    part, good, mislabelled = Reviewed.PART, Reviewed.GOOD, Reviewed.MISLABELLED
    assert found[:8].tolist() == [mislabelled, good, part, part, good, 0, 0, 0]
    assert not found[8:].any()
    assert last_judged(SUSPICION, found) == last_judged(SUSPICION, reviewed) == (1, 3)
    assert counted(ESTIMATE, torch.zeros(100), SUSPICION, found).low == pytest.approx(0.03)
    # A data set of a single part: there, every image stands for itself.
    assert torch.equal(of_parts(reviewed, torch.zeros(100, dtype=torch.long)), reviewed)


def test_what_is_like_the_last_judged_ones_is_doubted_as_far_as_they_bear_it_out() -> None:
    above = torch.linspace(10, 0.1, 100)  # the ten judged ones lie at 9.55 on the mean
    found = alike(above, SUSPICION, verdicts(*[Reviewed.MISLABELLED] * 10), 2.0)
    sure = 10.5 / 11
    assert found[:5].tolist() == pytest.approx([sure] * 5)
    assert found[14] == pytest.approx(sure - (9.55 - above[14].item()) / 2, abs=1e-4)
    assert (found[:-1] >= found[1:]).all() and not found[above < 7.5].any()
    good = alike(above, SUSPICION, verdicts(*[Reviewed.GOOD] * 10), 2.0)
    assert good.max() == pytest.approx(0.5 / 11)
    assert not alike(above, SUSPICION, verdicts(), 2.0).any()
