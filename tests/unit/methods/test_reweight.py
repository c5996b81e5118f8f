"""Learning to reweight."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from rad_lightning.config import MethodConfig
from rad_lightning.flows.coupling import nll
from rad_lightning.flows.heads import Head, HeadSpec
from rad_lightning.methods.batches import ImageBatch
from rad_lightning.methods.reweight import ReweightBatch, ReweightFlow, shares

SPEC = HeadSpec(grid=(2, 2), inputs=6, channels=4, blocks=2, hidden=8, clamp=1.0, position_dims=4,
                top_fraction=0.5, score="nll", seed=3, center="global")  # fmt: skip


def test_shares_are_what_helps_and_even_where_nothing_does() -> None:
    torch.testing.assert_close(
        shares(torch.tensor([3.0, -2.0, 1.0])), torch.tensor([0.75, 0, 0.25])
    )
    torch.testing.assert_close(shares(torch.tensor([-3.0, -2.0])), torch.tensor([0.5, 0.5]))


def batch() -> ReweightBatch:
    stream = Generator().manual_seed(0)
    images = torch.randn(5, 3, 4, generator=stream)
    images[4] += 6  # unlike the trusted ones
    places = torch.randint(4, (5, 3), generator=stream)
    trusted, at = torch.randn(7, 4, generator=stream), torch.randint(4, (7,), generator=stream)
    return ReweightBatch(ImageBatch(images, places), trusted, at)


def gradient(head: Head, values: Tensor, places: Tensor) -> Tensor:
    head.flow.zero_grad()
    nll(head.flow, None, values, head.condition(places)).mean().backward()
    return torch.cat(
        [p.grad.flatten().clone() for p in head.flow.parameters() if p.grad is not None]
    )


def test_the_weights_are_the_products_of_gradients_taken_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = Head(SPEC)
    for p in head.flow.parameters():  # an untrained flow is the identity
        p.data += 0.1 * torch.randn(p.shape, generator=Generator().manual_seed(1))
    module = ReweightFlow(head, MethodConfig())
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    given = batch()
    loss = module.training_step(given, 0)
    goal = gradient(head, given.trusted, given.positions)
    products, losses = [], []
    for values, places in zip(*given.images, strict=True):
        products.append(gradient(head, values, places) @ goal)
        losses.append(nll(head.flow, None, values, head.condition(places)).mean())
    weights = torch.stack(products).clamp(min=0)
    expected = (weights / weights.sum() * torch.stack(losses)).sum()
    torch.testing.assert_close(loss, expected)
    assert (weights > 0).any() and not (weights > 0).all()
