"""How far scores stand out of the ordinary ones, and what a fence makes of it."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from rad_lightning.robust.contamination import beyond, deviations


def ordinary(count: int = 4001) -> torch.Tensor:
    return torch.randn(count, generator=Generator().manual_seed(1))


def test_a_spread_is_the_standard_deviation_of_normal_scores() -> None:
    scores = ordinary()
    found = deviations(3 * scores + 7)
    torch.testing.assert_close(found, scores.double(), atol=0.1, rtol=0.05)


def test_mislabelled_images_do_not_widen_the_spread() -> None:
    scores = ordinary(200)
    alone = deviations(scores)
    mixed = deviations(torch.cat([scores, torch.full((40,), 50.0)]))
    assert mixed[200:].min() > 20  # as far out as ever
    assert (mixed[:200] - alone).abs().max() < 0.6  # the centre moves a little


def test_scores_that_are_alike_or_infinite_are_no_surprise() -> None:
    assert deviations(torch.ones(5)).eq(0).all()
    found = deviations(torch.tensor([1.0, 2.0, 3.0, 4.0, torch.inf]))
    assert found.isfinite().all() and found[-1] == found[-2]


def test_what_is_known_to_be_mislabelled_moves_neither_centre_nor_spread() -> None:
    scores = torch.cat([ordinary(100), torch.full((60,), 9.0)])
    usable = torch.arange(160) < 100
    torch.testing.assert_close(deviations(scores, usable)[:100], deviations(scores[:100]))


@pytest.mark.parametrize(("above", "doubt"), [(-5.0, 0), (2.0, 0), (3.0, 0.5), (3.5, 0.75), (9, 1)])
def test_doubt_rises_around_the_fence(above: float, doubt: float) -> None:
    assert beyond(torch.tensor([float(above)]), 3.0).item() == pytest.approx(doubt)
