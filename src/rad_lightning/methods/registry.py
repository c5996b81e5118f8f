"""What a training may minimise: each objective registers itself, and is chosen by its settings.

A further one is a module of this package with a decorated function, see ``objective``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rad_lightning.config import MethodConfig
from rad_lightning.flows.heads import Head
from rad_lightning.methods.selection import Trust, trust_steps


@dataclass(frozen=True)
class Training:
    """What a method may learn from: samples ``(n, V, L, D)`` of the training images and their
    physical parts ``(n,)``.

    ``held_out`` ``(m, V, L, D)`` are images that are not trained on. ``trust`` is about the
    ``samples``, and ``injected`` their true contamination, for oracles. ``spoiled`` are the
    training images with synthetic defects; ``others`` are samples and parts of further categories.
    Only some task sources need them.
    """

    samples: Tensor
    groups: Tensor
    held_out: Tensor | None = None
    trust: Trust | None = None
    injected: float = 0.0
    spoiled: Tensor | None = None
    others: tuple[tuple[Tensor, Tensor], ...] = ()


Build = Callable[[MethodConfig, Head, Training, int], Any]


@dataclass(frozen=True)
class Objective:
    """How a flow is fitted, or what is there in its place.

    ``build(method, head, training, seed)`` gives the module and its batches, both for Lightning;
    without a ``flow``, a detector of its own. ``head`` has its whitening fitted and its flow
    untrained. ``cost``: of a step, in steps of maximum likelihood.
    """

    name: str
    build: Build
    chosen: Callable[[MethodConfig], bool]
    flow: bool
    cost: Callable[[MethodConfig], float]


OBJECTIVES: dict[str, Objective] = {}
USUAL = "likelihood"  # where no other is chosen


def objective(
    name: str,
    *,
    chosen: Callable[[MethodConfig], bool] = lambda _: False,
    flow: bool = True,
    cost: Callable[[MethodConfig], float] = lambda _: 1.0,
) -> Callable[[Build], Build]:
    """Registers a ``build`` function, see ``Objective``; ``chosen`` says by which settings."""

    def register(build: Build) -> Build:
        OBJECTIVES[name] = Objective(name, build, chosen, flow, cost)
        return build

    return register


def objective_of(method: MethodConfig) -> Objective:
    """The objective that the settings choose; ``MethodConfig.check`` refuses two."""
    found = [one for one in OBJECTIVES.values() if one.chosen(method)]
    return found[0] if found else OBJECTIVES[USUAL]


def build_method(method: MethodConfig, head: Head, training: Training, seed: int) -> Any:
    """What the chosen objective builds, see ``Objective``.

    Raises:
        UserError: too few or no images to learn from.
    """
    return objective_of(method).build(method, head, training, seed)


def plain_steps(method: MethodConfig) -> float:
    """About how many steps of maximum likelihood take as long as a training by ``method``, its
    ranking of the training images included: a step of F stacked flows takes as long as F."""
    trust = method.trust
    folds = trust.folds if trust.source != "in_sample" else 1
    ranking = trust_steps(trust) * folds if trust.on else 0
    return method.steps * objective_of(method).cost(method) + ranking
