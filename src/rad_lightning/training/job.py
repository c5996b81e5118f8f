"""One training before any of its work is done: its images, its backbone, its directory."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from rad_lightning.common.errors import UserError
from rad_lightning.common.names import LONGEST, shortened
from rad_lightning.common.progress import Progress
from rad_lightning.common.runs import RunDirectory
from rad_lightning.config import TrainConfig, digest, number_fields
from rad_lightning.data.dataset import Dataset, Tables, categories, open_dataset
from rad_lightning.data.images import FULL
from rad_lightning.data.reviewed import with_verdicts
from rad_lightning.data.splits import Roles
from rad_lightning.features.backbone import HUB, UNTRAINED, FrozenBackbone
from rad_lightning.features.cache import FeatureSet, compute_features
from rad_lightning.features.extract import FeatureSpec
from rad_lightning.methods.registry import check_parts


@dataclass
class Shared:
    """What the cells of a sweep in one process need not read or build twice."""

    tables: Tables = field(default_factory=lambda: Tables({}))
    backbones: dict[tuple[object, ...], FrozenBackbone | UserError] = field(default_factory=dict)

    def backbone(self, cfg: TrainConfig) -> FrozenBackbone:
        """The backbone that ``cfg`` names. A failure is remembered too: without a network, each
        try at the hub takes a minute.

        Raises:
            UserError: unknown model, or weights that cannot be had.
        """
        indices, weights = tuple(cfg.layers), chosen_weights(cfg)
        options = cfg.backbone.options
        key = (cfg.backbone.name, indices, weights, repr(sorted(options.items())))
        if key not in self.backbones:
            try:
                self.backbones[key] = FrozenBackbone(cfg.backbone.name, indices, weights, options)
            except UserError as error:
                self.backbones[key] = error
        found = self.backbones[key]
        if isinstance(found, UserError):
            raise found
        return found


@dataclass(frozen=True)
class Job:
    """One training, known before any of its work is done."""

    cfg: TrainConfig
    data: Dataset
    backbone: FrozenBackbone

    @cached_property  # it hashes the list of images and the weights
    def run(self) -> RunDirectory:
        """The run's directory, named after what changes its numbers: settings, images and the
        masks that it is tested with, weights."""
        cfg, table = self.cfg, self.data.table
        facts: list[Any] = [number_fields(cfg), self.data.identity(), self.backbone.fingerprint()]
        if cfg.data.max_pixels is not None:  # it decides who can be read
            facts.append(cfg.data.max_pixels)
        if cfg.evaluation.pixel and table.mask_hashes:
            facts.append(sorted(table.mask_hashes.items()))
        key = digest(facts)
        category = re.sub(r"[^\w.+-]+", "_", table.category)
        parts = [cfg.head.name, cfg.method.name]
        if cfg.noise.mode != "none":
            parts.append(cfg.noise.mode + (f"{cfg.noise.ratio:g}" if cfg.noise.ratio else ""))
        end = "-".join(["", *parts, f"seed{cfg.seed}", key])
        room = LONGEST - len(os.fsencode(f"{table.name}-{end}"))
        return RunDirectory(Path(cfg.output) / f"{table.name}-{shortened(category, room)}{end}")

    def facts(self) -> dict[str, Any]:
        """What a table or a dashboard sorts by."""
        return {
            "dataset": self.data.table.name,
            "category": self.data.table.category,
            "backbone": self.backbone.description,
            "head": self.cfg.head.name,
            "method": self.cfg.method.name,
            "seed": self.cfg.seed,
            "noise": self.data.contamination.as_dict(),
        }


def open_job(cfg: TrainConfig, shared: Shared | None = None) -> Job:
    """Read, hash, split and contaminate the images; load the backbone.

    Raises:
        UserError: whatever is wrong with the data, the noise or the weights.
    """
    shared = shared or Shared()
    check_parts(cfg.method)
    cfg = replace(cfg, backbone=replace(cfg.backbone, out_indices=cfg.layers))
    if cfg.method.meta.categories and categories(cfg.data) == [None]:
        raise UserError(
            f"method.meta.source=cross_category: data={cfg.data.name} has no categories; "
            "use data=mvtec or data=synthetic"
        )
    data = open_dataset(cfg.data, cfg.noise, cfg.seed, Path(cfg.cache.dir), shared.tables)
    if cfg.verdicts is not None:
        data = with_verdicts(data, Path(cfg.verdicts))
    cfg = replace(cfg, data=replace(cfg.data, white=data.table.white))
    return Job(cfg, data, shared.backbone(cfg))


def featurise(job: Job, progress: Progress) -> tuple[Dataset, FeatureSet]:
    """The features of the images that are trained or tested on, by their rows in the table, and
    the dataset without those that cannot be read."""
    cfg, data = job.cfg, job.data
    counts = ", ".join(f"{n} {role}" for role, n in sorted(data.counts().items()))
    progress.say(f"        data  {data.table.name}/{data.table.category}: {counts}")
    progress.say(f"       noise  {data.contamination}")
    for note in data.table.notes:
        progress.say(f"        note  {note}")
    with progress.stage("features"):
        progress.say(f"    backbone  {job.backbone.description}")
        rows = data.rows(*Roles.TRAINED, *Roles.TESTED)
        paths = [data.table.absolute(data.table.samples[row]) for row in rows]
        features = job_features(job, paths, [data.hashes[row] for row in rows], progress)
        features = features.numbered(rows)
    if features.unreadable:
        reason = next(iter(features.unreadable.values()))
        more = len(features.unreadable) - 1
        if cfg.data.on_bad_image == "error":
            also = f" (and {more} more)" if more else ""
            raise UserError(f"{reason}{also}; data.on_bad_image=skip leaves such images out")
        for line in features.unreadable.values():
            progress.say(f"     skipped  {line}")
        data = data.without(set(features.unreadable))
        if not data.rows(*Roles.TRAINED):
            raise UserError(f"{data.table.root}: no readable training image is left")
    return data, features


def job_features(
    job: Job, paths: Sequence[Path], hashes: Sequence[str], progress: Progress
) -> FeatureSet:
    """Features of images as this cell's head reads them, from the cache where they are there."""
    cfg = job.cfg
    return compute_features(
        paths,
        hashes,
        job.backbone,
        feature_spec(cfg),
        cache_dir=Path(cfg.cache.dir) if cfg.cache.enabled else None,
        batch_size=cfg.backbone.batch_size,
        device=pick_device(cfg.trainer.accelerator),
        progress=progress,
    )


def pick_device(accelerator: str) -> torch.device:
    """Where features are computed and images are scored; the training follows the Trainer."""
    gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def chosen_weights(cfg: TrainConfig) -> str:
    """``auto`` resolved: untrained for the embedded images alone."""
    if cfg.untrained:
        return UNTRAINED
    return HUB if cfg.backbone.weights == "auto" else cfg.backbone.weights


def feature_spec(cfg: TrainConfig) -> FeatureSpec:
    """What the cache key is made of; settings that a head ignores stay at one value."""
    patch = cfg.head.name == "patch"
    return FeatureSpec(
        form=cfg.head.name,
        size=(cfg.data.size[0], cfg.data.size[1]),
        fit=cfg.data.fit,
        views=tuple(cfg.head.views),
        local_pool=cfg.head.local_pool if patch else 1,
        scales=(1.0,) if patch else tuple(cfg.head.scales),
        precision=cfg.backbone.precision,
        white=cfg.data.white or FULL,
    )
