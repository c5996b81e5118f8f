"""``train``: one dataset category, one head, one method in; one run directory out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from rad_lightning.config import TrainConfig, digest, number_fields, to_yaml
from rad_lightning.data.dataset import Dataset, Tables, open_dataset
from rad_lightning.data.pseudo import made_path, write_made
from rad_lightning.data.splits import Roles, file_hashes, write_manifest
from rad_lightning.errors import UserError
from rad_lightning.evaluation import curves
from rad_lightning.evaluation.evaluate import Evaluation, Scored, evaluate, score
from rad_lightning.evaluation.pictures import draw, draw_curves, draw_worst
from rad_lightning.evaluation.summary import print_summary
from rad_lightning.evaluation.thresholds import threshold
from rad_lightning.features.backbone import HUB, UNTRAINED, FrozenBackbone
from rad_lightning.features.cache import FeatureSet, compute_features
from rad_lightning.features.extract import FeatureSpec
from rad_lightning.fit import build_head, embed, fit, fit_whitening
from rad_lightning.flows.heads import Head
from rad_lightning.methods import Training, build_method
from rad_lightning.progress import Progress
from rad_lightning.randomness import stream_seed
from rad_lightning.runs import SCHEMA_VERSION, RunDirectory, environment, peak_memory_mib
from rad_lightning.tracking.wandb import log_result, wandb_run

FEWEST_HELD_OUT = 5
NOTHING_HELD_OUT = (
    "no training image was held out (too few, or all show one physical part): "
    "the threshold comes from images that the flow knows, and is too low"
)


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
        indices, weights = tuple(cfg.backbone.out_indices), chosen_weights(cfg)
        key = (cfg.backbone.name, indices, weights)
        if key not in self.backbones:
            try:
                self.backbones[key] = FrozenBackbone(cfg.backbone.name, indices, weights)
            except UserError as error:
                self.backbones[key] = error
        found = self.backbones[key]
        if isinstance(found, UserError):
            raise found
        return found


@dataclass(frozen=True)
class Cell:
    """One training, known before any of its work is done."""

    cfg: TrainConfig
    data: Dataset
    backbone: FrozenBackbone

    @cached_property  # it hashes the list of images and the weights
    def run(self) -> RunDirectory:
        """The run's directory, named after what changes its numbers: settings, images, weights."""
        cfg, table = self.cfg, self.data.table
        key = digest([number_fields(cfg), self.data.identity(), self.backbone.fingerprint()])
        category = re.sub(r"[^\w.+-]+", "_", table.category)
        parts = [table.name, category, cfg.head.name, cfg.method.name]
        if cfg.noise.mode != "none":
            parts.append(cfg.noise.mode + (f"{cfg.noise.ratio:g}" if cfg.noise.ratio else ""))
        return RunDirectory(Path(cfg.output) / "-".join([*parts, f"seed{cfg.seed}", key]))

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


def open_cell(cfg: TrainConfig, shared: Shared | None = None) -> Cell:
    """Read, hash, split and contaminate the images; load the backbone.

    Raises:
        UserError: whatever is wrong with the data, the noise or the weights.
    """
    shared = shared or Shared()
    data = open_dataset(cfg.data, cfg.noise, cfg.seed, Path(cfg.cache.dir), shared.tables)
    return Cell(cfg, data, shared.backbone(cfg))


def train(cfg: TrainConfig, shared: Shared | None = None) -> RunDirectory:
    """Fit one detector, evaluate it, and write everything about it into its run directory.

    Raises:
        UserError: whatever is wrong with the data, the weights or the settings.
    """
    progress = Progress(quiet=not cfg.progress)
    if chosen_weights(cfg) == HUB:
        progress.say(f"     weights  {cfg.backbone.name} from the hub, once")
    with progress.stage("data"):
        cell = open_cell(cfg, shared)
    with cell.run.alone():
        return train_cell(cell, progress)


def train_cell(cell: Cell, progress: Progress) -> RunDirectory:
    """All files of a run, ``result.json`` last; the caller holds its directory."""
    cfg, run = cell.cfg, cell.run
    if run.done or not cfg.resume:
        run.restart()
    with wandb_run(cfg, run, cell.facts()) as logger:
        result = run_cell_stages(cell, progress, logger)
        if result is None:  # a further node of a multi-node training
            return run
        if logger:
            log_result(logger, run, result)
    result["wall_seconds"] = round(progress.clock() - progress.started, 3)
    run.write_result(result)
    print_summary(progress, result, run.path)
    return run


def run_cell_stages(
    cell: Cell, progress: Progress, logger: WandbLogger | None
) -> dict[str, Any] | None:
    """Features, fit, scores, evaluation, pictures; returns the result, on the first node alone."""
    cfg, run = cell.cfg, cell.run
    device = pick_device(cfg.trainer.accelerator)
    data, features = featurise(cell, progress)
    run.write_text("config.yaml", to_yaml(cfg))
    write_manifest(run.path / "manifest.csv", data.table, data.roles, data.hashes)
    with progress.stage("samples"):
        usable = usable_images(data, cfg.method.clean_only)
        if not usable.any():
            raise UserError(
                f"method={cfg.method.name}: all {len(usable)} training images are injected ones; "
                "accepted is a lower noise.ratio"
            )
        head, samples = whiten(cfg, data, features, usable, device)
        held_out = held_out_images(data, usable, cfg.method.holdout, cfg.seed)
        training = training_material(cell, data, head, samples, usable, held_out, progress)
        module, batches = build_method(cfg.method, head, training, cfg.seed)
    with progress.stage("training"):
        checkpoint = run.usable_checkpoint()
        if checkpoint:
            progress.say(f"    resuming  {checkpoint}")
        fitted = fit(
            module, batches, samples[held_out], cfg, run.path, checkpoint, progress, logger
        )
    if not fitted.first_node:
        return None
    with progress.stage("scoring"):
        head.to(device)
        test = embed(head, features, data.rows(*Roles.TESTED))
        seen = scored_images(held_out, usable, cfg.evaluation.train_images, cfg.seed)
        rows = [r for r, s in zip(data.rows(*Roles.TRAINED), seen, strict=True) if s]
        train_scores, test_scores = score(head, samples[seen]), score(head, test)
        scored = Scored(*train_scores, tuple(rows), held_out[seen], usable[seen], *test_scores)
        limit = threshold(
            scored.train[scored.usable], scored.held_out[scored.usable], cfg.evaluation
        )
    with progress.stage("evaluation"):
        evaluation = evaluate(data, scored, limit, cfg.data, cfg.evaluation)
    write_scores(run, data, scored, limit)
    with progress.stage("pictures"):
        draw(run.path, data, scored, limit, cfg.data, cfg.evaluation)
        worst = draw_worst(run.path, data, scored, limit, cfg.data, cfg.evaluation)
        log = curves.read(run.path / "metrics.csv")
        draw_curves(run.path, log, f"{data.table.name}/{data.table.category}", cfg)
    result = summarise(cell, data, features, evaluation, limit, progress)
    if cfg.method.holdout and not held_out.any():
        result["notes"].append(NOTHING_HELD_OUT)
    result["held_out"] = int(held_out.sum())
    result["held_out_nll"] = fitted.held_out_nll
    return result | curves.summary(log) | {"worst": worst}


def pick_device(accelerator: str) -> torch.device:
    """Where features are computed and images are scored; the training follows the Trainer."""
    gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def featurise(cell: Cell, progress: Progress) -> tuple[Dataset, FeatureSet]:
    """The features of all images, and the dataset without those that cannot be read."""
    cfg, data = cell.cfg, cell.data
    counts = ", ".join(f"{n} {role}" for role, n in sorted(data.counts().items()))
    progress.say(f"        data  {data.table.name}/{data.table.category}: {counts}")
    progress.say(f"       noise  {data.contamination}")
    for note in data.table.notes:
        progress.say(f"        note  {note}")
    with progress.stage("features"):
        progress.say(f"    backbone  {cell.backbone.description}")
        features = cell_features(cell, data.paths(), data.hashes, progress)
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


def cell_features(
    cell: Cell, paths: Sequence[Path], hashes: Sequence[str], progress: Progress
) -> FeatureSet:
    """Features of images as this cell's head reads them, from the cache where they are there."""
    cfg = cell.cfg
    return compute_features(
        paths,
        hashes,
        cell.backbone,
        feature_spec(cfg),
        cache_dir=Path(cfg.cache.dir) if cfg.cache.enabled else None,
        batch_size=cfg.backbone.batch_size,
        device=pick_device(cfg.trainer.accelerator),
        progress=progress,
    )


def chosen_weights(cfg: TrainConfig) -> str:
    """``auto`` resolved: only the embedded images are worth an untrained backbone."""
    if cfg.backbone.weights == "auto":
        return UNTRAINED if cfg.data.name == "synthetic" else HUB
    return cfg.backbone.weights


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
    )


def usable_images(data: Dataset, clean_only: bool) -> Tensor:
    """``(n_train,)`` bool: the training images that a method may learn anything from."""
    clean = [data.roles[row] == Roles.TRAIN for row in data.rows(*Roles.TRAINED)]
    return torch.tensor(clean) if clean_only else torch.ones(len(clean)).bool()


def whiten(
    cfg: TrainConfig, data: Dataset, features: FeatureSet, usable: Tensor, device: torch.device
) -> tuple[Head, Tensor]:
    """The head with its channel reduction fitted, and the training samples ``(n, V, L, D)``."""
    rows = data.rows(*Roles.TRAINED)
    head = build_head(cfg.head, features.shape(), cfg.seed).to(device)
    fit_whitening(head, features, [r for r, u in zip(rows, usable, strict=True) if u], cfg.seed)
    return head, embed(head, features, rows)


def training_material(
    cell: Cell,
    data: Dataset,
    head: Head,
    samples: Tensor,
    usable: Tensor,
    held_out: Tensor,
    progress: Progress,
) -> Training:
    """What the method may learn from: the usable images ``(n_train,)``, and more if it asks."""
    meta, fitted = cell.cfg.method.meta, usable & ~held_out
    rows = [r for r, f in zip(data.rows(*Roles.TRAINED), fitted.tolist(), strict=True) if f]
    groups = group_numbers([data.table.samples[row].group for row in rows])
    spoiled, others = None, []
    if meta.source == "pseudo_noise" and meta.pseudo != "latent":
        spoiled = embed_images(cell, head, *spoiled_images(cell, data, rows), progress)
    for category in meta.categories or [] if meta.source == "cross_category" else []:
        others.append(other_category(cell, category, progress))
    return Training(samples[fitted], groups, samples[held_out], spoiled, tuple(others))


def group_numbers(names: Sequence[str]) -> Tensor:
    """Physical parts as numbers, ``(n,)``."""
    known = {name: number for number, name in enumerate(sorted(set(names)))}
    return torch.tensor([known[name] for name in names])


def spoiled_images(cell: Cell, data: Dataset, rows: Sequence[int]) -> tuple[list[Path], list[str]]:
    """The images at ``rows`` with a made defect each, and their hashes. What is made on an image
    follows from its content alone, so that all cells of a sweep share the features."""
    kind, paths = cell.cfg.method.meta.pseudo, []
    for row in rows:
        sample, sha256 = data.table.samples[row], data.hashes[row]
        path = made_path(kind, int(sha256[:15], 16), sample.path)
        folder = Path(cell.cfg.cache.dir) / "made" / sha256[:16]
        paths.append(write_made(folder, path, data.table.absolute(sample)))
    return paths, file_hashes(paths)


def other_category(cell: Cell, category: str, progress: Progress) -> tuple[Tensor, Tensor]:
    """Samples and parts of another category's training images, under the same noise. They are
    whitened by themselves, so that every category starts from the same Gaussian."""
    cfg = replace(cell.cfg, data=replace(cell.cfg.data, category=category))
    data = open_dataset(cfg.data, cfg.noise, cfg.seed, Path(cfg.cache.dir))
    rows = data.rows(*Roles.TRAINED)
    paths = [data.table.absolute(data.table.samples[row]) for row in rows]
    features = cell_features(cell, paths, [data.hashes[row] for row in rows], progress)
    for reason in features.unreadable.values():
        raise UserError(f"{reason}; of method.meta.categories no image may be unreadable")
    head = build_head(cfg.head, features.shape(), cfg.seed).to(pick_device(cfg.trainer.accelerator))
    every = list(range(len(rows)))
    fit_whitening(head, features, every, cfg.seed)
    groups = group_numbers([data.table.samples[row].group for row in rows])
    return embed(head, features, every), groups


def embed_images(
    cell: Cell, head: Head, paths: Sequence[Path], hashes: Sequence[str], progress: Progress
) -> Tensor:
    """Flow samples ``(n, V, L, D)`` of any readable images."""
    features = cell_features(cell, paths, hashes, progress)
    return embed(head, features, list(range(len(paths))))


def held_out_images(data: Dataset, usable: Tensor, fraction: float, seed: int) -> Tensor:
    """``(n_train,)`` bool: usable images kept from the flow, whole physical parts at a time.

    They choose the step to keep and calibrate the threshold. At least ``FEWEST_HELD_OUT`` where
    there are twice as many; none of a single part, which has no unseen images. Methods that use
    other images of the same training set draw the parts in the same order.
    """
    groups = [s.group for s in data.samples(*Roles.TRAINED)]
    held = torch.zeros(len(groups), dtype=torch.bool)
    names = sorted(set(groups))
    generator = torch.Generator().manual_seed(stream_seed("holdout", seed))
    order = [names[i] for i in torch.randperm(len(names), generator=generator).tolist()]
    eligible = {g for g, use in zip(groups, usable.tolist(), strict=True) if use}
    order = [name for name in order if name in eligible]
    if not fraction or len(order) < 2:
        return held
    count = int(usable.sum())
    wanted = max(fraction * count, min(FEWEST_HELD_OUT, count // 2))
    for name in order[:-1]:
        if held.sum() >= wanted:
            break
        held |= torch.tensor([g == name for g in groups]) & usable
    return held


def scored_images(held_out: Tensor, usable: Tensor, count: int | None, seed: int) -> Tensor:
    """``(n_train,)`` bool: the held-out images and ``count`` others, all without a count.

    Where that leaves the threshold no usable image, all usable ones are scored.
    """
    if count is None:
        return torch.ones_like(held_out)
    generator = torch.Generator().manual_seed(stream_seed("scored", seed))
    others = [i for i in torch.randperm(len(held_out), generator=generator) if not held_out[i]]
    seen = held_out.clone()
    seen[torch.tensor(others[:count], dtype=torch.long)] = True
    return seen if (seen & usable).any() else seen | usable


def write_scores(run: RunDirectory, data: Dataset, scored: Scored, limit: float) -> None:
    """``scores.csv``: every test image, then the scored training images with their roles."""
    rows = [
        (Roles.TEST, s.path, s.label, s.defect_type, repr(value), int(value > limit), 0)
        for s, value in zip(data.samples(*Roles.TESTED), scored.test.tolist(), strict=True)
    ]
    trained = zip(scored.train_rows, scored.train.tolist(), scored.held_out, strict=True)
    for row, value, held in trained:
        s = data.table.samples[row]
        flagged = int(value > limit)
        rows.append(
            (data.roles[row], s.path, s.label, s.defect_type, repr(value), flagged, int(held))
        )
    header = ("role", "path", "label", "defect_type", "score", "flagged", "held_out")
    run.write_csv("scores.csv", header, rows)


def summarise(
    cell: Cell,
    data: Dataset,
    features: FeatureSet,
    evaluation: Evaluation,
    limit: float,
    progress: Progress,
) -> dict[str, Any]:
    """The content of ``result.json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run": cell.run.path.name,
        **cell.facts(),
        "noise": data.contamination.as_dict(),
        "metrics": evaluation.metrics,
        "per_defect_image_auroc": evaluation.per_defect,
        "threshold": {"value": limit, "rule": cell.cfg.evaluation.threshold},
        "notes": [*data.table.notes, *evaluation.notes],
        "images": dict(sorted(data.counts().items())),
        "features": {"computed": features.computed, "images": len(data.table)},
        "seconds": {name: round(value, 3) for name, value in progress.seconds.items()},
        "peak_memory_mib": peak_memory_mib(),
        "manifest_sha256": file_hashes([cell.run.path / "manifest.csv"])[0],
        "config": asdict(cell.cfg),
        **environment(),
    }
