"""What speaks against an image: the map marks its defect, the twin looks like the rest of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rad_lightning.audit import evidence
from rad_lightning.audit.evidence import Memory, find_evidence, twins

IMAGES, VIEWS, LENGTH, DIM = 12, 2, 9, 3
BAD, SPOT = 4, 7


def samples() -> Tensor:
    """``(N, V, L, D)``: every image has a look of its own, image 4 a defect at position 7; the last
    position of image 0 shows nothing."""
    generator = torch.Generator().manual_seed(0)
    found = 0.1 * torch.randn(IMAGES, VIEWS, LENGTH, DIM, generator=generator)
    found += (torch.arange(IMAGES) % 4)[:, None, None, None]
    found[BAD, :, SPOT] += 20
    found[0, :, -1] = torch.nan
    return found.half()


GROUPS = torch.arange(IMAGES)
TRUSTED = torch.arange(IMAGES) != BAD


def test_the_map_is_the_distance_to_the_nearest_trusted_sample_of_another_part() -> None:
    x = samples()
    found = find_evidence(x, GROUPS, TRUSTED, [BAD, 0], seed=0)
    assert found.maps.shape == (2, VIEWS, LENGTH)
    for row, image in enumerate([BAD, 0]):
        others = x[TRUSTED & (image != GROUPS)].flatten(0, 2).float()
        others = others[~others.isnan().any(1)]
        for view in range(VIEWS):
            for position in range(LENGTH):
                own = x[image, view, position].float()
                expected = (others - own).norm(dim=1).min() if own.isfinite().all() else torch.nan
                got = float(found.maps[row, view, position])
                assert got == pytest.approx(float(expected), rel=1e-5, nan_ok=True)
    assert found.maps[0].mean(0).argmax() == SPOT
    assert float(found.maps[0, 0, SPOT]) > found.high > float(found.maps[0, 0, 0])


def test_a_defect_does_not_choose_the_twin_and_a_part_is_not_its_own() -> None:
    x = samples()
    assert twins(x, GROUPS, TRUSTED, [BAD])[0] % 4 == BAD % 4
    parts = GROUPS.clone()
    parts[8] = parts[0]  # now the only other one of their look that is left is the bad one
    assert twins(x, parts, TRUSTED, [0])[0] % 4 != 0
    assert twins(x, torch.zeros(IMAGES).long(), TRUSTED, [BAD]) == [-1]


def test_no_trusted_image_of_another_part_leaves_the_map_open() -> None:
    found = find_evidence(samples(), torch.zeros(IMAGES).long(), TRUSTED, [BAD], seed=0)
    assert found.maps.isnan().all() and (found.low, found.high) == (0.0, 1.0)


def test_the_memory_is_bounded_and_the_same_for_equal_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evidence, "MEMORY", 30)
    first, again, other = (Memory.of(samples(), GROUPS, TRUSTED, seed) for seed in (0, 0, 1))
    assert 25 < len(first.samples) <= 30 and first.samples.isfinite().all()
    assert torch.equal(first.samples, again.samples) and torch.equal(first.part, again.part)
    assert not torch.equal(first.part, other.part)
    assert BAD not in first.part
