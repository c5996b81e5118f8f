import math

import pytest
import torch

from rad_lightning.robust.exposure import anomaly_losses, hinge


def test_the_hinge_is_softened_at_the_margin_and_flat_beyond() -> None:
    nll = torch.tensor([[-20.0, 3.0], [20.0, 60.0]], requires_grad=True)
    found = hinge(nll, 3.0)
    expected = torch.tensor([[23.0, math.log(2) / 4], [0.0, 0.0]])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    found.sum().backward()
    assert nll.grad is not None
    torch.testing.assert_close(nll.grad, torch.tensor([[-1.0, -0.5], [0.0, 0.0]]))


@pytest.mark.parametrize(
    ("fraction", "oddest"), [(0.01, 8.0), (0.25, 8.0), (0.5, 6.0), (0.75, 4.0), (1.0, 2.5)]
)
def test_the_anomaly_loss_reads_the_highest_losses_of_an_image(
    fraction: float, oddest: float
) -> None:
    losses = torch.tensor([[0.0, 4.0, 8.0, -2.0]])
    expected = math.log1p(math.exp(4 * (5 - oddest))) / 4
    assert anomaly_losses(losses, 5.0, fraction).item() == pytest.approx(expected, rel=1e-5)


def test_images_far_beyond_the_margin_no_longer_pull() -> None:
    losses = torch.tensor([[1.0, 60.0], [1.0, 1.0]], requires_grad=True)
    anomaly_losses(losses, 3.0, 0.5).sum().backward()
    assert losses.grad is not None
    assert torch.equal(losses.grad[0], torch.zeros(2))
    assert losses.grad[1].min() < -0.5
