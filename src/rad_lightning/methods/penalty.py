"""The adaptive penalty of a training: a running uncertainty, and what it makes of λ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rad_lightning.config import L2Config, MethodConfig
from rad_lightning.methods.registry import PENALTY, part
from rad_lightning.robust.regularizer import affine, log_linear, weight_penalty


def gathered(values: Tensor) -> Tensor:
    """``(n, ...)`` of every process, ``(world * n, ...)``: what one process would have seen."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)


class Penalty(nn.Module):
    """``λ(U)·R(θ)`` with U the running mean of the values given to ``update``, 0 before.

    U belongs to the state of a training: a resumed one goes on with it, and all processes of one
    share it.
    """

    total: Tensor
    mass: Tensor

    def __init__(self, cfg: L2Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("mass", torch.zeros(()))

    @property
    def uncertainty(self) -> Tensor:
        """U, ``()``."""
        return torch.where(self.mass > 0, self.total / self.mass.clamp(min=1e-12), 0.0)

    @property
    def strength(self) -> Tensor:
        """λ(U), ``()``."""
        c, u = self.cfg, self.uncertainty
        if c.form == "log_linear":
            return log_linear(u, c.lambda_min, c.lambda_max)
        return affine(u, c.lambda_0, c.gamma if c.form == "affine" else 0.0)

    def forward(self, params: Mapping[str, Tensor]) -> Tensor:
        """The penalty of ``params``, ``()``."""
        return self.strength * weight_penalty(params)

    @property
    def inner(self) -> Callable[[Mapping[str, Tensor]], Tensor] | None:
        """What an inner step adds to its loss, if anything."""
        return self if self.cfg.where != "outer" else None

    def step(self, module: Any, loss: Tensor, normal: Tensor, uncertainty: Tensor | None) -> Tensor:
        """``loss`` of an (outer) step with the penalty of ``module.params``, logged; with the
        uncertainty of the steps before, this step's counts from the next one on.

        Args:
            module: the ``FlowModule``.
            normal: NLLs of what is learned as normal, which the uncertainty is read off where it
                is not given.
        """
        if uncertainty is None:
            uncertainty = module.measure(normal.detach())
        outer, strength = self.cfg.where != "inner", self.strength
        with torch.set_grad_enabled(outer):
            size = weight_penalty(module.params)
        if outer:
            loss = loss + strength * size
        module.log("train/lambda", strength)
        module.log("train/weight_penalty", size.detach())
        self.update(uncertainty)
        module.log("train/uncertainty", self.uncertainty)
        return loss

    @torch.no_grad()
    def update(self, uncertainty: Tensor) -> None:
        """Take the uncertainty of one step, ``()``, into account: of all processes together."""
        m = self.cfg.momentum
        self.total.copy_(m * self.total + (1 - m) * uncertainty)
        self.mass.copy_(m * self.mass + (1 - m))


@part(PENALTY, "l2", chosen=lambda method: method.l2.on)
def build_penalty(method: MethodConfig) -> Penalty:
    return Penalty(method.l2)
