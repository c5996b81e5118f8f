"""Scores of every image, anomaly maps of the test images, and the metrics they give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from rad_lightning.config import DataConfig, EvaluationConfig
from rad_lightning.data.dataset import Dataset
from rad_lightning.data.images import BadImage, image_size, load_mask, resize_mask
from rad_lightning.data.samples import ANOMALOUS, NORMAL, UNLABELLED, Sample, SampleTable
from rad_lightning.data.splits import Roles
from rad_lightning.evaluation.metrics import (
    Metrics,
    auroc,
    check_finite,
    image_metrics,
    per_defect_auroc,
    pixel_metrics,
)
from rad_lightning.features.extract import content_box
from rad_lightning.flows.heads import HeadSpec
from rad_lightning.flows.scoring import SMOOTHING, anomaly_map
from rad_lightning.flows.whitening import Whitening

IMAGES_AT_ONCE = 64  # images scored at once


@dataclass(frozen=True)
class Scored:
    """Scores of images ``(n,)`` and of their positions ``(n, V, H, W)``.

    ``train_rows`` are the table's rows of the scored training images; ``held_out`` marks those that
    the flow did not see, ``eligible`` those that the method may learn anything from.
    """

    train: Tensor
    train_positions: Tensor
    train_rows: tuple[int, ...]
    held_out: Tensor
    eligible: Tensor
    test: Tensor
    test_positions: Tensor

    @property
    def has_maps(self) -> bool:
        """A grid of one position (the pooled head) locates nothing."""
        return len(self.test) > 0 and self.test_positions[0, 0].numel() > 1


@dataclass(frozen=True)
class Evaluation:
    """What a detector made of the test images; ``notes`` say what could not be computed."""

    metrics: Metrics
    per_defect: dict[str, float]
    notes: list[str] = field(default_factory=list)


class OnDemand(Sequence[Tensor]):
    """``make(i)`` for each of the ``numbers``, made whenever it is read: all of them together may
    take more memory than there is."""

    def __init__(self, make: Callable[[int], Tensor], numbers: Sequence[int]) -> None:
        self.make, self.numbers = make, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: Any) -> Any:
        return self.make(self.numbers[place])


class Scorer(Protocol):
    """What gives scores: a ``Head``, or a reference of the same form."""

    @property
    def spec(self) -> HeadSpec: ...
    @property
    def whitening(self) -> Whitening: ...
    def position_scores(self, samples: Tensor) -> Tensor: ...
    def image_scores(self, position_scores: Tensor) -> Tensor: ...
    def to(self, device: torch.device) -> object: ...


def score(head: Scorer, samples: Tensor) -> tuple[Tensor, Tensor]:
    """``(n, V, L, D)`` samples -> image scores ``(n,)`` and position scores ``(n, V, H, W)``."""
    if not len(samples):
        return torch.empty(0), torch.empty(0, samples.shape[1], *head.spec.grid)
    device = head.whitening.mean.device
    positions = torch.cat(
        [
            head.position_scores(part.to(device).float()).cpu()
            for part in torch.split(samples, IMAGES_AT_ONCE)
        ]
    )
    scores = head.image_scores(positions)
    check_finite(scores)
    return scores, positions


def evaluate(
    data: Dataset, scored: Scored, limit: float, geometry: DataConfig, cfg: EvaluationConfig
) -> Evaluation:
    """Metrics of the labelled test images at the deployed threshold ``limit``; those of pixels only
    if every mask can be read and fits.

    Raises:
        NotFiniteError: the scores hold NaN or infinity.
    """
    samples = data.samples(*Roles.TESTED)
    labels = torch.tensor([s.label for s in samples], dtype=torch.long)
    known = labels != UNLABELLED
    notes = []
    if not known.all():
        notes.append(f"{int((~known).sum())} unlabelled test images are scored but not evaluated")
    metrics, reasons = image_metrics(scored.test[known], labels[known], limit)
    notes += reasons
    if cfg.pixel and scored.has_maps:
        found, reasons = evaluate_maps(
            data,
            lambda i: pixel_map(data.table, samples[i], scored.test_positions[i], geometry),
            geometry,
        )
        metrics |= found
        notes += reasons
    trained = [data.table.samples[row] for row in scored.train_rows]
    if 0 < (injected := torch.tensor([s.label == ANOMALOUS for s in trained])).sum() < len(trained):
        # How well the training scores alone would find what was injected.
        metrics["train_suspect_auroc"] = auroc(scored.train.double(), injected.long())
    kinds = [s.defect_type for s in samples]
    return Evaluation(metrics, per_defect_auroc(scored.test, labels, kinds), notes)


def evaluate_maps(
    data: Dataset, map_of: Callable[[int], Tensor], geometry: DataConfig
) -> tuple[Metrics, list[str]]:
    """Pixel metrics of the labelled test images that have a mask or need none, with notes; none
    where a mask does not fit its image or is damaged.

    Args:
        map_of: number of a test image -> its anomaly map ``(H, W)`` on the pixels of its box.

    Raises:
        NotFiniteError: a map holds NaN or infinity.
    """
    if data.table.mask_faults:  # said before the training
        return {}, []
    samples = data.samples(*Roles.TESTED)
    known = [i for i, s in enumerate(samples) if s.label != UNLABELLED]
    used = [i for i in known if samples[i].label == NORMAL or samples[i].mask_path]
    notes = []
    if without := len(known) - len(used):
        notes.append(f"{without} test images have no mask: left out of the pixel metrics")
    if all(samples[i].label == NORMAL for i in used):
        return {}, notes
    masks = OnDemand(lambda i: pixel_mask(data.table, samples[i], geometry), used)
    try:
        found, reasons = pixel_metrics(OnDemand(map_of, used), masks)
    except BadImage as error:  # damaged behind its header: the other metrics are there
        found, reasons = {}, [f"no pixel metrics: {error}"]
    return found, notes + reasons


def pixel_map(table: SampleTable, sample: Sample, positions: Tensor, cfg: DataConfig) -> Tensor:
    """The smoothed anomaly map of one image, ``(V, H, W)`` positions -> pixels of its box."""
    canvas = (cfg.size[0], cfg.size[1])
    box = content_box(image_size(table.absolute(sample)), canvas, cfg.fit)
    return anomaly_map(positions, canvas, box, SMOOTHING * min(canvas))


def pixel_mask(table: SampleTable, sample: Sample, cfg: DataConfig) -> Tensor:
    """The defect mask on the same pixels as ``pixel_map``; empty for a normal image, and for one
    whose mask does not fit.

    Raises:
        BadImage: the mask is damaged.
    """
    image_hw = image_size(table.absolute(sample))
    _, _, height, width = content_box(image_hw, (cfg.size[0], cfg.size[1]), cfg.fit)
    path = table.absolute_mask(sample)
    if sample.label == NORMAL or path is None or sample.path in table.mask_faults:
        return torch.zeros((height, width), dtype=torch.bool)
    return torch.from_numpy(resize_mask(load_mask(path, image_hw), (height, width)))
