"""What a person's verdicts on some training images say about the others: plain torch."""

from __future__ import annotations

from enum import IntEnum

import torch
from scipy.stats import binomtest
from torch import Generator, Tensor

from rad_lightning.robust.contamination import Contamination
from rad_lightning.robust.trusted import first_of_parts, parts


class Reviewed(IntEnum):
    """What is known of a training image."""

    NO = 0
    GOOD = 1
    MISLABELLED = 2
    PART = 3  # not judged, of a physical part with a mislabelled image: not to be learned as normal


LAST = 10  # judged images that say how the next ones are
ENOUGH = 8  # good ones in a row, after which hardly any mislabelled one is left to find


def bad(reviewed: Tensor) -> Tensor:
    """What must not be learned as normal, ``(N,)`` bool."""
    return (reviewed == Reviewed.MISLABELLED) | (reviewed == Reviewed.PART)


def judged(reviewed: Tensor) -> Tensor:
    """What somebody has looked at, ``(N,)`` bool."""
    return (reviewed == Reviewed.GOOD) | (reviewed == Reviewed.MISLABELLED)


def of_parts(reviewed: Tensor, groups: Tensor) -> Tensor:
    """``reviewed`` ``(N,)`` with ``PART`` for what nobody judged of a physical part of which an
    image is mislabelled. A good image says nothing of the others: a defect may be on another side.

    Args:
        groups: ``(N,)`` physical parts.
    """
    part = parts(groups)
    found = torch.isin(part, part[reviewed == Reviewed.MISLABELLED])
    return torch.where(found & (reviewed == Reviewed.NO), int(Reviewed.PART), reviewed)


def most(found: int, of: int) -> float:
    """The upper end of the 95 % Wilson interval of a share; 1 where nothing was counted."""
    if not of:
        return 1.0
    return float(binomtest(found, of).proportion_ci(method="wilson").high)


def last_rows(suspicion: Tensor, reviewed: Tensor, last: int = LAST) -> Tensor:
    """The ``last`` judged images along the falling ``suspicion`` ``(N,)``."""
    order = suspicion.nan_to_num(-1.0).argsort(descending=True, stable=True)
    return order[judged(reviewed[order])][-last:]


def last_judged(suspicion: Tensor, reviewed: Tensor, last: int = LAST) -> tuple[int, int]:
    """How many of the ``last`` judged images are mislabelled, and how many there are."""
    said = reviewed[last_rows(suspicion, reviewed, last)]
    return int((said == Reviewed.MISLABELLED).sum()), len(said)


def precision(suspicion: Tensor, reviewed: Tensor) -> float:
    """How likely the next suspect is mislabelled, by the last judged ones (Jeffreys' prior); 1
    where nobody judged, and the ranking is all there is."""
    found, of = last_judged(suspicion, reviewed)
    return (found + 0.5) / (of + 1) if of else 1.0


def alike(above: Tensor, suspicion: Tensor, reviewed: Tensor, width: float) -> Tensor:
    """How likely each image is mislabelled if it is like the last judged ones, ``(N,)``: as likely
    as they where they stand out as far, less below, and 0 from ``width`` times that below on.

    Args:
        above: ``(N,)`` how far each stands out, in spreads, see ``deviations``.
        width: over which a certainty would fade, in spreads.
    """
    rows = last_rows(suspicion, reviewed)
    if not len(rows):
        return torch.zeros(len(above))
    likely = precision(suspicion, reviewed)
    return (likely + (above - above[rows].mean()) / width).clamp(0, likely).float()


def advice(suspicion: Tensor, reviewed: Tensor) -> str | None:
    """Whether to judge more images, in a sentence; ``None`` where nobody has begun."""
    found, of = last_judged(suspicion, reviewed, ENOUGH)
    left = int((reviewed == Reviewed.NO).sum())
    if not of:
        return None
    if not left:
        return "all images are judged"
    if of == ENOUGH and not found:
        return f"the last {of} judged images are all good: stop here"
    return f"{found} of the last {of} judged images are mislabelled: judge the next {min(10, left)}"


def counted(
    estimate: Contamination, doubt: Tensor, suspicion: Tensor, reviewed: Tensor
) -> Contamination:
    """The contamination of N images, some of them judged.

    Judged ones are counted, and with them the other images of a mislabelled part. The rest were
    less suspicious, so that they are mislabelled at most as often as the last judged ones: the
    upper end takes the upper end of that share's interval for all of them, the value takes
    ``doubt`` times the share itself.

    Args:
        estimate: without any verdict; returned where nothing was judged.
        doubt: ``(N,)`` from 0 to 1, by the ranking alone.
        suspicion: ``(N,)``.
        reviewed: ``(N,)`` of ``Reviewed``.
    """
    others = reviewed == Reviewed.NO
    if others.all():
        return estimate
    total, mislabelled = len(reviewed), int(bad(reviewed).sum())
    rest = int(others.sum())
    low = mislabelled / total
    high = low + rest / total * most(*last_judged(suspicion, reviewed))
    hidden = float(doubt[others].sum()) * precision(suspicion, reviewed)
    return Contamination(min((mislabelled + hidden) / total, high), low, high)


def simulated(
    suspicion: Tensor,
    groups: Tensor,
    mislabelled: Tensor,
    budget: int,
    error: float,
    generator: Generator,
) -> Tensor:
    """The verdicts of a reviewer who knows the truth and errs with probability ``error``:
    ``(N,)`` of ``Reviewed``. As on the page of an audit, the most suspicious image of each physical
    part comes first; the others only when all parts are judged.

    Args:
        suspicion: ``(N,)``; NaN is never judged.
        groups: ``(N,)`` physical parts.
        mislabelled: ``(N,)`` bool, the truth.
        budget: verdicts.
    """
    order = suspicion.nan_to_num(-1.0).argsort(descending=True, stable=True)
    order = order[~suspicion[order].isnan()]
    first = torch.zeros(len(order), dtype=torch.bool)
    first[first_of_parts(order.tolist(), groups)] = True
    order = torch.cat([order[first], order[~first]])[:budget]
    wrong = torch.rand(len(suspicion), generator=generator) < error
    verdicts = torch.where(mislabelled ^ wrong, int(Reviewed.MISLABELLED), int(Reviewed.GOOD))
    found = torch.zeros(len(suspicion), dtype=torch.long)
    found[order] = verdicts[order]
    return found
