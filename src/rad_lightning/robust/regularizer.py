"""The adaptive L2 penalty: its strength λ(U) and what it weighs, R(θ)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def weight_penalty(params: Mapping[str, Tensor]) -> Tensor:
    """R(θ): the mean square of all weights, ``()``; biases, which scale nothing, are left out.

    The mean, not the sum: with the sum the penalty of a flow of millions of weights is far larger
    than a likelihood in nats per dimension.

    Raises:
        ValueError: no parameter whose name ends in ``weight``.
    """
    weights = [p for name, p in params.items() if name.endswith("weight")]
    if not weights:
        raise ValueError("no parameter is a weight")
    total = torch.stack([w.square().sum() for w in weights]).sum()
    return total / sum(w.numel() for w in weights)


def affine(uncertainty: Tensor, lambda_0: float, gamma: float) -> Tensor:
    """``λ(U) = λ₀·(1 + γ·U)`` (CoMet; Aqeel et al., ICCV 2025)."""
    return lambda_0 * (1 + gamma * uncertainty)


def log_linear(uncertainty: Tensor, lambda_min: float, lambda_max: float) -> Tensor:
    """From ``λ_min`` at U = 0 to ``λ_max`` at U = 1, even in log λ: several orders of magnitude
    where ``affine`` spans a factor of 1 + γ."""
    low, high = math.log(lambda_min), math.log(lambda_max)
    return torch.exp(low + uncertainty * (high - low))
