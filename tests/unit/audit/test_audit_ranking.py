"""Where the ranking is cut, and how good it is, against a loop over all orders of ties."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from sklearn.metrics import roc_auc_score

from rad_lightning.audit.ranking import (
    POSSIBLE,
    SUSPECT,
    TRUSTED,
    accuracy,
    precision_at,
    rank,
)
from rad_lightning.common.errors import UserError
from rad_lightning.robust.contamination import Contamination

QUARTER = Contamination(0.25, 0.1, 0.4)
TIED = torch.tensor([0.5, 0.9, 0.5, 0.1, 0.5, 0.9, 0.0])
TRUE = torch.tensor([True, True, False, False, False, False, True])


def by_loop(suspicion: list[float], true: list[bool], k: int) -> float:
    """Mean precision over all rankings that the suspicion allows."""
    falling = sorted(suspicion, reverse=True)
    orders = [
        order
        for order in permutations(range(len(suspicion)))
        if [suspicion[i] for i in order] == falling
    ]
    return sum(sum(true[i] for i in order[:k]) / k for order in orders) / len(orders)


@pytest.mark.parametrize("k", range(1, 8))
def test_precision_is_the_mean_over_all_orders_of_ties(k: int) -> None:
    expected = by_loop(TIED.tolist(), TRUE.tolist(), k)
    assert precision_at(TIED, TRUE, k) == pytest.approx(expected)


def test_the_cut_is_the_estimate_and_what_its_interval_allows_is_possible() -> None:
    ranking = rank(torch.arange(20) / 20, QUARTER, None)
    assert ranking.order == tuple(range(19, -1, -1))
    assert ranking.suspects().nonzero()[:, 0].tolist() == [15, 16, 17, 18, 19]
    verdicts = [ranking.verdict(place) for place in range(20)]
    assert verdicts == [SUSPECT] * 5 + [POSSIBLE] * 3 + [TRUSTED] * 12


@pytest.mark.parametrize("count", [0, 3, 19])
def test_a_count_overrules_the_estimate(count: int) -> None:
    ranking = rank(torch.arange(20) / 20, QUARTER, count)
    assert ranking.count == count == int(ranking.suspects().sum())
    assert ranking.possible == max(count, 8)


def test_half_images_round_up_and_one_always_stays() -> None:
    assert rank(torch.rand(10), QUARTER, None).count == 3  # 2.5, where Python's round gives 2
    assert rank(torch.rand(10), Contamination(1.0, 1.0, 1.0), None).count == 9
    with pytest.raises(UserError, match="count = 10: use a value from 0 to 9, of 10 images"):
        rank(torch.rand(10), QUARTER, 10)


def test_ties_keep_the_order_of_their_rows() -> None:
    assert rank(TIED, QUARTER, None).order == (1, 5, 0, 2, 4, 3, 6)


def test_accuracy_against_scikit_learn_and_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    suspicion = torch.randint(9, (30,), generator=generator) / 9
    true = torch.rand(30, generator=generator) < suspicion
    ranking = rank(suspicion, QUARTER, None)
    found = accuracy(ranking, true)
    assert found is not None
    assert found.true == int(true.sum()) and set(found.precision) == {5, 10, found.true}
    assert found.auroc == pytest.approx(roc_auc_score(true.numpy(), suspicion.numpy()))
    assert found.found == sum(bool(true[i]) for i in ranking.order[: ranking.count])


def test_without_both_kinds_nothing_is_claimed() -> None:
    ranking = rank(torch.rand(8), QUARTER, None)
    assert accuracy(ranking, torch.zeros(8).bool()) is None
    assert accuracy(ranking, torch.ones(8).bool()) is None
    three = accuracy(ranking, torch.arange(8) < 3)
    assert three is not None and set(three.precision) == {3, 5}  # there are no 10
