"""Detection metrics, with the inputs checked.

Scores are negative log-likelihoods, not probabilities: torchmetrics must not apply a sigmoid to
them (``normalization=None``). It notices neither NaN nor a missing class: both are checked here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

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
PIXELS_AT_ONCE = 2**24  # that are sorted together: about 0.7 GiB
DRAWN = 61  # every so many pixels, to place the ranges: in step with no usual width
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
    return float(f1[best]), float(thresholds.reshape(-1)[best])  # a single one comes bare


def pixel_metrics(maps: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Metrics, list[str]]:
    """Pixel AUROC and AUPRO of anomaly maps, exact, in bounded memory.

    AUPRO is the area under the per-region-overlap curve up to a false-positive rate of 0.3, scaled
    to 0..1: every connected defect region counts alike, however small (Bergmann et al., IJCV 2021).
    As the threshold falls, a pixel adds ``1 / (#regions * size of its region)`` to the mean overlap
    or ``1 / #normal pixels`` to the false-positive rate.

    Pixels are sorted in ranges of their scores, of about ``PIXELS_AT_ONCE`` each, the highest
    first; the curves go on from one range to the next.

    Args:
        maps: one ``(H, W)`` per image; sizes may differ between images. Read anew for each range:
            they may be made on demand.
        masks: the matching boolean defect masks, all False for a normal image. Read once.

    Raises:
        NotFiniteError: a map holds NaN or infinity.
    """
    if not len(maps):
        return {}, ["no pixel metrics: no test image has a mask"]
    shares, regions = _region_shares(masks)
    defect = sum(len(at) for at, _ in shares)
    bounds, pixels, maps = _ranges(maps)
    if not regions or defect == pixels:
        only = "normal" if not regions else "defect"
        return {}, [f"no pixel metrics: the test masks hold only {only} pixels"]
    totals = (pixels - defect, defect, float(regions) if len(bounds) > 1 else None)
    reached, auroc_area, pro_area = (0.0, 0.0, 0.0), 0.0, 0.0
    for low, high in bounds:
        scores, overlap = _within(maps, shares, low, high)
        if not len(scores):
            continue
        (fpr, tpr, pro), reached = _curves(scores, overlap, reached, totals)
        auroc_area += float(torch.trapezoid(tpr, fpr))
        pro_area += _area_up_to(fpr, pro, PRO_LIMIT)
    return {"pixel_auroc": auroc_area, "pixel_aupro": pro_area}, []


def _ranges(maps: Sequence[Tensor]) -> tuple[list[tuple[float, float]], int, Sequence[Tensor]]:
    """Ranges ``low <= score < high`` with about equally many pixels, the highest first; how many
    pixels there are; and the maps, kept in memory where one range holds them all.

    Raises:
        NotFiniteError: a map holds NaN or infinity.
    """
    drawn, kept, pixels = [], list[Tensor](), 0
    for scores in maps:
        check_finite(scores)
        pixels += scores.numel()
        drawn.append(scores.flatten()[::DRAWN].double())
        kept.append(scores)
        if pixels > PIXELS_AT_ONCE:
            kept.clear()
    count = math.ceil(pixels / PIXELS_AT_ONCE)
    sample = torch.cat(drawn).sort(descending=True).values
    inner = [float(sample[len(sample) * i // count]) for i in range(1, count)]
    edges = [math.inf, *dict.fromkeys(inner), -math.inf]
    return [(low, high) for high, low in pairwise(edges)], pixels, kept if count == 1 else maps


def _region_shares(masks: Iterable[Tensor]) -> tuple[list[tuple[Tensor, Tensor]], int]:
    """For each mask its defect pixels and, for each of them, 1 / (size of its connected region);
    and how many regions there are."""
    shares, regions = [], 0
    for mask in masks:
        labelled, count = ndimage.label(mask.numpy(), structure=np.ones((3, 3)))
        flat = labelled.ravel()
        at = np.flatnonzero(flat)
        share = 1.0 / np.maximum(np.bincount(flat, minlength=count + 1), 1)
        shares.append((torch.from_numpy(at), torch.from_numpy(share[flat[at]])))
        regions += count
    return shares, regions


def _within(
    maps: Iterable[Tensor], shares: Sequence[tuple[Tensor, Tensor]], low: float, high: float
) -> tuple[Tensor, Tensor]:
    """Scores of the pixels with ``low <= score < high``, and the share of its region that each
    is, 0 where normal."""
    scores, overlaps = [], []
    for heat, (at, share) in zip(maps, shares, strict=True):
        flat = heat.flatten()
        overlap = torch.zeros(len(flat), dtype=torch.double)
        overlap[at] = share
        if math.isfinite(low) or math.isfinite(high):
            wide = flat.double()  # the bounds are
            inside = (wide >= low) & (wide < high)
            flat, overlap = flat[inside], overlap[inside]
        scores.append(flat)
        overlaps.append(overlap)
    return torch.cat(scores), torch.cat(overlaps)


def _curves(
    scores: Tensor,
    overlap: Tensor,
    start: tuple[float, float, float],
    totals: tuple[float, float, float | None],
) -> tuple[tuple[Tensor, ...], tuple[float, float, float]]:
    """Shares of normal pixels, defect pixels and overlap above each score, from where the scores
    above these have brought them, and where these bring them.

    Args:
        start: and the second result: counts of pixels, and summed overlap.
        totals: the same of all pixels; ``None`` where these are all.
    """
    ordered, order = scores.sort(descending=True)
    ends = torch.cat((ordered[1:] != ordered[:-1], torch.tensor([True])))  # one point per tie
    overlap = overlap[order]
    normal = overlap == 0
    found, reached = [], []
    for weights, begun, total in zip(
        (normal.double(), (~normal).double(), overlap), start, totals, strict=True
    ):
        cumulated = weights.cumsum(0) + begun
        reached.append(float(cumulated[-1]))
        points = torch.cat((cumulated.new_tensor([begun]), cumulated[ends]))
        found.append(points / (reached[-1] if total is None else total))
    return tuple(found), (reached[0], reached[1], reached[2])


def _area_up_to(x: Tensor, y: Tensor, limit: float) -> float:
    """Area under ``y(x)`` for ``x`` up to ``limit``, divided by ``limit``."""
    last = int(torch.searchsorted(x, torch.tensor(limit, dtype=x.dtype)))
    if last == len(x):
        return float(torch.trapezoid(y, x) / limit)
    if not last:
        return 0.0  # a range beyond it
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
