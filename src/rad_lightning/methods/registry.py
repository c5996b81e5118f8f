"""The parts that a method is composed of: each registers itself, and is chosen by its settings.

selection   which training images and samples are believed, and how much: a ``Trust``
objective   what is minimised: a module with its batches, or a detector without a flow
penalty     what is added to the loss of a step, and of an inner step

A further part is one module of this package with a decorated function, and one YAML with
``parts: {NAME: {...}}``, see ``part``. The built-in ones have a group of settings of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.config import MethodConfig, faults
from rad_lightning.flows.heads import Head
from rad_lightning.robust.contamination import Contamination


@dataclass(frozen=True)
class Trust:
    """How far each of N training images is trusted, before the training.

    ``suspicion`` ``(N,)`` from 0, the most ordinary, to 1, NaN of an image that was not ranked;
    ``weights`` ``(N, V, L)``: how often a sample is learned from; ``exposed`` ``(N, V, L)``: how
    often one is pushed away, if any is.
    """

    suspicion: Tensor
    suspects: Tensor
    weights: Tensor
    exposed: Tensor | None
    contamination: Contamination
    assumed: float  # the contamination that the suspects were chosen by
    strength: float  # of the exposure, from 0 to 1
    odd: Tensor | None = None  # (N, V, L): how unusual each sample is within its image, from 0 to 1

    def of(self, images: Tensor) -> Trust:
        """The same of some of the images, ``(N,)`` bool."""
        exposed = None if self.exposed is None else self.exposed[images]
        if exposed is not None and not (exposed > 0).any():
            exposed = None
        return replace(
            self,
            suspicion=self.suspicion[images],
            suspects=self.suspects[images],
            weights=self.weights[images],
            exposed=exposed,
            odd=None if self.odd is None else self.odd[images],
        )

    def among(self, images: Tensor) -> Trust:
        """The same in a larger set, of which these are the ``images``, bool: the others are not
        ranked, and neither learned nor pushed away."""

        def spread(values: Tensor, other: float) -> Tensor:
            every = values.new_full((len(images), *values.shape[1:]), other)
            every[images] = values
            return every

        return replace(
            self,
            suspicion=spread(self.suspicion, math.nan),
            suspects=spread(self.suspects, False),
            weights=spread(self.weights, 0.0),
            exposed=None if self.exposed is None else spread(self.exposed, 0.0),
            odd=None if self.odd is None else spread(self.odd, math.nan),
        )

    def summary(self) -> dict[str, Any]:
        """For ``result.json``."""
        return {
            "contamination": asdict(self.contamination),
            "assumed_rate": self.assumed,
            "strength": self.strength,
            "suspects": int(self.suspects.sum()),
            "images": int((~self.suspicion.isnan()).sum()),
        }


@dataclass(frozen=True)
class Training:
    """What a method may learn from: samples ``(n, V, L, D)`` of the training images and their
    physical parts ``(n,)``.

    ``held_out`` ``(m, V, L, D)`` are images that are not trained on. ``trust`` is about the
    ``samples``, and ``injected`` their true contamination, for oracles. ``corrupted`` are the
    training images with synthetic defects; ``others`` are samples and parts of further categories.
    Only some task sources need them.
    """

    samples: Tensor
    groups: Tensor
    held_out: Tensor | None = None
    trust: Trust | None = None
    injected: float = 0.0
    corrupted: Tensor | None = None
    others: tuple[tuple[Tensor, Tensor], ...] = ()
    good: Tensor | None = None  # (g, V, L, D): those of ``samples`` that a person has confirmed
    jitter: float = 0.0  # standard deviation of the noise on what a flow is shown of ``samples``


SELECTION, OBJECTIVE, PENALTY = "selection", "objective", "penalty"
USUAL = "likelihood"  # the objective where no other is chosen
Chosen = Callable[[MethodConfig], bool]
Build = TypeVar("Build", bound=Callable[..., Any])


@dataclass(frozen=True)
class Part:
    """A registered part.

    ``build``: a selection's is ``(method, head, samples, groups, injected, seed, tick, reviewed) ->
    Trust``, an objective's ``(method, head, training, seed) -> (module, batches)`` or, without a
    ``flow``, ``-> detector``; a penalty's ``(method) -> nn.Module`` with ``step`` and ``inner`` as
    in ``methods.penalty.Penalty``. ``head`` has its whitening fitted and its flow untrained.

    ``ticks``: how often a selection calls ``tick``; ``cost``: of a selection, or of a step of an
    objective, in steps of maximum likelihood.
    """

    kind: str
    name: str
    build: Callable[..., Any]
    chosen: Chosen
    named: bool  # chosen by ``method.parts.NAME``
    settings: type | None
    flow: bool
    ticks: Callable[[MethodConfig], int]
    cost: Callable[[MethodConfig], float]


PARTS: dict[tuple[str, str], Part] = {}


def part(
    kind: str,
    name: str,
    *,
    chosen: Chosen | None = None,
    settings: type | None = None,
    flow: bool = True,
    ticks: Callable[[MethodConfig], int] = lambda _: 0,
    cost: Callable[[MethodConfig], float] | None = None,
) -> Callable[[Build], Build]:
    """Registers a ``build`` function, see ``Part``.

    Args:
        chosen: by which settings; ``None``: by ``method.parts.NAME``.
        settings: dataclass of what stands there; ``settings_of`` gives it to ``build``.
    """
    usual_cost = 1.0 if kind == OBJECTIVE else 0.0

    def register(build: Build) -> Build:
        by_name: Chosen = lambda method: name in method.parts  # noqa: E731
        PARTS[kind, name] = Part(
            kind, name, build, chosen or by_name, chosen is None, settings, flow, ticks,
            cost or (lambda _: usual_cost),
        )  # fmt: skip
        return build

    return register


def chosen_part(kind: str, method: MethodConfig) -> Part | None:
    """The part of this kind that the settings choose.

    Raises:
        UserError: they choose two.
    """
    found = [p for (k, _), p in sorted(PARTS.items()) if k == kind and p.chosen(method)]
    if len(found) > 1:
        names = " and ".join(p.name for p in found)
        raise UserError(f"method={method.name} has two parts of the kind {kind}: {names}; use one")
    return found[0] if found else None


def objective_of(method: MethodConfig) -> Part:
    return chosen_part(OBJECTIVE, method) or PARTS[OBJECTIVE, USUAL]


def settings_of(method: MethodConfig, name: str) -> Any:
    """What stands under ``method.parts.NAME``, as the dataclass that the part registered.

    Raises:
        UserError: an unknown key, or a value that its field does not accept.
    """
    schema = next(p.settings for (_, n), p in PARTS.items() if n == name)
    if schema is None:
        return None
    try:
        typed = OmegaConf.to_object(OmegaConf.merge(schema, method.parts[name] or {}))
    except OmegaConfBaseException as error:
        raise UserError(f"method.parts.{name}: {str(error).splitlines()[0]}") from error
    for fault in faults(typed, f"method.parts.{name}."):
        raise UserError(fault)
    return typed


def check_parts(method: MethodConfig) -> None:
    """Raise ``UserError`` at a part that is not registered, at wrong settings of one, and at two of
    a kind."""
    names = sorted(name for (_, name), part in PARTS.items() if part.named)
    for name in method.parts:
        if name not in names:
            known = f"choose from {', '.join(names)}" if names else "none is registered"
            raise UserError(f"method.parts.{name}: no such part; {known}")
        settings_of(method, name)
    for kind in (SELECTION, OBJECTIVE, PENALTY):
        chosen_part(kind, method)


def build_method(method: MethodConfig, head: Head, training: Training, seed: int) -> Any:
    """What the chosen objective builds, see ``Part``.

    Raises:
        UserError: too few or no images to learn from.
    """
    return objective_of(method).build(method, head, training, seed)


def plain_steps(method: MethodConfig) -> float:
    """About how many steps of maximum likelihood take as long as a training by ``method``, its
    selection included."""
    selection = chosen_part(SELECTION, method)
    return method.steps * objective_of(method).cost(method) + (
        selection.cost(method) if selection else 0.0
    )
