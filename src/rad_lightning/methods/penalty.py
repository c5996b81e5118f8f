"""The adaptive penalty of a training: a running uncertainty, and what it makes of λ."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rad_lightning.config import L2Config
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

    @torch.no_grad()
    def update(self, uncertainty: Tensor) -> None:
        """Take the uncertainty of one step, ``()``, into account: of all processes together."""
        m = self.cfg.momentum
        self.total.copy_(m * self.total + (1 - m) * uncertainty)
        self.mass.copy_(m * self.mass + (1 - m))
