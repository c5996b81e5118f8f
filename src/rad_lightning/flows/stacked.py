"""Several flows of one shape trained at once, as one batch over their parameters: plain torch.

K flows cost little more than one where each step is small, since an operation of all of them is one
operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import stack_module_state, vmap

from rad_lightning.flows.coupling import Parameters

WARM_UP = 0.1  # share of the steps in which the learning rate rises: a flow starts as the identity

Loss = Callable[[Parameters, Any], Tensor]  # of one flow: (parameters, batch) -> ()


def one_cycle(
    optimizer: torch.optim.Optimizer, lr: float, steps: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    """A learning rate that rises to ``lr`` in a tenth of ``steps``, then falls to almost zero.

    Adam's first momentum falls and rises against it, from 0.95 to 0.85 and back. Below 10 steps
    there is no rise: the scheduler divides by its length.
    """
    rise = WARM_UP if steps * WARM_UP >= 1 else 0.0
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1, pct_start=rise)


def fit_stack(
    modules: Sequence[nn.Module],
    draw: Callable[[], Any],
    loss: Loss,
    *,
    steps: int,
    lr: float,
    clip: float = 1.0,
    tick: Callable[[], object] = lambda: None,
) -> dict[str, Tensor]:
    """The parameters of K trained models by name, each ``(K, ...)``; ``modules`` stay as they are.

    Adam under ``one_cycle``; each model has a learning rate, moments and gradient norm of its own,
    so that it becomes what it would have become alone.

    Args:
        modules: K of the same shape; where they start.
        draw: the batch of a step: a tuple of tensors ``(K, ...)``, ``None`` where there is none.
        loss: of one of the models on its part of the batch; differentiated and mapped over K.
        clip: largest norm of a model's gradient.
        tick: called after every step.
    """
    stacked, _ = stack_module_state(list(modules))
    params = {name: p.detach().clone().requires_grad_() for name, p in stacked.items()}
    optimizer = torch.optim.Adam(params.values(), lr=lr)
    schedule = one_cycle(optimizer, lr, steps)
    for _ in range(steps):
        batch = draw()
        parts = tuple(None if part is None else 0 for part in batch)
        losses = vmap(loss, (0, parts))(params, batch)
        optimizer.zero_grad()
        losses.sum().backward()
        clip_each([p.grad for p in params.values() if p.grad is not None], clip)
        optimizer.step()
        schedule.step()
        tick()
    return {name: p.detach() for name, p in params.items()}


def clip_each(gradients: list[Tensor], largest: float) -> None:
    """Shorten, in place, the gradient of each of the stacked models to the norm ``largest``."""
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
    scale = (largest / squares.sqrt().clamp(min=1e-12)).clamp(max=1.0)
    for g in gradients:
        g.mul_(scale.view(-1, *[1] * (g.ndim - 1)))
