"""Weighted draws: in proportion to the weights, never what weighs nothing, a row at a time."""

from __future__ import annotations

import pytest
import torch

from rad_lightning.flows.sampling import drawn_from, running_sums


def test_places_are_drawn_in_proportion_and_never_those_of_no_weight() -> None:
    weights = torch.tensor([[0.0, 1.0, 0.0, 3.0, 0.0], [2.0, 0.0, 0.0, 0.0, 2.0]])
    drawn = drawn_from(running_sums(weights), 20_000, torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 20_000)
    for row, weight in zip(drawn, weights, strict=True):
        shares = torch.bincount(row, minlength=5) / len(row)
        assert shares.tolist() == pytest.approx((weight / weight.sum()).tolist(), abs=0.015)
        assert not shares[weight == 0].any()


def test_more_places_than_multinomial_takes() -> None:
    weights = torch.zeros(2**24 + 2)
    weights[-1] = 1.0
    drawn = drawn_from(running_sums(weights)[None], 3, torch.Generator().manual_seed(0))
    assert drawn.tolist() == [[2**24 + 1] * 3]
