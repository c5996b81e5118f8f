"""Weighted draws: in proportion, never what weighs nothing, a row at a time; and jitter."""

from __future__ import annotations

import pytest
import torch

from rad_lightning.flows.sampling import bandwidth, drawn_from, jittered, running_sums


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


def test_jitter_has_its_standard_deviation_and_is_the_generators() -> None:
    samples = torch.arange(20_000.0).view(-1, 4) / 1000
    one, again, other = (
        jittered(samples, 0.3, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(one, again) and not torch.equal(one, other)
    noise = one - samples
    torch.testing.assert_close(noise.mean(0), torch.zeros(4), atol=0.02, rtol=0)
    torch.testing.assert_close(noise.std(0), torch.full((4,), 0.3), atol=0.02, rtol=0)
    assert jittered(samples, 0.0, torch.Generator()) is samples


def test_the_more_images_the_less_jitter() -> None:
    assert bandwidth(0.4, 1) == 0.4
    assert bandwidth(0.4, 16) == pytest.approx(0.2)
    assert bandwidth(0.0, 16) == 0
