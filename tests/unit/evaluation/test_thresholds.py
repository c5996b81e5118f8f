import numpy as np
import pytest
import torch
from scipy.stats import median_abs_deviation
from torch import Tensor

from rad_lightning.config import EvaluationConfig
from rad_lightning.evaluation import thresholds
from rad_lightning.evaluation.thresholds import robust_centre

ROBUST = EvaluationConfig(threshold="robust", robust_z=3.0)


def threshold(scores: Tensor, cfg: EvaluationConfig) -> float:
    """The threshold where no training image was held out."""
    return thresholds.threshold(scores, torch.zeros(len(scores), dtype=torch.bool), cfg)


def test_held_out_images_place_the_threshold_that_fitted_ones_put_too_low() -> None:
    unseen = normals(200)
    fitted = normals() - 50  # the flow knows these by heart
    held_out = torch.arange(901) < 200
    limit = thresholds.threshold(torch.cat((unseen, fitted)), held_out, ROBUST)
    assert limit >= threshold(unseen, ROBUST)
    assert (unseen > limit).float().mean() < 0.01


def test_a_handful_of_equal_held_out_scores_borrows_the_spread_of_the_fitted() -> None:
    scores = torch.cat((torch.full((3,), 800.0), normals()))
    held_out = torch.arange(len(scores)) < 3
    assert thresholds.threshold(scores, held_out, ROBUST) == pytest.approx(806, abs=0.6)


@pytest.mark.parametrize("held", [0, 40])
def test_the_reference_is_scipys_median_and_deviation_of_the_held_out(held: int) -> None:
    scores = normals()
    scores[:40] += 3  # the flow does not know these
    held_out = torch.arange(len(scores)) < held
    unseen = scores[held_out] if held else scores
    spreads = [median_abs_deviation(s.double(), scale=1 / 1.4826) for s in (unseen, scores)]
    centre, spread = thresholds.reference(scores, held_out)
    assert centre == pytest.approx(float(np.median(unseen.double())))
    assert spread == pytest.approx(max(spreads))
    assert thresholds.threshold(scores, held_out, ROBUST) == pytest.approx(centre + 3 * spread)


def normals(count: int = 701) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0)) * 2 + 800


def contaminated(distance: float) -> Tensor:
    """As ``normals``, with three in ten replaced by anomalies ``distance`` above."""
    scores = normals()
    scores[:210] += distance
    return scores


def test_gaussian_scores_get_three_standard_deviations() -> None:
    assert threshold(normals(20_001), ROBUST) == pytest.approx(806, abs=0.2)


def test_centre_and_spread_are_numpys_and_scipys() -> None:
    scores = normals().double()
    centre, spread = robust_centre(scores)
    assert centre == pytest.approx(np.median(scores))
    assert spread == pytest.approx(median_abs_deviation(scores, scale="normal"), rel=1e-4)


def test_outliers_move_the_robust_threshold_no_further_however_far_they_are() -> None:
    near, far = (threshold(contaminated(d), ROBUST) for d in (1e2, 1e6))
    assert near == far


def test_thirty_percent_of_outliers_leave_the_robust_threshold_between_the_groups() -> None:
    limit = threshold(contaminated(1e6), ROBUST)
    assert normals().max() < limit < 800 + 10 * 2


def test_the_robust_threshold_flags_the_outliers_and_hardly_a_normal_image() -> None:
    scores = contaminated(100.0)
    flagged = scores > threshold(scores, ROBUST)
    assert flagged[:210].all() and flagged[210:].float().mean() < 0.01


@pytest.mark.parametrize("quantile", [0.5, 0.95, 1.0])
def test_quantile_is_numpys(quantile: float) -> None:
    cfg = EvaluationConfig(threshold="quantile", quantile=quantile)
    expected = np.quantile(normals().double(), quantile)
    assert threshold(normals(), cfg) == pytest.approx(expected)


def test_a_larger_z_is_a_higher_threshold() -> None:
    low, high = (threshold(normals(), EvaluationConfig(robust_z=z)) for z in (1.0, 3.0))
    centre, spread = robust_centre(normals())
    assert high - low == pytest.approx(2 * spread) and low > centre


def test_equal_scores_stay_below_their_own_threshold() -> None:
    assert threshold(torch.full((5,), 800.0), ROBUST) >= 800.0


def test_one_image_gives_a_finite_threshold() -> None:
    assert threshold(torch.tensor([3.0]), ROBUST) == pytest.approx(3.0)


def test_an_even_number_of_scores_has_the_mean_of_the_middle_two_as_centre() -> None:
    assert robust_centre(torch.tensor([1.0, 2.0, 4.0, 9.0]))[0] == 3.0
