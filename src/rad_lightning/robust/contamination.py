"""How far images stand out of the majority, and how many are mislabelled by that."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Generator, Tensor

from rad_lightning.robust.trusted import parts


def deviations(scores: Tensor) -> Tensor:
    """How far each score ``(N,)`` lies above the median, in spreads of the ordinary ones, ``(N,)``.

    The spread is the root mean square distance of the lower half from the median: mislabelled
    images lie above it and cannot widen it. 0 where the lower half is all alike.
    """
    values = scores.double()
    if (finite := values[values.isfinite()]).numel():
        values = values.clamp(finite.min(), finite.max())
    centre = values.quantile(0.5)
    below = values[values <= centre] - centre
    spread = below.square().mean().sqrt()
    return (values - centre) / spread if spread > 0 else torch.zeros_like(values)


@dataclass(frozen=True)
class Contamination:
    """An estimate of the share of mislabelled training images, with its 95 % interval."""

    value: float
    low: float
    high: float


MAJORITY = 0.5  # a larger share cannot be estimated: normal images must be the majority
STANDS_OUT = 2.0  # standard deviations of the normal images' scores
# Of the mislabelled images at least so many are taken to stand out, and all where those that do lie
# ``ALL_SEEN`` deviations further out on average.
LEAST_SEEN, ALL_SEEN = 0.4, 3.0
# At most this share is left out before the centre of the normal images is estimated: with more, the
# estimate for a small set is arbitrary.
MOST_VISIBLE = 0.25


def contamination(
    scores: Tensor, groups: Tensor, generator: Generator, resamples: int = 200
) -> Contamination:
    """The share of images whose scores ``(N,)`` stand out of the majority's, and of those that
    would do so with them (``outstanding``), at most one half.

    The interval is a bootstrap over physical parts, as images of one part are not independent. It
    says how much the estimate would move with other parts; it does not cover what the model cannot
    see: anomalies that all score like normal images.

    Infinite scores count as the largest finite one.
    """
    part = parts(groups)
    count = int(part.max()) + 1
    found = []
    for _ in range(resamples):
        drawn = torch.randint(count, (count,), generator=generator)
        found.append(torch.bincount(drawn, minlength=count)[part].double())
    weights = torch.stack([torch.ones(len(scores), dtype=torch.double), *found])
    values = scores.double()
    if (finite := values[values.isfinite()]).numel():
        values = values.clamp(finite.min(), finite.max())
    shares = outstanding(values.nan_to_num(posinf=0.0, neginf=0.0), weights)
    low, high = shares[1:].quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    value = float(shares[0])
    return Contamination(value, min(low, value), max(high, value))


def outstanding(values: Tensor, weights: Tensor, rounds: int = 40) -> Tensor:
    """The estimated share of anomalies among scores.

    Scores of normal images are taken as normally distributed; their centre and scale are read off
    the lower side, where no anomaly is. What lies ``STANDS_OUT`` deviations above it, beyond what
    such a distribution has there, is visible. The less far out it lies on average, the more is
    taken to hide among the normal images: the visible share is scaled up by ``ALL_SEEN`` over that
    excess. Both constants were set on magnetic tiles (seeds 100-103).

    Args:
        values: ``(N,)``.
        weights: ``(B, N)``: every row is an estimate of its own.

    Returns:
        ``(B,)``; 0 where all values are alike.
    """
    order = values.argsort()
    x, w = values[order], weights[:, order]
    place = w.cumsum(1)
    total = place[:, -1:]

    def quantile(level: Tensor) -> Tensor:
        at = torch.searchsorted(place, level[:, None] * total).clamp(max=len(x) - 1)
        return x[at[:, 0]]

    below, tail = NormalDist().cdf(-1), NormalDist().cdf(-STANDS_OUT)
    visible = torch.full((len(w),), MOST_VISIBLE, dtype=values.dtype)
    for _ in range(rounds):
        ordinary = 1 - visible.clamp(max=MOST_VISIBLE)
        centre = quantile(0.5 * ordinary)
        scale = centre - quantile(below * ordinary)
        z = (x - centre[:, None]) / scale.clamp(min=1e-9)[:, None]
        above = (w * (z > STANDS_OUT)).sum(1)
        beyond = ((above / total[:, 0] - tail) / (1 - tail)).clamp(0, MAJORITY)
        visible = 0.7 * visible + 0.3 * beyond
    excess = (w * (z - STANDS_OUT).clamp(min=0)).sum(1) / above.clamp(min=1e-9)
    seen = (excess / ALL_SEEN).clamp(LEAST_SEEN, 1)
    return torch.where(scale > 1e-6, (visible / seen).clamp(max=MAJORITY), 0.0)
