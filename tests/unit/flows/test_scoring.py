import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from rad_lightning.flows.scoring import (
    anomaly_map,
    gaussian_blur,
    image_scores,
    position_encoding,
)

NAN = float("nan")


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.34, 1.0])
def test_score_is_numpys_mean_of_the_highest_positions_over_views(fraction: float) -> None:
    nll = noise(3, 2, 5, 6) * 10 + 800
    count = max(1, round(30 * fraction))
    expected = np.sort(nll.double().numpy().reshape(3, 2, 30))[..., -count:].mean((1, 2))
    assert image_scores(nll, fraction).tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_padding_counts_neither_as_a_score_nor_as_a_position() -> None:
    inner = noise(2, 1, 4, 5) - 50  # all below zero: padding read as 0 would win
    padded = torch.full((2, 1, 10, 5), NAN)
    padded[:, :, 3:7] = inner
    assert torch.equal(image_scores(padded, 0.25), image_scores(inner, 0.25))


def test_views_may_have_different_padding() -> None:
    nll = torch.tensor([[[[1.0, 5.0, NAN, NAN]], [[2.0, 4.0, 6.0, 8.0]]]])
    assert image_scores(nll, 1.0).tolist() == [pytest.approx((3.0 + 5.0) / 2)]


def test_at_least_one_position_counts() -> None:
    assert image_scores(torch.tensor([[[[1.0, 9.0, 3.0]]]]), 1e-6).tolist() == [9.0]


def test_one_position_per_view_scores_the_mean_over_views() -> None:
    nll = torch.tensor([[[[1.0]], [[4.0]]], [[[-2.0]], [[0.0]]]])
    assert image_scores(nll, 0.03).tolist() == [2.5, -1.0]


def test_an_infinite_position_makes_the_score_infinite() -> None:
    nll = torch.tensor([[[[1.0, torch.inf, 2.0]]]])
    assert image_scores(nll, 0.3).isinf().all()  # so that the finiteness check sees it


def test_one_images_score_does_not_depend_on_the_others() -> None:
    nll = noise(4, 2, 3, 3)
    alone = torch.cat([image_scores(n[None], 0.3) for n in nll])
    assert torch.equal(image_scores(nll, 0.3), alone)


def test_map_has_the_boxs_pixels() -> None:
    found = anomaly_map(noise(2, 4, 6), (32, 48), (5, 3, 20, 41), sigma=1.0)
    assert found.shape == (20, 41)


def test_map_is_the_crop_of_the_whole_canvas() -> None:
    nll = noise(1, 4, 6)
    whole = anomaly_map(nll, (32, 48), (0, 0, 32, 48), sigma=1.0)
    assert torch.equal(anomaly_map(nll, (32, 48), (5, 3, 20, 41), sigma=1.0), whole[5:25, 3:44])


def test_unsmoothed_map_on_its_own_grid_is_the_mean_over_views() -> None:
    nll = noise(3, 4, 6)
    torch.testing.assert_close(anomaly_map(nll, (4, 6), (0, 0, 4, 6), sigma=0), nll.mean(0))


def test_views_without_a_position_leave_it_to_the_others() -> None:
    nll = torch.tensor([[[1.0, NAN]], [[3.0, 8.0]]])
    assert anomaly_map(nll, (1, 2), (0, 0, 1, 2), sigma=0).tolist() == [[2.0, 8.0]]


def test_padding_is_filled_and_not_hot() -> None:
    nll = noise(1, 4, 6)
    nll[:, :, 4:] = NAN
    found = anomaly_map(nll, (16, 24), (0, 0, 16, 24), sigma=2.0)
    assert found.isfinite().all()
    valid = nll[~nll.isnan()]
    assert found[:, 20:].min() >= valid.min() and found[:, 20:].max() <= valid.max()
    assert found.argmax() % 24 < 18


def test_a_hot_position_is_hottest_at_its_own_pixels() -> None:
    nll = torch.zeros(1, 4, 6)
    nll[0, 2, 4] = 9.0
    found = anomaly_map(nll, (32, 48), (0, 0, 32, 48), sigma=2.0)
    row, column = divmod(int(found.argmax()), 48)
    assert 16 <= row < 24 and 32 <= column < 40


@pytest.mark.parametrize("sigma", [0.0, 0.2, 3.0, 40.0])
def test_a_constant_map_stays_constant(sigma: float) -> None:
    found = anomaly_map(torch.full((2, 3, 3), 800.0), (12, 20), (0, 0, 12, 20), sigma)
    torch.testing.assert_close(found, torch.full((12, 20), 800.0))


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_blur_is_scipys_gaussian(sigma: float) -> None:
    x = noise(13, 17).double()
    expected = gaussian_filter(x.numpy(), sigma, mode="nearest", radius=max(1, round(3 * sigma)))
    found = gaussian_blur(x[None, None], sigma)[0, 0]
    torch.testing.assert_close(found, torch.from_numpy(expected))


@pytest.mark.parametrize(("height", "width", "dims"), [(5, 7, 8), (16, 16, 4), (1, 9, 4)])
def test_position_encoding_tells_all_positions_apart(height: int, width: int, dims: int) -> None:
    encoding = position_encoding(height, width, dims)
    assert encoding.shape == (height * width, dims) and encoding.abs().max() <= 1
    gaps = torch.cdist(encoding, encoding) + torch.eye(height * width) * 9
    assert gaps.min() > 1e-3


def test_position_encoding_is_row_major() -> None:
    encoding = position_encoding(3, 4, 8).view(3, 4, 8)
    assert torch.equal(encoding[:, 0, :4], encoding[:, 3, :4])  # rows in the first half
    assert torch.equal(encoding[0, :, 4:], encoding[2, :, 4:])  # columns in the second
    assert not torch.equal(encoding[0, 0, :4], encoding[1, 0, :4])


@pytest.mark.parametrize("dims", [2, 6])
def test_position_encoding_refuses_other_than_multiples_of_four(dims: int) -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        position_encoding(3, 3, dims)
