"""The coupling flow of both heads, built from normflows layers.

normflows' own containers accumulate log-determinants in place, which breaks under
``torch.func.vmap``; here couplings built on its ``AffineCoupling`` are composed with out-of-place
sums, so that ``vmap``, ``grad`` and ``grad`` of ``grad`` all work on ``functional_call``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from normflows.flows import AffineCoupling
from normflows.nets import MLP
from torch import Tensor, nn
from torch.func import functional_call


def soft_clamp(log_scale: Tensor, limit: float) -> Tensor:
    """``limit * 0.636 * atan(s / limit)``: within ±``limit``, slope 0.636 at 0 (DifferNet)."""
    return limit * 0.636 * torch.atan(log_scale if limit == 1 else log_scale / limit)


class ClampedSubnet(nn.Module):
    """An MLP that gives shift and soft-clamped log-scale, ``(B, inputs) -> 2 x (B, outputs)``."""

    def __init__(self, inputs: int, hidden: int, outputs: int, clamp: float) -> None:
        super().__init__()
        # The last layer starts at zero, hence the flow as the identity: training starts from the
        # Gaussian that the whitening gives.
        self.net = MLP([inputs, hidden, 2 * outputs], leaky=0.01, init_zeros=True)
        self.clamp = clamp

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.net(x).chunk(2, dim=1)
        return shift, soft_clamp(log_scale, self.clamp)


class Coupling(AffineCoupling):
    """normflows' affine coupling for a subnet that gives shift and log-scale apart.

    The original reads them interleaved; weaving them for it and taking them apart again is an
    eighth of a training step on a CPU.
    """

    def forward(self, z: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        given, moved = z
        shift, log_scale = self.param_map(given)
        return [given, moved * torch.exp(log_scale) + shift], log_scale.sum(1)

    def inverse(self, z: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        given, moved = z
        shift, log_scale = self.param_map(given)
        back = -log_scale  # once: one of the larger costs of a training step
        return [given, (moved - shift) * torch.exp(back)], back.sum(1)


class CouplingFlow(nn.Module):
    """Two-sided affine couplings with fixed permutations between them (DifferNet, section 3.2).

    Args:
        dim: D, the length of a sample.
        blocks: number of two-sided coupling blocks.
        hidden: width of the subnets' hidden layer.
        clamp: bound of the log-scales.
        seed: of the permutations and the initial weights.
        condition: length of an optional side input of every subnet (a positional encoding).
    """

    second_given_first: Any  # lists of Coupling, whose package has no types
    first_given_second: Any
    orders: Tensor
    back: Tensor

    def __init__(
        self, dim: int, blocks: int, hidden: int, clamp: float, seed: int, condition: int = 0
    ) -> None:
        super().__init__()
        if dim < 2:
            raise ValueError(f"dim = {dim}: a coupling needs at least 2 dimensions")
        self.dim, self.split = dim, dim // 2
        first, second = self.split, dim - self.split
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            orders = torch.stack([torch.randperm(dim) for _ in range(blocks)])
            self.second_given_first = nn.ModuleList(
                Coupling(ClampedSubnet(first + condition, hidden, second, clamp))
                for _ in range(blocks)
            )
            self.first_given_second = nn.ModuleList(
                Coupling(ClampedSubnet(second + condition, hidden, first, clamp))
                for _ in range(blocks)
            )
        self.register_buffer("orders", orders)
        self.register_buffer("back", orders.argsort(1))
        self.names = frozenset(name for name, _ in self.named_parameters())

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to latent: ``(B, D) -> z (B, D), log|det dz/dx| (B,)``."""
        log_det = x.new_zeros(x.shape[0])
        for i in range(len(self.orders)):
            x = x.index_select(1, self.orders[i])  # several times as fast as x[:, order]
            a, b = x[:, : self.split], x[:, self.split :]
            (_, b), step = self.second_given_first[i].inverse([_with(a, condition), b])
            log_det = log_det + step
            (_, a), step = self.first_given_second[i].inverse([_with(b, condition), a])
            log_det = log_det + step
            x = torch.cat((a, b), 1)
        return x, log_det

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Latent to data: ``(B, D) -> (B, D)``."""
        for i in reversed(range(len(self.orders))):
            a, b = z[:, : self.split], z[:, self.split :]
            (_, a), _ = self.first_given_second[i]([_with(b, condition), a])
            (_, b), _ = self.second_given_first[i]([_with(a, condition), b])
            z = torch.cat((a, b), 1).index_select(1, self.back[i])
        return z


def _with(x: Tensor, condition: Tensor | None) -> Tensor:
    return x if condition is None else torch.cat((x, condition), 1)


def standard_normal_nll(z: Tensor, log_det: Tensor) -> Tensor:
    """``(½‖z‖² + (D/2)·log 2π − log|det|)/D``: the exact NLL in nats per dimension, ``(B,)``."""
    dim = z.shape[1]
    return (0.5 * z.square().sum(1) - log_det) / dim + 0.5 * math.log(2 * math.pi)


def latent_norm(z: Tensor) -> Tensor:
    """``½‖z‖²/D``: DifferNet's score, which leaves the volume term out, ``(B,)``."""
    return 0.5 * z.square().mean(1)


Parameters = Mapping[str, Tensor]


def call(
    flow: CouplingFlow, params: Parameters | None, x: Tensor, condition: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``flow.forward`` as a function of its parameters; always in float32 or wider.

    ``None`` stands for the flow's own parameters, which need not be put into it first.

    Raises:
        KeyError: ``params`` is not exactly the flow's parameters; ``functional_call`` alone would
            ignore a misspelt key and train nothing.
    """
    if params is not None and params.keys() != flow.names:
        unknown = min(params.keys() ^ flow.names)
        raise KeyError(f"parameters do not fit the flow: {unknown!r}")
    with torch.autocast(x.device.type, enabled=False):
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        result: tuple[Tensor, Tensor] = (
            flow(wide, condition)
            if params is None
            else functional_call(flow, dict(params), (wide, condition))
        )
    return result


def nll(
    flow: CouplingFlow, params: Parameters | None, x: Tensor, condition: Tensor | None = None
) -> Tensor:
    """The loss of every method: NLL of each sample, ``(B, D) -> (B,)``, nats per dimension.

    ``params`` as of ``call``.
    """
    return standard_normal_nll(*call(flow, params, x, condition))
