"""The inner loop of MAML (Finn et al., ICML 2017) as a pure function over parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from rad_lightning.flows.coupling import Parameters

Loss = Callable[[Parameters, Any], Tensor]
# α: one number; one per inner step (K,); or one per weight, {name: as the parameter} (Meta-SGD).
Rate = float | Tensor | Mapping[str, Tensor]


def adapt(
    loss: Loss,
    params: Parameters,
    support: Any,
    *,
    steps: int,
    lr: Rate,
    order: int = 2,
    names: Collection[str] | None = None,
    clip: float | None = None,
) -> dict[str, Tensor]:
    """``θ'_{k+1} = θ'_k − α ∇ loss(θ'_k, support)`` for k < ``steps``; ``params`` stay as they are.

    The result is differentiable with respect to ``params`` and ``lr``, by autograd as well as by
    ``torch.func``, and the function can be mapped over tasks with ``torch.func.vmap``.

    Args:
        loss: ``(parameters, support) -> ()``.
        steps: K; 0 gives ``params`` back.
        lr: α, see ``Rate``. Learned per weight it is Meta-SGD (Li et al., 2017).
        order: 2 differentiates through the inner gradients; 1 takes them for constants, so that the
            outer gradient is that of the outer loss at θ'_K (first-order MAML).
        names: the parameters that adapt, the others stay at θ (ANIL, Raghu et al., ICLR 2020);
            ``None``: all.
        clip: largest norm of an inner gradient, over all parameters together; ``None``: any. A
            single outlier in a small support can otherwise throw θ' out of the flow's stable range.

    Raises:
        KeyError: a name or a key of ``lr`` that is no parameter, or a name that ``lr`` lacks.
        ValueError: an order other than 1 and 2, or an ``lr`` for another number of steps.
    """
    moving = set(params) if names is None else set(names)
    if unknown := moving - params.keys():
        raise KeyError(f"not a parameter: {min(unknown)!r}")
    if order not in (1, 2):
        raise ValueError(f"order = {order}: use 1 or 2")
    if isinstance(lr, Mapping) and (unknown := (lr.keys() - params.keys()) | (moving - lr.keys())):
        raise KeyError(f"learning rates do not fit the parameters: {min(unknown)!r}")
    if isinstance(lr, Tensor) and lr.shape not in ((), (steps,)):
        raise ValueError(f"lr has the shape {tuple(lr.shape)}: use () or ({steps},)")
    current = dict(params)
    for k in range(steps):
        # Detached before, not after: the graph of a gradient that is a constant is never built.
        at = current if order == 2 else {n: p.detach() for n, p in current.items()}
        rest = {n: p for n, p in at.items() if n not in moving}

        def inner(adapting: Parameters, rest: Parameters = rest) -> Tensor:
            return loss({**rest, **adapting}, support)

        gradients = grad(inner)({n: p for n, p in at.items() if n in moving})
        if clip is not None:
            gradients = clipped(gradients, clip)
        current |= {n: current[n] - _rate(lr, n, k) * g for n, g in gradients.items()}
    return current


def clipped(gradients: Parameters, largest: float) -> dict[str, Tensor]:
    """``gradients`` shortened to the norm ``largest`` where they are longer."""
    squares = torch.stack([g.square().sum() for g in gradients.values()]).sum()
    # Inside the root, so that its derivative at zero stays finite.
    scale = (largest / (squares + 1e-24).sqrt()).clamp(max=1.0)
    return {name: scale * g for name, g in gradients.items()}


def _rate(lr: Rate, name: str, step: int) -> float | Tensor:
    if isinstance(lr, Mapping):
        return lr[name]
    if isinstance(lr, Tensor) and lr.ndim:
        return lr[step]
    return lr
