import pytest
import torch
from torch import Tensor

from rad_lightning.flows.heads import Head, HeadSpec
from rad_lightning.robust.trusted import central_images

SPEC = HeadSpec(
    grid=(3, 4), inputs=5, channels=5, blocks=2, hidden=8, clamp=2.0, position_dims=4,
    top_fraction=0.5, score="nll", seed=1,
)  # fmt: skip
OUTLIERS = torch.tensor([3, 17, 64, 65, 128])


def planted(count: int = 130, views: int = 2) -> Tensor:
    """White samples ``(N, V, L, D)``; the outliers have a defect on a quarter of their positions.

    More images than are scored at once, outliers on both sides of the border.
    """
    samples = torch.randn(count, views, 12, 5, generator=torch.Generator().manual_seed(0))
    samples[OUTLIERS, :, :3] += 4
    return samples.half()


def test_planted_outliers_are_the_images_that_are_not_trusted() -> None:
    trusted = central_images(Head(SPEC), planted(), 125 / 130)
    assert trusted.dtype == torch.bool and trusted.shape == (130,)
    assert (~trusted).nonzero()[:, 0].tolist() == OUTLIERS.tolist()


def test_the_trusted_images_are_those_nearest_to_the_centre() -> None:
    near = torch.linspace(0.1, 3, 20)[torch.randperm(20, generator=torch.Generator())]
    samples = near[:, None, None, None] * torch.ones(20, 1, 12, 5)
    trusted = central_images(Head(SPEC), samples, 0.25)
    assert trusted.sum() == 5 and near[trusted].max() < near[~trusted].min()


@pytest.mark.parametrize(
    ("fraction", "count"), [(0.5, 65), (1.0, 130), (0.01, 2), (1e-9, 1), (0.6, 78)]
)
def test_the_asked_share_is_trusted_and_at_least_one_image(fraction: float, count: int) -> None:
    assert central_images(Head(SPEC), planted(), fraction).sum() == count


def test_places_without_image_say_nothing() -> None:
    samples = planted()
    samples[:, :, 8:] = torch.nan
    samples[::2, :, 5] = torch.nan
    trusted = central_images(Head(SPEC), samples, 125 / 130)
    assert (~trusted).nonzero()[:, 0].tolist() == OUTLIERS.tolist()
