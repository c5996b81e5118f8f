"""What the outer loop minimises: the loss of every task's query after adapting on its support."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from rad_lightning.flows.coupling import Parameters
from rad_lightning.meta.inner import Rate, adapt

# Losses of single samples: (parameters, batch) -> (B,).
Values = Callable[[Parameters, Any], Tensor]


@dataclass(frozen=True)
class Inner:
    """How a task is adapted to: the arguments of ``adapt``, and the inner loop's penalty."""

    steps: int
    lr: Rate
    order: int = 2
    names: Collection[str] | None = None
    clip: float | None = None
    penalty: Callable[[Parameters], Tensor] | None = None  # added to the support's mean loss

    def __call__(self, values: Values, params: Parameters, support: Any) -> dict[str, Tensor]:
        """θ'_K for one support."""

        def loss(at: Parameters, batch: Any) -> Tensor:
            fit = values(at, batch).mean()
            return fit if self.penalty is None else fit + self.penalty(at)

        return adapt(
            loss,
            params,
            support,
            steps=self.steps,
            lr=self.lr,
            order=self.order,
            names=self.names,
            clip=self.clip,
        )


class Outcome(NamedTuple):
    """Losses after adapting: ``(T, Q)`` of the queries; no graph: supports, and every task's
    adapted parameters on the first task's query ``(T, Q)``, where requested."""

    query: Tensor
    support: Tensor | None
    ensemble: Tensor | None


def outcome(
    values: Values,
    params: Parameters,
    support: Any,
    query: Any,
    inner: Inner,
    *,
    vectorised: bool = True,
    look_at_support: bool = False,
    look_at_ensemble: bool = False,
) -> Outcome:
    """Adapt to every task and evaluate on its query.

    Args:
        support, query: tuples of tensors with the tasks first, ``(T, S, ...)`` and ``(T, Q, ...)``.
        vectorised: all tasks in one ``vmap``, else one after the other; equal up to rounding.
    """
    first = tuple(part[0] for part in query)

    def task(support: Any, query: Any) -> tuple[Tensor, ...]:
        adapted = inner(values, params, support)
        found = [values(adapted, query)]
        with torch.no_grad():
            if look_at_support:
                found.append(values(adapted, support))
            if look_at_ensemble:
                found.append(values(adapted, first))
        return tuple(found)

    if vectorised:
        losses = list(vmap(task)(support, query))
    else:
        tasks = zip(zip(*support, strict=True), zip(*query, strict=True), strict=True)
        losses = [torch.stack(part) for part in zip(*(task(s, q) for s, q in tasks), strict=True)]
    return Outcome(
        losses.pop(0),
        losses.pop(0) if look_at_support else None,
        losses.pop(0) if look_at_ensemble else None,
    )
