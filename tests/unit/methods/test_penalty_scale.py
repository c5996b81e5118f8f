"""How strong a penalty held-out images bear."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from rad_lightning.config import L2Config, MethodConfig
from rad_lightning.flows.heads import Head, HeadSpec
from rad_lightning.methods.penalty_scale import SCALES, scaled, strongest, typical, with_scale
from rad_lightning.methods.registry import Training

SPEC = HeadSpec(
    grid=(3, 4), inputs=4, channels=4, blocks=4, hidden=16, clamp=2.0, position_dims=0,
    top_fraction=0.25, score="nll", seed=1,
)  # fmt: skip


def test_the_strongest_that_is_not_clearly_worse_is_taken() -> None:
    base = torch.randn(1000, generator=Generator().manual_seed(0))
    wobble = 0.1 * torch.randn(4, 1000, generator=Generator().manual_seed(1))
    shifts = torch.tensor([0.02, 0.0, 0.001, 0.5])[:, None]
    assert strongest(base + wobble + shifts) == 2
    assert strongest(base + torch.tensor([0.0, 0.5, 0.5, 0.5])[:, None]) == 0
    assert strongest(base.expand(4, -1)) == 3


def test_what_may_be_mislabelled_does_not_decide() -> None:
    losses = torch.randn(1000, generator=Generator().manual_seed(0)).repeat(2, 1)
    losses[1] += 0.1
    losses[:, :80] += 50  # mislabelled: the weaker penalty explains them far better
    losses[0, :80] += 20
    assert strongest(losses) == 0


def test_all_strengths_are_scaled_alike() -> None:
    l2 = L2Config(form="log_linear", lambda_0=2, lambda_min=1, lambda_max=100)
    half = scaled(l2, 0.5)
    assert (half.lambda_0, half.lambda_min, half.lambda_max) == (1, 0.5, 50)
    assert typical(l2) == pytest.approx(10)
    assert typical(L2Config(form="constant", lambda_0=3)) == 3
    assert typical(L2Config(form="affine", lambda_0=3, gamma=2)) == 6


def given(dependent: bool) -> Tensor:
    """Samples of a flow's kind: a penalty that forbids weights hurts where dimensions depend on
    each other."""
    stream = Generator().manual_seed(0)
    x = torch.randn(30, 1, 12, 4, generator=stream)
    if dependent:
        x[..., 1] = x[..., 0].square() + 0.05 * x[..., 1]
        x[..., 3] = x[..., 2].sin() * 2 + 0.05 * x[..., 3]
    return x


def test_a_penalty_that_hurts_is_weakened_and_one_that_does_not_is_kept() -> None:
    method = MethodConfig(
        batch_size=256, lr=1e-2, l2=L2Config(form="constant", lambda_0=1000, auto=True)
    )
    found = {}
    for dependent in (False, True):
        x = given(dependent)
        training = Training(x[:20], torch.arange(20), x[20:])
        chosen, scale = with_scale(method, Head(SPEC), training, 3)
        assert scale in SCALES and chosen.l2.lambda_0 == pytest.approx(1000 * scale)
        again, _ = with_scale(method, Head(SPEC), training, 3)
        assert again == chosen
        found[dependent] = scale
    assert found[True] < found[False]


def test_without_held_out_images_or_the_wish_nothing_changes() -> None:
    x = given(True)
    fixed = MethodConfig(l2=L2Config(form="constant", lambda_0=1000))
    assert with_scale(fixed, Head(SPEC), Training(x, torch.arange(30), x), 0) == (fixed, None)
    auto = MethodConfig(l2=L2Config(form="constant", auto=True))
    assert with_scale(auto, Head(SPEC), Training(x, torch.arange(30)), 0) == (auto, None)
