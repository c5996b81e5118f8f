"""``prepare``: a job in, all that its training begins with out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.common.progress import Progress
from rad_lightning.data.dataset import Dataset, open_dataset
from rad_lightning.data.reviewed import trained_with_verdicts
from rad_lightning.data.splits import Roles, file_hashes
from rad_lightning.data.synthetic_anomalies import synthetic_path, write_synthetic
from rad_lightning.features.cache import FeatureSet
from rad_lightning.flows.heads import Head
from rad_lightning.flows.sampling import bandwidth
from rad_lightning.methods.registry import Training
from rad_lightning.methods.task_sources import CATEGORIES, CORRUPTED, needs
from rad_lightning.robust.review import Reviewed
from rad_lightning.training.head import build_head, embed, fit_whitening
from rad_lightning.training.images import (
    TrainingImages,
    group_numbers,
    simulated_reviews,
    training_images,
)
from rad_lightning.training.job import Job, featurise, job_features, pick_device
from rad_lightning.training.size import refuse_too_large


@dataclass(frozen=True)
class Prepared:
    """All that a training begins with: nothing random or slow is left to find out.

    ``data`` is without the images that cannot be read. ``head`` has its whitening fitted and its
    flow untrained. ``corrupted`` and ``others``: for some task sources, see ``Training``.
    """

    job: Job
    data: Dataset
    features: FeatureSet  # by the rows of the table
    head: Head
    images: TrainingImages
    corrupted: Tensor | None = None
    others: tuple[tuple[Tensor, Tensor], ...] = ()

    def training(self) -> Training:
        """What the method may learn from."""
        images, fitted = self.images, self.images.fitted
        share = float(images.injected[fitted].float().mean()) if fitted.any() else 0.0
        return Training(
            images.samples[fitted],
            images.groups[fitted],
            images.samples[images.validation],
            images.trust.of(fitted) if images.trust else None,
            share,
            self.corrupted,
            self.others,
            images.samples[fitted & (images.reviewed == Reviewed.GOOD)],
            bandwidth(self.head.spec.jitter, max(1, int(fitted.sum()))),
        )


def prepare(job: Job, progress: Progress) -> Prepared:
    """Features, whitening, the split of the training images, and what the method believes of them.

    Raises:
        UserError: unreadable or too few images, settings that leave nothing to learn from, or that
            need more memory than there is.
    """
    cfg, method = job.cfg, job.cfg.method
    refuse_too_large(cfg, len(job.data.rows(*Roles.TRAINED, *Roles.TESTED)))
    data, features = featurise(job, progress)
    told, data = len(data.table.notes), trained_with_verdicts(data)
    for note in data.table.notes[told:]:
        progress.say(f"        note  {note}")
    head, images = training_images(job, data, features, progress)
    if cfg.review.budget:
        data = replace(data, reviews={**data.reviews, **simulated_reviews(data, images, cfg)})
        head, images = training_images(job, data, features, progress)
    rows = images.rows
    corrupted, others = None, []
    with progress.stage("samples"):
        if CORRUPTED in needs(method):
            chosen = [row for row, f in zip(rows, images.fitted.tolist(), strict=True) if f]
            corrupted = embed_images(job, head, *corrupted_images(job, data, chosen), progress)
        if CATEGORIES in needs(method):
            others = [other_category(job, c, progress) for c in method.meta.categories or []]
    return Prepared(job, data, features, head, images, corrupted, tuple(others))


def corrupted_images(job: Job, data: Dataset, rows: Sequence[int]) -> tuple[list[Path], list[str]]:
    """The images at ``rows`` with a made defect each, and their hashes. What is made on an image
    follows from its content alone, so that all cells of a sweep share the features."""
    kind, paths = job.cfg.method.meta.pseudo, []
    for row in rows:
        sample, sha256 = data.table.samples[row], data.hashes[row]
        path = synthetic_path(kind, int(sha256[:15], 16), sample.path)
        folder = Path(job.cfg.cache.dir) / "made" / sha256[:16]
        paths.append(write_synthetic(folder, path, data.table.absolute(sample), data.table.white))
    return paths, file_hashes(paths)


def other_category(job: Job, category: str, progress: Progress) -> tuple[Tensor, Tensor]:
    """Samples and parts of another category's training images, under the same noise. They are
    whitened by themselves, so that every category starts from the same Gaussian."""
    cfg = replace(job.cfg, data=replace(job.cfg.data, category=category))
    data = open_dataset(cfg.data, cfg.noise, cfg.seed, Path(cfg.cache.dir))
    rows = data.rows(*Roles.TRAINED)
    paths = [data.table.absolute(data.table.samples[row]) for row in rows]
    features = job_features(job, paths, [data.hashes[row] for row in rows], progress)
    for reason in features.unreadable.values():
        raise UserError(f"{reason}; every image of method.meta.categories must be readable")
    head = build_head(cfg.head, features.shape(), cfg.seed).to(pick_device(cfg.trainer.accelerator))
    every = list(range(len(rows)))
    fit_whitening(head, features, every, cfg.seed)
    groups = group_numbers([data.table.samples[row].group for row in rows])
    return embed(head, features, every), groups


def embed_images(
    job: Job, head: Head, paths: Sequence[Path], hashes: Sequence[str], progress: Progress
) -> Tensor:
    """Flow samples ``(n, V, L, D)`` of any readable images."""
    features = job_features(job, paths, hashes, progress)
    return embed(head, features, list(range(len(paths))))
