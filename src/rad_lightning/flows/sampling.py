"""What a flow is shown: weighted draws from running sums, which are computed once, and jitter.

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


def bandwidth(jitter: float, images: int) -> float:
    """Standard deviation of the noise for a flow of so many images: ``jitter`` for one, and less
    with their fourth root, as the width of a kernel estimate falls (Scott, 1992) at its fastest."""
    return jitter / float(images**0.25)


def jittered(samples: Tensor, sigma: float, generator: Generator) -> Tensor:
    """``samples`` with Gaussian noise of standard deviation ``sigma``, in theirs; 0: themselves.

    A flow of few images then learns a smoother density (noise regularisation; Rothfuss et al.,
    2019), and what no training image shows is less often an anomaly to it.
    """
    if not sigma:
        return samples
    noise = torch.randn(samples.shape, generator=generator)
    return samples + sigma * noise.to(samples)
