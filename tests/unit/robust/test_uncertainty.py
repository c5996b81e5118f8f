from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from torch import Tensor

from rad_lightning.robust.uncertainty import (
    NORMAL_RATIO,
    ensemble_variance,
    generalisation_gap,
    loss_covariance,
    tail_weight,
    view_variance,
)

TASKS, SIZE = 3, 12
IMAGES = torch.arange(SIZE).remainder(4).expand(TASKS, -1)
VIEWS = torch.arange(SIZE).div(4, rounding_mode="floor").remainder(2).expand(TASKS, -1)

# Each as a function of the losses (2, T, Q): of supports and of queries.
READINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "tail_weight": lambda x: tail_weight(x[1]),
    "generalisation_gap": lambda x: generalisation_gap(x[0], x[1]),
    "view_variance": lambda x: view_variance(x[1], IMAGES, VIEWS),
    "ensemble_variance": lambda x: ensemble_variance(x[1]),
    "loss_covariance": lambda x: loss_covariance(x[0].mean(1), x[1].mean(1)),
}
PER_TASK = ("tail_weight", "generalisation_gap", "view_variance")
ROUNDING = 1e-5


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def within_bounds(name: str, losses: Tensor) -> None:
    found = READINGS[name](losses)
    assert found.shape == ((TASKS,) if name in PER_TASK else ())
    assert not found.isnan().any()
    assert found.min() >= -ROUNDING and found.max() <= 1 + ROUNDING, found


@pytest.mark.parametrize("name", READINGS)
@settings(max_examples=60, deadline=None)
@given(
    losses=arrays(
        np.float32,
        (2, TASKS, SIZE),
        elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0, -1e6, 1e6, 1e-6]),
    )
)
def test_every_reading_lies_between_zero_and_one_on_whatever_losses(
    name: str, losses: np.ndarray
) -> None:
    within_bounds(name, torch.from_numpy(losses))


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize("at", [0.0, 1.7, -3e5, 1e-20, 1e10])
def test_every_reading_lies_between_zero_and_one_on_constant_losses(name: str, at: float) -> None:
    within_bounds(name, torch.full((2, TASKS, SIZE), at))


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize("power", [3, 9, 15])
def test_every_reading_lies_between_zero_and_one_on_heavy_tails(name: str, power: int) -> None:
    for seed in range(20):
        x = noise(2, TASKS, SIZE, seed=seed)
        within_bounds(name, x.abs() ** power * x.sign())
        within_bounds(name, x.abs() ** power)


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e4])
def test_no_reading_depends_on_the_scale_of_the_losses(name: str, scale: float) -> None:
    losses = noise(2, TASKS, SIZE).double() ** 3
    losses[1] += 0.4
    reading = READINGS[name]
    torch.testing.assert_close(reading(scale * losses), reading(losses), rtol=1e-6, atol=1e-9)
    assert ((reading(losses) > 0.01) & (reading(losses) < 0.99)).any()


@pytest.mark.parametrize("name", READINGS)
def test_no_reading_depends_on_where_the_losses_lie(name: str) -> None:
    losses = noise(2, TASKS, SIZE).double()
    reading = READINGS[name]
    torch.testing.assert_close(reading(losses + 100), reading(losses), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", PER_TASK)
def test_readings_of_a_task_do_not_look_at_the_others(name: str) -> None:
    losses = noise(2, TASKS, SIZE)
    changed = losses.clone()
    changed[:, 1:] = noise(2, TASKS - 1, SIZE, seed=1) ** 3
    before, after = READINGS[name](losses), READINGS[name](changed)
    assert before[0] == after[0] and before[1] != after[1]


def contaminated(share: float, size: int = 20_000) -> Tensor:
    """Normal losses; those of a share of mislabelled samples are higher and wider."""
    losses, bad = noise(size), int(share * size)
    losses[:bad] = 3 * losses[:bad] + 6
    return losses


def test_the_tail_of_a_normal_distribution_weighs_nothing() -> None:
    assert tail_weight(contaminated(0.0)) < 0.05
    levels = torch.linspace(0.5 / 4000, 1 - 0.5 / 4000, 4000, dtype=torch.float64)
    exact = torch.distributions.Normal(0.0, 1.0).icdf(levels)
    assert tail_weight(exact) < 2e-3
    assert tail_weight(1.05 * exact.clamp(min=0) + exact.clamp(max=0)) > 0.01


def test_the_tail_weighs_more_with_more_mislabelled_samples() -> None:
    found = [float(tail_weight(contaminated(s))) for s in (0.0, 0.1, 0.3)]
    assert found[0] + 0.5 < found[1] < found[2] - 0.03 and found[2] < 1


def test_the_tail_weight_of_numbers_by_hand() -> None:
    losses = torch.arange(101).double()  # quantiles 5, 25, 95
    assert float(tail_weight(losses)) == pytest.approx(1 - (20 / 70) / NORMAL_RATIO)
    assert float(tail_weight(-(losses.flip(0) ** 3))) == 0


def test_the_gap_is_zero_where_the_query_costs_less_and_grows_with_what_it_costs_more() -> None:
    support = noise(1, 50)
    assert generalisation_gap(support, support - 0.5).item() == 0
    assert generalisation_gap(support, support).item() == pytest.approx(0, abs=1e-6)
    found = [generalisation_gap(support, support + by).item() for by in (0.1, 1.0, 10.0)]
    spread = float(support.std(correction=0))
    assert found == pytest.approx([by / (by + spread) for by in (0.1, 1.0, 10.0)], rel=1e-5)


def test_the_gap_may_be_between_different_numbers_of_samples() -> None:
    assert generalisation_gap(noise(2, 9), noise(2, 5) + 1).shape == (2,)


def cells(image: Tensor, view: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses ``image + view`` of every pair of the two, and which they are."""
    losses = (image[:, None] + view[None]).flatten()[None]
    images = torch.arange(len(image)).repeat_interleave(len(view))[None]
    return losses, images, torch.arange(len(view)).repeat(len(image))[None]


def test_view_variance_is_one_where_only_views_differ_and_zero_where_only_images_do() -> None:
    apart, equal = torch.tensor([0.0, 1.0, 5.0]), torch.zeros(3)
    assert view_variance(*cells(equal, apart)).item() == pytest.approx(1)
    assert view_variance(*cells(apart, equal)).item() == pytest.approx(0, abs=1e-7)
    assert view_variance(*cells(apart, apart)).item() == pytest.approx(0.5)
    assert view_variance(*cells(apart, 2 * apart)).item() == pytest.approx(0.8)


def test_view_variance_compares_the_means_of_cells_in_whatever_order_and_number() -> None:
    losses, images, views = cells(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.0, 2.0]))
    expected = view_variance(losses, images, views)
    order = torch.tensor([[5, 0, 3, 1, 4, 2, 0, 0, 3]])
    spread = torch.tensor([[0, 0.5, 0.25, 0, 0, 0, 0, -0.5, -0.25]])
    moved = [x.gather(1, order) for x in (losses, images, views)]
    torch.testing.assert_close(view_variance(moved[0] + spread, *moved[1:]), expected)


def test_view_variance_leaves_out_views_that_were_not_drawn() -> None:
    losses = torch.tensor([[1.0, 3.0, 10.0]])
    images, views = torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 0]])
    within = (1 + 1 + 0) / 3
    mean = 14 / 3
    overall = ((1 - mean) ** 2 + (3 - mean) ** 2 + (10 - mean) ** 2) / 3
    found = view_variance(losses, images, views).item()
    assert found == pytest.approx(within / overall)


def test_ensemble_variance_is_zero_for_equal_models_and_one_for_equal_samples() -> None:
    samples, models = noise(9), torch.tensor([0.0, 1.0, 5.0])
    assert ensemble_variance(samples.expand(4, -1)).item() == 0
    assert ensemble_variance(models[:, None].expand(-1, 9)).item() == pytest.approx(1)
    both = ensemble_variance(models[:, None] + samples).item()
    assert both == pytest.approx(float(models.var() / (models.var() + samples.var(correction=0))))


def test_the_covariance_is_zero_for_losses_that_go_together_and_one_for_opposed_ones() -> None:
    support = noise(8)
    assert loss_covariance(support, 3 * support + 1).item() == pytest.approx(0, abs=1e-6)
    assert loss_covariance(support, -0.2 * support).item() == pytest.approx(1)
    other = noise(8, seed=1)
    expected = (1 - np.corrcoef(support.numpy(), other.numpy())[0, 1]) / 2
    assert loss_covariance(support, other).item() == pytest.approx(expected, rel=1e-5)
    assert loss_covariance(support, torch.ones(8)).item() == pytest.approx(0.5)


@pytest.mark.parametrize("value", [0.0, 1.5, -3.0])
def test_losses_that_are_all_alike_have_no_tail(value: float) -> None:
    assert tail_weight(torch.full((64,), value)).item() == 0
