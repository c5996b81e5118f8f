"""How far images stand out of the majority, and how many are mislabelled by that."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from rad_lightning.robust.trusted import parts


def deviations(scores: Tensor, usable: Tensor | None = None) -> Tensor:
    """How far each score ``(N,)`` lies above the median, in spreads of the ordinary ones, ``(N,)``.
    Both come from the ``usable`` ones, ``(N,)`` bool, all if not given.

    The spread is the root mean square distance of the lower half from the median: mislabelled
    images lie above it and cannot widen it. 0 where the lower half is all alike.
    """
    values = scores.double()
    if (finite := values[values.isfinite()]).numel():
        values = values.clamp(finite.min(), finite.max())
    among = values if usable is None or not usable.any() else values[usable]
    centre = among.quantile(0.5)
    below = among[among <= centre] - centre
    spread = below.square().mean().sqrt()
    return (values - centre) / spread if spread > 0 else torch.zeros_like(values)


@dataclass(frozen=True)
class Contamination:
    """An estimate of the share of mislabelled training images, with its 95 % interval."""

    value: float
    low: float
    high: float


MAJORITY = 0.5  # a larger share cannot be estimated: normal images must be the majority
RAMP = 1.0  # spreads to either side of the fence
# Of clean images, 2 to 8 % lie beyond a fence at three spreads in sets of two hundred and more, up
# to 19 % in a second round on sets of fifty, whose bootstrap reaches below 10 % (docs/method.md).
TAIL, LARGEST_TAIL = 0.05, 0.1


def beyond(above: Tensor, fence: float) -> Tensor:
    """How surely images ``above`` so many spreads lie beyond the fence, ``(N,)``: not at all up to
    ``RAMP`` below it, wholly from ``RAMP`` above it on, linearly between. A step would hang on the
    last digit of a score."""
    return ((above - fence + RAMP) / (2 * RAMP)).clamp(0, 1)


def contamination(
    above: Tensor, groups: Tensor, fence: float, generator: Generator, resamples: int = 200
) -> Contamination:
    """The share of images that lie beyond the fence and that clean images would not have there, at
    most one half.

    The interval is a bootstrap over physical parts, as images of one part are not independent. Its
    lower end allows for so many rare normal images that it was 0 on every clean data set, its upper
    end for none. It does not cover what the model cannot see: anomalies that all score like normal
    images.

    Args:
        above: ``(N,)``, see ``deviations``.
        groups: ``(N,)`` physical parts.
        fence: in spreads.
    """
    part, doubt = parts(groups), beyond(above, fence).double()
    count = int(part.max()) + 1
    drawn = torch.randint(count, (resamples, count), generator=generator)
    votes = torch.zeros(resamples, count).scatter_add_(1, drawn, torch.ones(drawn.shape))
    weights = votes[:, part].double()
    shares = (weights * doubt).sum(1) / weights.sum(1)
    low, high = shares.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    share = float(doubt.mean())
    value = among_others(share, TAIL)
    return Contamination(
        value, min(among_others(low, LARGEST_TAIL), value), max(min(high, MAJORITY), value)
    )


def among_others(share: float, tail: float) -> float:
    """The share ρ of anomalies where ``share`` = ρ + (1 − ρ)·``tail`` lies beyond the fence."""
    return min(max((share - tail) / (1 - tail), 0.0), MAJORITY)
