"""``finish``: a trained detector in, its scores, metrics, pictures and ``result.json`` out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from rad_lightning.common.machine import lack, reason_of
from rad_lightning.common.processes import end_if_asked
from rad_lightning.common.progress import Progress
from rad_lightning.common.randomness import stream_seed
from rad_lightning.common.runs import SCHEMA_VERSION, RunDirectory, environment, peak_memory_mib
from rad_lightning.data.dataset import Dataset
from rad_lightning.data.splits import Roles, file_hashes
from rad_lightning.evaluation import curves
from rad_lightning.evaluation.evaluate import Evaluation, Scored, Scorer, evaluate, score
from rad_lightning.evaluation.metrics import auroc, check_finite
from rad_lightning.evaluation.overlays import colour_range
from rad_lightning.evaluation.pictures import draw, draw_curves, draw_worst, titled
from rad_lightning.evaluation.thresholds import reference, threshold
from rad_lightning.robust.review import Reviewed
from rad_lightning.training.head import embed
from rad_lightning.training.images import TrainingImages
from rad_lightning.training.inputs import Prepared
from rad_lightning.training.job import Job, pick_device

NOTHING_HELD_OUT = (
    "no training image was held out (too few, or all show one physical part): "
    "the threshold comes from images that the flow knows, and is too low"
)


def finish(
    prepared: Prepared, detector: Scorer, held_out_nll: float | None, progress: Progress
) -> dict[str, Any]:
    """Score, evaluate and draw; writes all files of the run but ``result.json``, whose content is
    returned without the seconds of the whole."""
    job, data, images = prepared.job, prepared.data, prepared.images
    cfg, run = job.cfg, job.run
    with progress.stage("scoring"):
        scored = score_images(prepared, detector)
        for scores in (scored.train, scored.test):
            check_finite(scores)
        eligible = scored.eligible
        limit = threshold(scored.train[eligible], scored.held_out[eligible], cfg.evaluation)
    with progress.stage("evaluation"):
        evaluation = evaluate(data, scored, limit, cfg.data, cfg.evaluation)
    write_scores(run, data, scored, limit)
    if images.trust and not images.trust.suspicion.isnan().all():
        write_suspects(run, data, images)
    log = curves.read(run.path / "metrics.csv")
    with progress.stage("pictures"):
        worst, missing = pictures(prepared, scored, limit, log)
    result = summarise(prepared, evaluation, progress)
    result["notes"] += missing
    result["scored_images"] = len(scored.train) + len(scored.test)
    result |= detector_facts(job, scored, limit) | ranking_facts(images, result["metrics"])
    if cfg.method.holdout and not images.held_out.any():
        result["notes"].append(NOTHING_HELD_OUT)
    result |= {"held_out": int(images.held_out.sum()), "held_out_nll": held_out_nll}
    return result | curves.summary(log) | {"worst": worst}


def pictures(
    prepared: Prepared, scored: Scored, limit: float, log: Sequence[curves.Row]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Draw all pictures of a run.

    Returns:
        What the worst images show, and a note for each picture that could not be drawn: the numbers
        are there without it.
    """
    cfg, data, run = prepared.job.cfg, prepared.data, prepared.job.run.path
    name = titled(data.table)
    worst: list[dict[str, Any]] = []
    notes: list[str] = []
    with missed("histogram and overlays", notes):
        draw(run, data, scored, limit, cfg.data, cfg.evaluation)
    with missed("thumbnails of the worst images", notes):
        worst = draw_worst(run, data, scored, limit, cfg.data, cfg.evaluation)
    with missed("picture of the curves", notes):
        draw_curves(run, log, name, cfg)
    return worst, notes


@contextmanager
def missed(what: str, notes: list[str]) -> Iterator[None]:
    """An error inside becomes a note of what there is not."""
    try:
        yield
    except Exception as error:  # of Matplotlib, Pillow, the disk, the memory
        end_if_asked()
        notes.append(f"no {what}: {lack(error) or reason_of(error)}")


def score_images(prepared: Prepared, detector: Scorer) -> Scored:
    """Scores of the test images and of the training images that are asked for."""
    cfg, data, images = prepared.job.cfg, prepared.data, prepared.images
    detector.to(pick_device(cfg.trainer.accelerator))
    test = embed(prepared.head, prepared.features, data.rows(*Roles.TESTED))
    count = cfg.evaluation.train_images
    seen = scored_images(images.held_out, images.normal, count, cfg.seed)
    rows = tuple(row for row, s in zip(images.rows, seen, strict=True) if s)
    train_scores, test_scores = score(detector, images.samples[seen]), score(detector, test)
    return Scored(*train_scores, rows, images.held_out[seen], images.normal[seen], *test_scores)


def scored_images(held_out: Tensor, eligible: Tensor, count: int | None, seed: int) -> Tensor:
    """``(n_train,)`` bool: the held-out images and ``count`` others, all without a count.

    Where that leaves the threshold no eligible image, all eligible ones are scored.
    """
    if count is None:
        return torch.ones_like(held_out)
    generator = torch.Generator().manual_seed(stream_seed("scored", seed))
    others = [i for i in torch.randperm(len(held_out), generator=generator) if not held_out[i]]
    seen = held_out.clone()
    seen[torch.tensor(others[:count], dtype=torch.long)] = True
    return seen if (seen & eligible).any() else seen | eligible


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


def write_suspects(run: RunDirectory, data: Dataset, images: TrainingImages) -> None:
    """``suspects.csv``: the training images that were ranked, the most suspicious first."""
    trust = images.trust
    assert trust is not None
    ranked = trust.suspicion.nan_to_num(-1.0).argsort(descending=True, stable=True)
    lines = []
    for i in ranked[: int((~trust.suspicion.isnan()).sum())].tolist():
        sample, role = data.table.samples[images.rows[i]], data.roles[images.rows[i]]
        suspicion, suspect = repr(float(trust.suspicion[i])), int(trust.suspects[i])
        lines.append((sample.path, suspicion, suspect, role, sample.group))
    run.write_csv("suspects.csv", ("path", "suspicion", "suspect", "role", "group"), lines)


def summarise(prepared: Prepared, evaluation: Evaluation, progress: Progress) -> dict[str, Any]:
    """What ``result.json`` says of every training."""
    job, data = prepared.job, prepared.data
    features = prepared.features
    return {
        "schema_version": SCHEMA_VERSION,
        "run": job.run.path.name,
        **job.facts(),
        "noise": data.contamination.as_dict(),
        "metrics": evaluation.metrics,
        "per_defect_image_auroc": evaluation.per_defect,
        "notes": [*data.table.notes, *evaluation.notes],
        "images": dict(sorted(data.counts().items())),
        "features": {"computed": features.computed, "images": len(features.entries)},
        "seconds": {name: round(value, 3) for name, value in progress.seconds.items()},
        "cpu_seconds": {name: round(value, 3) for name, value in progress.cpu_seconds.items()},
        "peak_memory_mib": peak_memory_mib(),
        "manifest_sha256": file_hashes([job.run.path / "manifest.csv"])[0],
        "config": asdict(job.cfg),
        **environment(),
    }


def ranking_facts(images: TrainingImages, metrics: dict[str, float]) -> dict[str, Any]:
    """What ``result.json`` says of the ranking of the training images; how good it is goes into
    ``metrics``, where the truth is known."""
    trust, eligible = images.trust, images.eligible
    if trust is None:
        return {}
    eligible = eligible & ~trust.suspicion.isnan()
    injected = images.injected[eligible].long()
    if 0 < injected.sum() < len(injected):
        metrics["trust_suspect_auroc"] = auroc(trust.suspicion[eligible].double(), injected)
        metrics["estimated_contamination"] = trust.contamination.value
    said = {
        "good": Reviewed.GOOD,
        "mislabelled": Reviewed.MISLABELLED,
        "left_out_with_their_part": Reviewed.PART,
    }
    counts = {name: int((images.reviewed == value).sum()) for name, value in said.items()}
    return {"trust": trust.summary(), "reviewed": counts}


def detector_facts(job: Job, scored: Scored, limit: float) -> dict[str, Any]:
    """What ``result.json`` says for those who deploy the detector: the threshold with the centre
    and the spread behind robust z scores, the colours of its maps, and which backbone it needs."""
    eligible = scored.eligible
    centre, spread = reference(scored.train[eligible], scored.held_out[eligible])
    maps = (
        colour_range(scored.train_positions) if scored.train_positions[0, 0].numel() > 1 else None
    )
    rule = job.cfg.evaluation.threshold
    return {
        "threshold": {"value": limit, "rule": rule, "median": centre, "spread": spread},
        "map_range": maps,
        "backbone_fingerprint": job.backbone.fingerprint(),
    }
