"""One training from its images to the files of its run directory."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.common.progress import Progress
from rad_lightning.common.randomness import stream_seed
from rad_lightning.common.runs import SCHEMA_VERSION, RunDirectory, environment, peak_memory_mib
from rad_lightning.common.threads import limited
from rad_lightning.config import to_yaml
from rad_lightning.data.dataset import Dataset
from rad_lightning.data.splits import Roles, file_hashes, write_manifest
from rad_lightning.evaluation import curves
from rad_lightning.evaluation.evaluate import Detector, Evaluation, Scored, evaluate, score
from rad_lightning.evaluation.metrics import auroc
from rad_lightning.evaluation.overlays import colour_range
from rad_lightning.evaluation.pictures import draw, draw_curves, draw_worst
from rad_lightning.evaluation.summary import print_summary
from rad_lightning.evaluation.thresholds import reference, threshold
from rad_lightning.features.cache import FeatureSet
from rad_lightning.flows.heads import Head
from rad_lightning.methods.build import build_method, build_reference
from rad_lightning.methods.selection import Trust
from rad_lightning.tracking.content import log_result
from rad_lightning.tracking.wandb import wandb_run
from rad_lightning.training.inputs import Material, find_material, usable_images, whiten
from rad_lightning.training.job import (
    Cell,
    featurise,
    pick_device,
)
from rad_lightning.training.trainer import Fit, embed, fit

NOTHING_HELD_OUT = (
    "no training image was held out (too few, or all show one physical part): "
    "the threshold comes from images that the flow was trained on, and is too low"
)


def train_cell(cell: Cell, progress: Progress) -> RunDirectory:
    """All files of a run, ``result.json`` last; the caller holds its directory."""
    cfg, run = cell.cfg, cell.run
    if run.done or not cfg.resume:
        run.restart()
    with limited(cfg.trainer.threads), wandb_run(cfg, run, cell.facts()) as logger:
        result = run_cell_stages(cell, progress, logger)
        if result is None:  # a further node of a multi-node training
            return run
        if logger:
            log_result(logger, run, result, images=cfg.logger.images)
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
                "use a lower noise.ratio"
            )
        head, samples = whiten(cfg, data, features, usable, device)
    with progress.stage("trust" if cfg.method.trust.on else "samples"):
        material = find_material(cell, data, head, samples, usable, progress)
        held_out = material.held_out
    with progress.stage("training"):
        detector, fitted = fit_detector(cell, head, material, progress, logger)
    if not fitted.first_node:
        return None
    with progress.stage("scoring"):
        detector.to(device)
        test = embed(head, features, data.rows(*Roles.TESTED))
        seen = scored_images(held_out, usable, cfg.evaluation.train_images, cfg.seed)
        rows = [r for r, s in zip(data.rows(*Roles.TRAINED), seen, strict=True) if s]
        train_scores, test_scores = score(detector, samples[seen]), score(detector, test)
        scored = Scored(*train_scores, tuple(rows), held_out[seen], usable[seen], *test_scores)
        limit = threshold(
            scored.train[scored.usable], scored.held_out[scored.usable], cfg.evaluation
        )
    with progress.stage("evaluation"):
        evaluation = evaluate(data, scored, limit, cfg.data, cfg.evaluation)
    write_scores(run, data, scored, limit)
    if material.trust:
        write_suspects(run, data, usable, material.trust)
    with progress.stage("pictures"):
        draw(run.path, data, scored, limit, cfg.data, cfg.evaluation)
        worst = draw_worst(run.path, data, scored, limit, cfg.data, cfg.evaluation)
        log = curves.read(run.path / "metrics.csv")
        draw_curves(run.path, log, f"{data.table.name}/{data.table.category}", cfg)
    result = summarise(cell, data, features, evaluation, progress)
    result |= detector_facts(cell, scored, limit)
    if cfg.method.holdout and not held_out.any():
        result["notes"].append(NOTHING_HELD_OUT)
    result["held_out"] = int(held_out.sum())
    result["held_out_nll"] = fitted.held_out_nll
    if material.trust:
        result["trust"] = material.trust.summary()
        injected = material.injected[usable].long()
        if 0 < injected.sum() < len(injected):
            ranked = auroc(material.trust.suspicion.double(), injected)
            result["metrics"]["trust_suspect_auroc"] = ranked
            result["metrics"]["estimated_contamination"] = material.trust.contamination.value
    return result | curves.summary(log) | {"worst": worst}


def fit_detector(
    cell: Cell, head: Head, material: Material, progress: Progress, logger: WandbLogger | None
) -> tuple[Detector, Fit]:
    """The trained head, or a reference without a flow."""
    cfg, run = cell.cfg, cell.run
    if cfg.method.memory.on:
        return build_reference(cfg.method.memory, head, material.training, cfg.seed), Fit(
            first_node=True, held_out_nll=None
        )
    module, batches = build_method(cfg.method, head, material.training, cfg.seed)
    checkpoint = run.usable_checkpoint()
    if checkpoint:
        progress.say(f"    resuming  {checkpoint}")
    judges = material.samples[material.judges]
    return head, fit(module, batches, judges, cfg, run.path, checkpoint, progress, logger)


def scored_images(held_out: Tensor, usable: Tensor, count: int | None, seed: int) -> Tensor:
    """``(n_train,)`` bool: the held-out images and ``count`` others, all without a count.

    Where these hold no image that the threshold may use, all ``usable`` ones are scored.
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


def write_suspects(run: RunDirectory, data: Dataset, usable: Tensor, trust: Trust) -> None:
    """``suspects.csv``: the training images that were ranked, the most suspicious first."""
    rows = [row for row, u in zip(data.rows(*Roles.TRAINED), usable, strict=True) if u]
    order = trust.suspicion.argsort(descending=True, stable=True).tolist()
    lines = [
        (
            data.table.samples[rows[i]].path,
            repr(float(trust.suspicion[i])),
            int(trust.suspects[i]),
            data.roles[rows[i]],
            data.table.samples[rows[i]].group,
        )
        for i in order
    ]
    run.write_csv("suspects.csv", ("path", "suspicion", "suspect", "role", "group"), lines)


def summarise(
    cell: Cell,
    data: Dataset,
    features: FeatureSet,
    evaluation: Evaluation,
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
        "notes": [*data.table.notes, *evaluation.notes],
        "images": dict(sorted(data.counts().items())),
        "features": {"computed": features.computed, "images": len(features.entries)},
        "seconds": {name: round(value, 3) for name, value in progress.seconds.items()},
        "peak_memory_mib": peak_memory_mib(),
        "manifest_sha256": file_hashes([cell.run.path / "manifest.csv"])[0],
        "config": asdict(cell.cfg),
        **environment(),
    }


def detector_facts(cell: Cell, scored: Scored, limit: float) -> dict[str, Any]:
    """What ``result.json`` says for those who deploy the detector: the threshold with the centre
    and the spread behind robust z scores, the colours of its maps, and which backbone it needs."""
    usable = scored.usable
    centre, spread = reference(scored.train[usable], scored.held_out[usable])
    maps = (
        colour_range(scored.train_positions) if scored.train_positions[0, 0].numel() > 1 else None
    )
    rule = cell.cfg.evaluation.threshold
    return {
        "threshold": {"value": limit, "rule": rule, "median": centre, "spread": spread},
        "map_range": maps,
        "backbone_fingerprint": cell.backbone.fingerprint(),
    }
