"""Weighted draws with replacement from running sums, which are computed once for all draws.

Not ``torch.multinomial``: it sums the weights at every draw, and takes no more than 2^24 of them.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def running_sums(weights: Tensor) -> Tensor:
    """``(..., P) -> (..., P)`` in double precision."""
    return weights.double().cumsum(-1)


def drawn_from(sums: Tensor, count: int, generator: Generator) -> Tensor:
    """``count`` places for each row of running sums, ``(K, P) -> (K, count)``; a place of weight 0
    is never drawn."""
    where = torch.rand(len(sums), count, generator=generator, dtype=torch.double)
    return torch.searchsorted(sums, where * sums[:, -1:], right=True)
