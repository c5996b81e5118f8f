from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from rad_lightning.evaluation.overlays import (
    colour_range,
    fitted,
    heat_png,
    laid_over,
    side_by_side,
)


def test_colours_run_from_the_median_to_so_many_times_the_way_to_the_tail() -> None:
    usual = torch.cat((torch.arange(101.0), torch.tensor([torch.nan])))
    assert colour_range(usual, tail=0.99, clear=2.0) == (50.0, 50.0 + 2 * 49.0)
    assert colour_range(torch.full((3,), torch.nan)) == (0.0, 1.0)


def test_the_map_lies_where_it_is_hot_whatever_its_size() -> None:
    image = np.full((40, 60, 3), 100, dtype=np.uint8)
    heat = np.zeros((4, 6))
    heat[:, :3] = 10.0
    shown = laid_over(image, heat, 0.0, 10.0)
    assert shown.dtype == np.uint8 and (shown[:, 45:] == 100).all()
    assert (shown[:, :20].astype(int) - 100)[..., 0].min() > 50  # inferno ends in a light yellow
    both = side_by_side(image, heat, 0.0, 10.0)
    assert (both[:, :60] == image).all() and (both[:, 60:] == shown).all()


def test_the_map_alone_over_the_image_is_the_map_over_the_image() -> None:
    stream = np.random.default_rng(0)
    image = stream.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    heat = stream.uniform(-2, 12, (20, 30))
    alone = Image.open(BytesIO(heat_png(heat, 0.0, 10.0))).convert("RGBA")
    over = Image.alpha_composite(Image.fromarray(image).convert("RGBA"), alone).convert("RGB")
    wanted = laid_over(image, heat, 0.0, 10.0).astype(int)
    assert np.abs(np.asarray(over).astype(int) - wanted).max() <= 5  # 64 levels
    heat[:, :10] = np.nan
    alone = Image.open(BytesIO(heat_png(heat, 0.0, 10.0))).convert("RGBA")
    assert (np.asarray(alone)[:, :10, 3] == 0).all()


@pytest.mark.parametrize(
    ("size", "expected"), [((40, 60), (40, 60)), ((400, 600), (67, 100)), ((600, 400), (100, 67))]
)
def test_a_fitted_image_keeps_its_proportions_and_is_never_enlarged(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fitted(np.zeros((*size, 3), np.uint8), 100, 100).shape == (*expected, 3)
