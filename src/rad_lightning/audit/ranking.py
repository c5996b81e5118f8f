"""The ranking of the images: where it is cut, and how good it is where the truth is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.evaluation.metrics import auroc
from rad_lightning.robust.contamination import Contamination

PRECISION_AT = (5, 10)  # beside the true number
SUSPECT, POSSIBLE, TRUSTED = "suspect", "possible", "trusted"


@dataclass(frozen=True)
class Ranking:
    """N images by suspicion.

    ``suspicion`` ``(N,)`` from 0 to 1; the first ``count`` of ``order`` are the suspects; up to
    ``possible``, the upper end of the estimate's interval, more may be mislabelled.
    """

    suspicion: Tensor
    order: tuple[int, ...]
    count: int
    possible: int
    estimate: Contamination

    def __len__(self) -> int:
        return len(self.order)

    def verdict(self, rank: int) -> str:
        """Of the image at place ``rank``, from 0."""
        if rank < self.count:
            return SUSPECT
        return POSSIBLE if rank < self.possible else TRUSTED

    def suspects(self) -> Tensor:
        """``(N,)`` bool."""
        found = torch.zeros(len(self), dtype=torch.bool)
        found[torch.tensor(self.order[: self.count], dtype=torch.long)] = True
        return found


def rank(suspicion: Tensor, estimate: Contamination, count: int | None) -> Ranking:
    """Images by falling suspicion, ties in the order of their rows; cut where the estimated
    contamination says, or at ``count``.

    Raises:
        UserError: a ``count`` that leaves no image.
    """
    images = len(suspicion)
    if count is not None and count >= images:
        raise UserError(f"count = {count}: use a value from 0 to {images - 1}, of {images} images")
    order = tuple(suspicion.argsort(descending=True, stable=True).tolist())
    most = images - 1
    cut = min(share_of(estimate.value, images), most) if count is None else count
    possible = max(cut, min(share_of(estimate.high, images), most))
    return Ranking(suspicion, order, cut, possible, estimate)


def share_of(share: float, images: int) -> int:
    """A share as a number of images, half up."""
    return math.floor(share * images + 0.5)


def precision_at(suspicion: Tensor, mislabelled: Tensor, k: int) -> float:
    """The share of truly mislabelled images, ``(N,)`` bool, among the ``k`` most suspicious.

    Of images that tie for the last places it is the mean over all their orders: the order of their
    names, which often contain the label, must not count.
    """
    last = suspicion.sort(descending=True).values[k - 1]
    above, tied = suspicion > last, suspicion == last
    left = k - int(above.sum())
    hits = float(mislabelled[above].sum()) + left * float(mislabelled[tied].double().mean())
    return hits / k


@dataclass(frozen=True)
class Accuracy:
    """How good a ranking is, with the truth known: shares of 1, but counts ``true``, ``found``."""

    true: int  # mislabelled images
    found: int  # of them, among the suspects
    precision: dict[int, float]  # at k
    auroc: float


def accuracy(ranking: Ranking, mislabelled: Tensor) -> Accuracy | None:
    """Of the truth ``(N,)`` bool; ``None`` where it has one class only, or is unknown."""
    true = int(mislabelled.sum())
    if not 0 < true < len(ranking):
        return None
    at = sorted({*(k for k in PRECISION_AT if k <= len(ranking)), true})
    return Accuracy(
        true,
        int((mislabelled & ranking.suspects()).sum()),
        {k: precision_at(ranking.suspicion, mislabelled, k) for k in at},
        auroc(ranking.suspicion.double(), mislabelled.long()),
    )
