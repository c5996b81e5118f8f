import pytest
import torch
from torch import Tensor

from rad_lightning.robust.exposure import anomaly_losses
from rad_lightning.robust.robust_loss import (
    SUSPECT,
    assign,
    image_losses,
    image_weights,
    robust_loss,
)

MARGIN, WEIGHT, TOP = 3.0, 0.5, 0.25


def nlls(images: int = 10, samples: int = 8, odd: int = 2) -> Tensor:
    """Losses ``(B, S)`` around 1; the last ``odd`` images are unlikely, around 2."""
    losses = 1 + 0.1 * torch.randn(images, samples, generator=torch.Generator().manual_seed(0))
    losses[images - odd :] += 1
    return losses


def places(weights: Tensor, value: float) -> list[int]:
    return (weights == value).nonzero()[:, 0].tolist()


def test_the_loss_of_an_image_is_the_mean_of_its_samples() -> None:
    assert image_losses(torch.tensor([[1.0, 3.0], [0.0, -1.0]])).tolist() == [2.0, -0.5]


@pytest.mark.parametrize("form", SUSPECT)
@pytest.mark.parametrize(("rate", "count"), [(0.0, 0), (0.04, 0), (0.2, 2), (0.28, 3), (0.9, 9)])
def test_the_images_of_the_highest_scores_are_suspicious(
    form: str, rate: float, count: int
) -> None:
    scores = torch.randperm(10, generator=torch.Generator().manual_seed(1)).double()
    normal, anomalous = assign(scores, form, rate)
    odd = scores >= 10 - count
    assert normal.dtype == anomalous.dtype == torch.float64
    expected = {"trim": (0, 0), "loe_hard": (0, 1), "loe_soft": (0.5, 0.5)}[form]
    for weights, of_suspects, of_others in ((normal, expected[0], 1), (anomalous, expected[1], 0)):
        assert (weights[odd] == of_suspects).all() and (weights[~odd] == of_others).all()


@pytest.mark.parametrize("form", SUSPECT)
def test_no_gradient_flows_through_the_assignment(form: str) -> None:
    scores = torch.arange(4.0, requires_grad=True)
    found = assign(scores, form, 0.5)
    assert not any(weights.requires_grad for weights in found)


@pytest.mark.parametrize("form", SUSPECT)
def test_planted_outliers_are_found_by_their_losses(form: str) -> None:
    normal, _ = image_weights(nlls(), form, 0.2, MARGIN, TOP)
    assert (normal < 1).nonzero()[:, 0].tolist() == [8, 9]


def test_trimming_looks_at_the_mean_and_exposure_at_the_oddest_samples_too() -> None:
    losses = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.2, 1.2, 1.2, 1.2], [0.5, 0.5, 0.5, 3.0]])
    trimmed, _ = image_weights(losses, "trim", 0.34, MARGIN, TOP)
    exposed, _ = image_weights(losses, "loe_hard", 0.34, MARGIN, TOP)
    assert places(trimmed, 0) == [1] and places(exposed, 0) == [2]


@pytest.mark.parametrize("form", SUSPECT)
def test_without_suspects_it_is_the_plain_loss(form: str) -> None:
    for rate in (0.0, 0.04):
        found = robust_loss(nlls(), form, rate, MARGIN, WEIGHT, TOP)
        torch.testing.assert_close(found, nlls().mean())


def test_the_parts_of_the_loss_are_a_mean_of_the_normal_and_a_share_of_the_anomalous() -> None:
    losses = nlls()
    inner, outer = losses[:8].mean(), losses[8:].mean(1).sum()
    push = anomaly_losses(losses[8:], MARGIN, TOP).sum()
    expected = {
        "trim": inner,
        "loe_hard": inner + WEIGHT * push / 10,
        "loe_soft": (8 * inner + 0.5 * outer) / 9 + WEIGHT * 0.5 * push / 10,
    }
    for form, value in expected.items():
        found = robust_loss(losses, form, 0.2, MARGIN, WEIGHT, TOP)
        torch.testing.assert_close(found, value)


@pytest.mark.parametrize("form", SUSPECT)
def test_a_batch_of_suspects_alone_has_a_finite_loss(form: str) -> None:
    losses = nlls(2, odd=0).requires_grad_()
    loss = robust_loss(losses, form, 0.9, MARGIN, WEIGHT, TOP)
    loss.backward()
    assert loss.isfinite() and losses.grad is not None and losses.grad.isfinite().all()


@pytest.mark.parametrize(("form", "sign"), [("trim", 0), ("loe_hard", -1)])
def test_suspects_are_left_alone_or_pushed_down_and_the_others_pulled_up(
    form: str, sign: int
) -> None:
    losses = nlls().requires_grad_()
    robust_loss(losses, form, 0.2, MARGIN, WEIGHT, TOP).backward()
    assert losses.grad is not None
    torch.testing.assert_close(losses.grad[:8], torch.full((8, 8), 1 / 64))
    assert (losses.grad[8:].sum(1).sign() == sign).all()
