"""Detection metrics, with the inputs checked.

Scores are negative log-likelihoods, not probabilities: torchmetrics must not apply a sigmoid to
them (``normalization=None``). It notices neither NaN nor a missing class: both are checked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torchmetrics.classification import (
    BinaryAUROC,
    BinaryAveragePrecision,
    BinaryPrecisionRecallCurve,
)

from rad_lightning.common.errors import DivergedError

Metrics = dict[str, float]
PRO_LIMIT = 0.3  # the false-positive rate up to which AUPRO integrates (Bergmann et al., IJCV 2021)


class NotFiniteError(DivergedError):
    """A score is NaN or infinite: the model diverged, and no metric would mean anything."""


def image_metrics(scores: Tensor, labels: Tensor, threshold: float) -> tuple[Metrics, list[str]]:
    """Metrics of image scores.

    Args:
        scores: ``(N,)``, higher is more anomalous.
        labels: ``(N,)`` of 0 and 1.
        threshold: the deployed one; an image above it is called anomalous.

    Returns:
        The metrics and, for each that could not be computed, a sentence why. Those that need both
        classes are absent when one is missing. ``oracle_*`` were chosen on the test labels.

    Raises:
        NotFiniteError: a score is not finite.
    """
    check_finite(scores)
    labels = labels.long()
    flagged = scores.double() > threshold
    found: Metrics = {}
    if (labels == 0).any():
        found["image_false_alarm_rate"] = float(flagged[labels == 0].float().mean())
    if (labels == 1).any():
        found["image_recall"] = float(flagged[labels == 1].float().mean())
    if len(set(labels.tolist())) < 2:
        only = "normal" if (labels == 0).all() else "anomalous"
        reason = f"the test set has only {only} images" if len(labels) else "the test set is empty"
        return found, [f"no image AUROC, AP, F1: {reason}"]
    wide = scores.double()
    found["image_auroc"] = auroc(wide, labels)
    found["image_ap"] = float(BinaryAveragePrecision(normalization=None)(wide, labels))
    hits = int((flagged & (labels == 1)).sum())
    found["image_f1"] = 2 * hits / max(1, int(flagged.sum()) + int((labels == 1).sum()))
    found["oracle_f1_max"], found["oracle_f1_threshold"] = f1_max(wide, labels)
    return found, []


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Exact area under the ROC curve of ``(N,)`` scores of both classes."""
    return float(BinaryAUROC(thresholds=None, normalization=None)(scores, labels))


def f1_max(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """The largest F1 over all thresholds and where it is (``score >= threshold``)."""
    precision, recall, thresholds = BinaryPrecisionRecallCurve(normalization=None)(scores, labels)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    best = int(f1[:-1].argmax())
    return float(f1[best]), float(thresholds[best])


def pixel_metrics(maps: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Metrics, list[str]]:
    """Pixel AUROC and AUPRO of anomaly maps, from one sort over all pixels.

    AUPRO is the area under the per-region-overlap curve up to a false-positive rate of 0.3, scaled
    to 0..1: every connected defect region counts alike, however small (Bergmann et al., IJCV 2021).
    As the threshold falls, a pixel adds ``1 / (#regions * size of its region)`` to the mean overlap
    or ``1 / #normal pixels`` to the false-positive rate.

    Args:
        maps: one ``(H, W)`` per image; sizes may differ between images.
        masks: the matching boolean defect masks, all False for a normal image.

    Raises:
        NotFiniteError: a map holds NaN or infinity.
    """
    if not maps:
        return {}, ["no pixel metrics: no test image has a mask"]
    scores = torch.cat([m.flatten() for m in maps])
    check_finite(scores)
    overlap, regions = _region_shares(masks)
    normal = overlap == 0
    if not regions or not normal.any():
        only = "normal" if not regions else "defect"
        return {}, [f"no pixel metrics: the test masks hold only {only} pixels"]
    ordered, order = scores.sort(descending=True)
    ends = torch.cat((ordered[1:] != ordered[:-1], torch.tensor([True])))  # one point per tie
    normal_ordered = normal[order]
    fpr = _curve(normal_ordered.double(), ends)
    tpr = _curve((~normal_ordered).double(), ends)
    pro = _curve(overlap[order], ends)
    return {
        "pixel_auroc": float(torch.trapezoid(tpr, fpr)),
        "pixel_aupro": _area_up_to(fpr, pro, PRO_LIMIT),
    }, []


def _region_shares(masks: Sequence[Tensor]) -> tuple[Tensor, int]:
    """For each pixel 1 / (size of its connected region), 0 where normal; and how many regions."""
    shares, regions = [], 0
    for mask in masks:
        labelled, count = ndimage.label(mask.numpy(), structure=np.ones((3, 3)))
        sizes = np.bincount(labelled.ravel(), minlength=count + 1)
        share = 1.0 / np.maximum(sizes, 1)
        share[0] = 0.0
        shares.append(torch.from_numpy(share[labelled.ravel()]))
        regions += count
    return torch.cat(shares), regions


def _curve(weights: Tensor, ends: Tensor) -> Tensor:
    """Cumulated share of ``weights`` at the end of each tie, from 0 to 1."""
    cumulated = weights.cumsum(0)
    return torch.cat((torch.zeros(1, dtype=torch.double), cumulated[ends] / cumulated[-1]))


def _area_up_to(x: Tensor, y: Tensor, limit: float) -> float:
    """Area under ``y(x)`` for ``x`` in 0..limit, divided by ``limit``."""
    last = int(torch.searchsorted(x, torch.tensor(limit, dtype=x.dtype)))
    step = (x[last] - x[last - 1]).clamp(min=1e-300)
    y_limit = y[last - 1] + (y[last] - y[last - 1]) * (limit - x[last - 1]) / step
    x_cut = torch.cat((x[:last], torch.tensor([limit], dtype=x.dtype)))
    y_cut = torch.cat((y[:last], y_limit[None]))
    return float(torch.trapezoid(y_cut, x_cut) / limit)


def per_defect_auroc(
    scores: Tensor, labels: Tensor, defect_types: Iterable[str]
) -> dict[str, float]:
    """Image AUROC of each defect type against all normal images; empty without normal images."""
    normal = scores[labels == 0].double()
    if not len(normal):
        return {}
    by_type: dict[str, list[int]] = {}
    for index, (label, kind) in enumerate(zip(labels.tolist(), defect_types, strict=True)):
        if label == 1:
            by_type.setdefault(kind, []).append(index)
    result = {}
    for kind in sorted(by_type):
        chosen = scores[by_type[kind]].double()
        truth = torch.cat((torch.zeros(len(normal)), torch.ones(len(chosen)))).long()
        result[kind] = auroc(torch.cat((normal, chosen)), truth)
    return result


def check_finite(scores: Tensor) -> None:
    """Raise ``NotFiniteError`` at NaN or infinity: neither is a verdict."""
    bad = int((~torch.isfinite(scores)).sum())
    if bad:
        raise NotFiniteError(
            f"{bad} of {scores.numel()} scores are not finite: training diverged, lower method.lr"
        )
