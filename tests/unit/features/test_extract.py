from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rad_lightning.config import VIEWS as VIEW_NAMES
from rad_lightning.features.backbone import FrozenBackbone
from rad_lightning.features.extract import (
    VIEWS,
    Box,
    FeatureSpec,
    content_box,
    extract,
    fuse,
    place,
    valid_positions,
)

SQUARE = (32, 32)
WHOLE = (0, 0, 32, 32)


@pytest.fixture(scope="module")
def backbone() -> FrozenBackbone:
    return FrozenBackbone("test_resnet", (1, 2), "untrained")


def pictures(count: int = 2, height: int = 32, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator).float()


def patch(**changes: Any) -> FeatureSpec:
    return replace(FeatureSpec("patch", SQUARE, "stretch", ("identity",)), **changes)


class Shrink(nn.Module):
    """Stands in for a backbone: maps that average 4x4 and 8x8 pixels, channel by channel."""

    name = "shrink"

    def forward(self, images: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(images, 4), F.avg_pool2d(images, 8)]


@pytest.mark.parametrize(
    ("image_hw", "size", "fit", "box"),
    [
        ((10, 70), (32, 48), "stretch", (0, 0, 32, 48)),
        ((64, 64), (32, 32), "pad", (0, 0, 32, 32)),
        ((8, 8), (32, 32), "pad", (0, 0, 32, 32)),  # enlarged
        ((100, 50), (32, 32), "pad", (0, 8, 32, 16)),  # tall
        ((50, 100), (32, 32), "pad", (8, 0, 16, 32)),  # wide
        ((1250, 500), (320, 128), "pad", (0, 0, 320, 128)),
        ((100, 100), (32, 64), "pad", (0, 16, 32, 32)),
        ((2, 1000), (32, 32), "pad", (15, 0, 1, 32)),
    ],
)
def test_content_box(image_hw: tuple, size: tuple, fit: str, box: tuple) -> None:
    assert content_box(image_hw, size, fit) == box


@pytest.mark.parametrize("image_hw", [(1, 1), (3, 4000), (333, 91), (91, 333), (4000, 3)])
@pytest.mark.parametrize("size", [(32, 32), (320, 128), (33, 65)])
def test_content_box_lies_on_the_canvas_and_touches_two_edges(image_hw: tuple, size: tuple) -> None:
    top, left, height, width = content_box(image_hw, size, "pad")
    assert min(top, left) >= 0 and min(height, width) >= 1
    assert top + height <= size[0] and left + width <= size[1]
    assert height == size[0] or width == size[1]


def test_a_stretched_image_fills_the_canvas() -> None:
    image = np.full((10, 70, 3), 90, np.uint8)
    canvas, box = place(image, (32, 48), "stretch")
    assert canvas.dtype == np.uint8 and canvas.shape == (32, 48, 3)
    assert box == (0, 0, 32, 48) and (canvas == 90).all()


@pytest.mark.parametrize(("image_hw", "axis"), [((32, 16), 1), ((16, 32), 0)])
def test_padding_mirrors_the_image_at_its_edges(image_hw: tuple[int, int], axis: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*image_hw, 3), dtype=np.uint8)
    canvas, (top, left, height, width) = place(image, SQUARE, "pad")
    assert (canvas[top : top + height, left : left + width] == image).all()
    rolled = np.moveaxis(canvas, axis, 0)
    assert (rolled[:8] == rolled[8:16][::-1]).all()
    assert (rolled[24:] == rolled[16:24][::-1]).all()


def test_a_strip_is_mirrored_until_the_canvas_is_full() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 32, 3), dtype=np.uint8)
    canvas, box = place(image, SQUARE, "pad")
    assert canvas.shape == (32, 32, 3) and box == (15, 0, 2, 32)
    assert (canvas[16:18] == image[1]).all() and (canvas[18:20] == image[0]).all()


def valid(box: Box, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The positions of one box, found in a batch with another one."""
    other = (1, 2, 3, 4)
    return valid_positions(torch.tensor([other, box]), size, grid)[1]


@pytest.mark.parametrize("image_hw", [(32, 32), (80, 20), (20, 80)])
def test_every_position_of_a_whole_canvas_is_valid(image_hw: tuple[int, int]) -> None:
    assert valid((0, 0, 32, 48), (32, 48), image_hw).all()


def test_positions_are_valid_where_their_centre_is_on_the_image() -> None:
    found = valid((0, 8, 32, 17), SQUARE, (4, 4))  # centres at 4, 12, 20, 28
    assert found.tolist() == [[False, True, True, False]] * 4
    found = valid((12, 0, 9, 32), SQUARE, (4, 2))
    assert found.tolist() == [[False, False], [True, True], [True, True], [False, False]]
    found = valid((13, 0, 7, 32), SQUARE, (4, 1))  # 12 < 13 and 20 is past the end
    assert found.shape == (4, 1)


@pytest.mark.parametrize("image_hw", [(256, 25), (25, 256), (1, 1000)])
def test_every_image_has_a_valid_position_however_thin(image_hw: tuple[int, int]) -> None:
    box = content_box(image_hw, (256, 256), "pad")
    assert valid(box, (256, 256), (8, 8)).any()


def test_a_thin_strip_has_the_pooled_features_of_its_colour() -> None:
    box = content_box((64, 8), SQUARE, "pad")  # 4 pixels wide on cells of 8
    images = torch.full((1, 3, 32, 32), 90.0)
    found = extract(Shrink(), images, [box], patch(form="pooled", fit="pad"))  # type: ignore[arg-type]
    assert found.flatten().tolist() == [90.0] * 6


def test_all_configurable_views_exist() -> None:
    assert set(VIEWS) == set(VIEW_NAMES)


@pytest.mark.parametrize("view", VIEWS)
def test_back_undoes_turn(view: str) -> None:
    turn, back = VIEWS[view]
    x = torch.arange(2 * 3 * 5 * 5).view(2, 3, 5, 5)
    assert torch.equal(back(turn(x)), x)


def test_views_are_all_different() -> None:
    x = torch.arange(9).view(1, 1, 3, 3)
    turned = {tuple(turn(x).flatten().tolist()) for turn, _ in VIEWS.values()}
    assert len(turned) == len(VIEWS) == 6


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_turned_back_to_the_images_frame(view: str) -> None:
    images = pictures()
    both = patch(views=("identity", view))
    found = extract(Shrink(), images, [WHOLE] * 2, both)  # type: ignore[arg-type]
    # averaging commutes with every turn, so the turned-back view equals the plain one
    torch.testing.assert_close(found[:, 1], found[:, 0])


@pytest.mark.parametrize("view", [v for v in VIEWS if v != "identity"])
def test_features_of_a_symmetric_image_mirror_each_other(
    backbone: FrozenBackbone, view: str
) -> None:
    _, back = VIEWS[view]
    quarter = pictures(1, 16, 16)
    quarter = quarter + quarter.transpose(-1, -2)
    image = torch.cat((quarter, quarter.flip(-1)), -1) / 2
    image = torch.cat((image, image.flip(-2)), -2)  # unchanged by every view
    found = extract(backbone, image, [WHOLE], patch(views=("identity", view)))
    torch.testing.assert_close(found[:, 1], back(found[:, 0]), atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("view", VIEWS)
def test_a_spot_shows_at_its_own_place_in_every_view(backbone: FrozenBackbone, view: str) -> None:
    clean = torch.full((1, 3, 64, 64), 128.0)
    spotted = clean.clone()
    spotted[..., 10:14, 50:54] = 255
    spec = patch(size=(64, 64), views=(view,), local_pool=1)
    box = [(0, 0, 64, 64)]
    change = (extract(backbone, spotted, box, spec) - extract(backbone, clean, box, spec)).float()
    row, column = divmod(int(change[0, 0].norm(dim=0).argmax()), 8)
    assert abs(row - 1) <= 1 and abs(column - 6) <= 1


def test_padded_positions_are_nan_in_all_channels_and_views_and_no_other() -> None:
    boxes = [(0, 8, 32, 16), WHOLE]
    spec = patch(fit="pad", views=("identity", "hflip", "rot90"))
    found = extract(Shrink(), pictures(), boxes, spec)  # type: ignore[arg-type]
    assert found.shape == (2, 3, 6, 4, 4)
    expected = torch.tensor([True, False, False, True]).expand(3, 6, 4, 4)
    assert torch.equal(found[0].isnan(), expected)
    assert found[1].isfinite().all()


def test_stretched_images_have_no_missing_position() -> None:
    found = extract(Shrink(), pictures(), [(0, 8, 32, 16)] * 2, patch())  # type: ignore[arg-type]
    assert found.isfinite().all()


def test_patch_features_are_half_precision_on_the_grid_of_the_second_map(
    backbone: FrozenBackbone,
) -> None:
    found = extract(backbone, pictures(2, 64, 32), [(0, 0, 64, 32)] * 2, patch(size=(64, 32)))
    assert found.dtype == torch.float16 and found.device.type == "cpu"
    assert found.shape == (2, 1, sum(backbone.channels), 8, 4)


def test_pooled_features_are_plain_means(backbone: FrozenBackbone) -> None:
    images = pictures()
    found = extract(backbone, images, [WHOLE] * 2, patch(form="pooled"))
    expected = torch.cat([m.mean((-2, -1)) for m in backbone(images)], 1)
    assert found.shape == (2, 1, sum(backbone.channels), 1, 1)
    torch.testing.assert_close(found[:, 0, :, 0, 0].float(), expected, atol=1e-3, rtol=1e-3)


def test_pooled_features_average_the_image_alone() -> None:
    images = torch.zeros(1, 3, 32, 32)
    images[..., 8:24] = 60.0
    images[..., 16:24] = 80.0
    found = extract(Shrink(), images, [(0, 8, 32, 16)], patch(form="pooled", fit="pad"))  # type: ignore[arg-type]
    assert found.flatten().tolist() == [70.0] * 6


@pytest.mark.parametrize("view", VIEWS)
def test_pooling_masks_the_padding_in_the_images_own_frame(view: str) -> None:
    images = torch.zeros(1, 3, 32, 32)
    images[..., 0:8, 8:24] = 90.0
    spec = patch(form="pooled", fit="pad", views=(view,))
    found = extract(Shrink(), images, [(0, 8, 8, 16)], spec)  # type: ignore[arg-type]
    assert found.flatten().tolist() == [90.0] * 6


def test_pooled_scales_are_concatenated(backbone: FrozenBackbone) -> None:
    images, boxes = pictures(), [WHOLE] * 2
    both = extract(backbone, images, boxes, patch(form="pooled", scales=(1.0, 0.5)))
    one = extract(backbone, images, boxes, patch(form="pooled", scales=(0.5,)))
    channels = sum(backbone.channels)
    assert both.shape[2] == 2 * channels
    assert torch.equal(both[:, :, channels:], one)
    assert not torch.equal(both[:, :, :channels], one)


def test_an_images_features_do_not_depend_on_its_batch(backbone: FrozenBackbone) -> None:
    images = pictures(3)
    together = extract(backbone, images, [WHOLE] * 3, patch())
    alone = torch.cat([extract(backbone, i[None], [WHOLE], patch()) for i in images])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-2)


def test_features_can_be_trained_on(backbone: FrozenBackbone) -> None:
    found = extract(backbone, pictures(), [WHOLE] * 2, patch()).float()
    weight = torch.ones(1, requires_grad=True)
    (found * weight).sum().backward()  # inference tensors would refuse
    assert weight.grad is not None and not found.requires_grad


def test_bfloat16_features_are_close_to_those_in_float32(backbone: FrozenBackbone) -> None:
    exact, rough = (
        extract(backbone, pictures(), [WHOLE] * 2, patch(precision=p)).float()
        for p in ("float32", "bfloat16")
    )
    assert not torch.equal(exact, rough)
    assert (exact - rough).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("local_pool", [1, 3, 5])
def test_fuse_gives_all_channels_on_the_finest_grid_of_eight_pixels_a_cell(
    local_pool: int,
) -> None:
    maps = [torch.rand(2, 4, 16, 12), torch.rand(2, 5, 8, 6), torch.rand(2, 6, 4, 3)]
    size = (64, 48)
    assert fuse(maps, local_pool, size).shape == (2, 15, 8, 6)
    assert fuse(maps[1:], local_pool, size).shape == (2, 11, 8, 6)
    assert fuse(maps[2:], local_pool, size).shape == (2, 6, 4, 3)
    assert fuse(maps[:1], local_pool, size).shape == (2, 4, 16, 12)  # there is no other
    torch.testing.assert_close(
        fuse(maps[::-1], local_pool, size)[:, -4:], fuse(maps, local_pool, size)[:, :4]
    )


@pytest.mark.parametrize("local_pool", [1, 3])
def test_fuse_keeps_constant_maps_constant_up_to_the_border(local_pool: int) -> None:
    maps = [torch.full((1, 1, 16, 16), 2.0), torch.full((1, 1, 8, 8), 3.0)]
    maps.append(torch.full((1, 1, 4, 4), 5.0))
    expected = torch.tensor([2.0, 3.0, 5.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    torch.testing.assert_close(fuse(maps, local_pool, (64, 64)), expected)


def test_fuse_averages_each_neighbourhood() -> None:
    m = torch.rand(1, 1, 5, 5)
    found = fuse([m], 3, (40, 40))
    torch.testing.assert_close(found[0, 0, 2, 3], m[0, 0, 1:4, 2:5].mean())
    torch.testing.assert_close(found[0, 0, 0, 0], m[0, 0, :2, :2].mean())
