"""``train``: one dataset category, one head, one method in; one run directory out."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rad_lightning.config import TrainConfig, digest, number_fields, to_yaml
from rad_lightning.data.dataset import Dataset, open_dataset
from rad_lightning.data.splits import Roles, write_manifest
from rad_lightning.errors import UserError
from rad_lightning.evaluation.evaluate import Evaluation, Scored, evaluate, score
from rad_lightning.evaluation.pictures import draw
from rad_lightning.evaluation.summary import print_summary
from rad_lightning.evaluation.thresholds import threshold
from rad_lightning.features.backbone import HUB, UNTRAINED, FrozenBackbone
from rad_lightning.features.cache import FeatureSet, compute_features
from rad_lightning.features.extract import FeatureSpec
from rad_lightning.fit import build_head, embed, fit, fit_whitening
from rad_lightning.flows.heads import Head
from rad_lightning.progress import Progress
from rad_lightning.randomness import stream_seed
from rad_lightning.runs import SCHEMA_VERSION, RunDirectory, environment, peak_memory_mib

FEWEST_HELD_OUT = 5


@dataclass(frozen=True)
class Featured:
    """The images of a run with their features."""

    data: Dataset
    backbone: FrozenBackbone
    features: FeatureSet


def train(cfg: TrainConfig) -> RunDirectory:
    """Fit one detector, evaluate it, and write everything about it into its run directory.

    Raises:
        UserError: whatever is wrong with the data, the weights or the settings.
    """
    progress = Progress(quiet=not cfg.progress)
    device = pick_device(cfg.trainer.accelerator)
    inputs = featurise(cfg, device, progress)
    run = open_run(cfg, inputs)
    with run.alone():
        return train_in(run, cfg, inputs, device, progress)


def train_in(
    run: RunDirectory,
    cfg: TrainConfig,
    inputs: Featured,
    device: torch.device,
    progress: Progress,
) -> RunDirectory:
    """Everything after the features: fit, score, evaluate, write."""
    if run.done or not cfg.resume:
        run.restart()
    run.write_text("config.yaml", to_yaml(cfg))
    write_manifest(
        run.path / "manifest.csv", inputs.data.table, inputs.data.roles, inputs.data.hashes
    )
    with progress.stage("samples"):
        head, samples = whiten(cfg, inputs, device)
        held_out = held_out_images(inputs.data, cfg.method.holdout, cfg.seed)
    with progress.stage("training"):
        checkpoint = run.usable_checkpoint()
        if checkpoint:
            progress.say(f"    resuming  {checkpoint}")
        fitted, unseen = samples[~held_out], samples[held_out]
        trainer = fit(head, fitted, unseen, cfg, run.path, checkpoint, progress)
    if not trainer.is_global_zero:  # a further node of a multi-node training
        return run
    with progress.stage("scoring"):
        head.to(device)
        test = embed(head, inputs.features, inputs.data.rows(Roles.TEST))
        scored = Scored(*score(head, samples), held_out, *score(head, test))
        limit = threshold(scored.train, held_out, cfg.evaluation)
    with progress.stage("evaluation"):
        evaluation = evaluate(inputs.data, scored, limit, cfg.data, cfg.evaluation)
    write_scores(run, inputs.data, scored, limit)
    with progress.stage("pictures"):
        pictures = draw(run.path, inputs.data, scored, limit, cfg.data, cfg.evaluation)
    result = summarise(cfg, run, inputs, scored, evaluation, limit, progress)
    run.write_result(result)
    print_summary(progress, result, run.path, pictures)
    return run


def pick_device(accelerator: str) -> torch.device:
    """Where features are computed and images are scored; the training follows the Trainer."""
    gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def featurise(cfg: TrainConfig, device: torch.device, progress: Progress) -> Featured:
    """Read, split and hash the images, and get the features of all."""
    with progress.stage("data"):
        data = open_dataset(cfg.data, cfg.seed, Path(cfg.cache.dir))
    counts = ", ".join(f"{n} {role}" for role, n in sorted(data.counts().items()))
    progress.say(f"        data  {data.table.name}/{data.table.category}: {counts}")
    for note in data.table.notes:
        progress.say(f"        note  {note}")
    with progress.stage("features"):
        weights = chosen_weights(cfg)
        if weights == HUB:
            progress.say(f"     weights  {cfg.backbone.name} from the hub, once")
        backbone = FrozenBackbone(cfg.backbone.name, tuple(cfg.backbone.out_indices), weights)
        progress.say(f"    backbone  {backbone.description}")
        features = compute_features(
            data.paths(),
            data.hashes,
            backbone,
            feature_spec(cfg),
            cache_dir=Path(cfg.cache.dir) if cfg.cache.enabled else None,
            batch_size=cfg.backbone.batch_size,
            device=device,
            progress=progress,
        )
    if features.unreadable:
        reason = next(iter(features.unreadable.values()))
        more = len(features.unreadable) - 1
        if cfg.data.on_bad_image == "error":
            also = f" (and {more} more)" if more else ""
            raise UserError(f"{reason}{also}; data.on_bad_image=skip leaves such images out")
        for line in features.unreadable.values():
            progress.say(f"     skipped  {line}")
        data = data.without(set(features.unreadable))
        if not data.rows(Roles.TRAIN):
            raise UserError(f"{data.table.root}: no readable training image is left")
    return Featured(data, backbone, features)


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


def open_run(cfg: TrainConfig, inputs: Featured) -> RunDirectory:
    """The run's directory, named after what changes its numbers: settings, images, weights."""
    numbers = number_fields(cfg)
    key = digest([numbers, inputs.data.identity(), inputs.backbone.fingerprint()])
    table = inputs.data.table
    category = re.sub(r"[^\w.+-]+", "_", table.category)
    name = f"{table.name}-{category}-{cfg.head.name}-{cfg.method.name}-seed{cfg.seed}-{key}"
    return RunDirectory(Path(cfg.output) / name)


def whiten(cfg: TrainConfig, inputs: Featured, device: torch.device) -> tuple[Head, Tensor]:
    """The head with its channel reduction fitted, and the training samples ``(n, V, L, D)``."""
    rows = inputs.data.rows(Roles.TRAIN)
    head = build_head(cfg.head, inputs.features.shape(), cfg.seed).to(device)
    fit_whitening(head, inputs.features, rows, cfg.seed)
    return head, embed(head, inputs.features, rows)


def held_out_images(data: Dataset, fraction: float, seed: int) -> Tensor:
    """``(n_train,)`` bool: training images kept from the flow, whole physical parts at a time.

    They choose the step to keep and calibrate the threshold. At least ``FEWEST_HELD_OUT`` where
    there are twice as many; none of a single part, which has no unseen images.
    """
    groups = [s.group for s in data.samples(Roles.TRAIN)]
    held = torch.zeros(len(groups), dtype=torch.bool)
    names = sorted(set(groups))
    if not fraction or len(names) < 2:
        return held
    wanted = max(fraction * len(groups), min(FEWEST_HELD_OUT, len(groups) // 2))
    generator = torch.Generator().manual_seed(stream_seed("holdout", seed))
    for index in torch.randperm(len(names), generator=generator)[:-1].tolist():
        if held.sum() >= wanted:
            break
        held |= torch.tensor([g == names[index] for g in groups])
    return held


def write_scores(run: RunDirectory, data: Dataset, scored: Scored, limit: float) -> None:
    """``scores.csv``: every test image, then every training image."""
    never = torch.zeros(len(scored.test), dtype=torch.bool)
    parts = ((Roles.TEST, scored.test, never), (Roles.TRAIN, scored.train, scored.held_out))
    rows = [
        (role, s.path, s.label, s.defect_type, repr(value), int(value > limit), int(held))
        for role, scores, held_out in parts
        for s, value, held in zip(data.samples(role), scores.tolist(), held_out, strict=True)
    ]
    header = ("role", "path", "label", "defect_type", "score", "flagged", "held_out")
    run.write_csv("scores.csv", header, rows)


def summarise(
    cfg: TrainConfig,
    run: RunDirectory,
    inputs: Featured,
    scored: Scored,
    evaluation: Evaluation,
    limit: float,
    progress: Progress,
) -> dict[str, Any]:
    """The content of ``result.json``."""
    table = inputs.data.table
    notes = [*table.notes, *evaluation.notes]
    if cfg.method.holdout and not scored.held_out.any():
        notes.append(
            "no training image was held out (all show one physical part): "
            "the threshold comes from images that the flow knows, and is too low"
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "run": run.path.name,
        "dataset": table.name,
        "category": table.category,
        "backbone": inputs.backbone.description,
        "head": cfg.head.name,
        "method": cfg.method.name,
        "seed": cfg.seed,
        "metrics": evaluation.metrics,
        "per_defect_image_auroc": evaluation.per_defect,
        "threshold": {"value": limit, "rule": cfg.evaluation.threshold},
        "notes": notes,
        "images": dict(sorted(inputs.data.counts().items())),
        "features": {"computed": inputs.features.computed, "images": len(table)},
        "seconds": {name: round(value, 3) for name, value in progress.seconds.items()},
        "peak_memory_mib": peak_memory_mib(),
        "manifest_sha256": digest(inputs.data.identity(), 64),
        "config": asdict(cfg),
        **environment(),
    }
