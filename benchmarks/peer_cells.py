"""One cell: a peer on one training set, and the run directory that says how it did.

A cell is a job of the package (``open_job``): the same table, split, noise and manifest, and the
same images at the same size. Its ``config`` is that of our methods but for the group ``method``,
which holds the peer's name and settings, so that a report compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_cost import Cost, forget_peak, measured, peak_mib
from peer_models import PEERS, Images, Peer, scores_and_maps
from torch import Tensor

from rad_lightning.common.progress import Progress
from rad_lightning.common.randomness import stream_seed
from rad_lightning.common.runs import FAILURE, SCHEMA_VERSION, RunDirectory, environment
from rad_lightning.common.threads import cores, limited, torch_threads
from rad_lightning.config import TrainConfig, digest, number_fields
from rad_lightning.data.dataset import Dataset
from rad_lightning.data.images import FULL, BadImage
from rad_lightning.data.splits import Roles, file_hashes, write_manifest
from rad_lightning.evaluation.evaluate import Evaluation, Scored, evaluate, evaluate_maps
from rad_lightning.evaluation.thresholds import reference, threshold
from rad_lightning.features.cache import load_hashed
from rad_lightning.features.extract import Box
from rad_lightning.training.finish import scored_images, write_scores
from rad_lightning.training.job import Job, Shared, feature_spec, open_job

LEARNED = "the peer has learned from every training image: a threshold from their scores is too low"


@dataclass(frozen=True)
class PeerJob(Job):
    """A job whose method is a peer. ``backbone`` has the layers that the peer reads, ``cfg`` those
    of our methods."""

    peer: Peer
    settings: Any

    @property
    def method(self) -> dict[str, Any]:
        """What stands in the place of the settings of our methods."""
        return {"name": self.peer.label, **asdict(self.settings)}

    @cached_property
    def run(self) -> RunDirectory:
        cfg, table = self.cfg, self.data.table
        numbers = number_fields(cfg) | {"method": [self.peer.label, number_fields(self.settings)]}
        key = digest([numbers, self.data.identity(), self.backbone.fingerprint()])
        noise = f"{cfg.noise.mode}{cfg.noise.ratio:g}"
        names = [table.name, table.category.replace("/", "_"), self.peer.label, noise]
        return RunDirectory(Path(cfg.output) / "-".join([*names, f"seed{cfg.seed}", key]))

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"method": self.peer.label}


def open_cell(cfg: TrainConfig, name: str, settings: Any, shared: Shared) -> PeerJob:
    """The cell of the peer ``name``.

    Raises:
        UserError: whatever is wrong with the data, the noise or the weights.
    """
    ours = replace(cfg.backbone, out_indices=cfg.layers)
    read = replace(cfg.backbone, out_indices=list(settings.layers))
    job = open_job(replace(cfg, backbone=read), shared)
    return PeerJob(replace(job.cfg, backbone=ours), job.data, job.backbone, PEERS[name], settings)


class Decoded:
    """Images at the size of the network, read once for all cells that follow each other."""

    def __init__(self) -> None:
        self.known: dict[tuple[object, ...], tuple[np.ndarray, Box]] = {}

    def read(self, job: Job) -> tuple[Dataset, Tensor, list[Box]]:
        """The job's data without unreadable images, and the pixels ``(N, 3, H, W)`` uint8 of those
        that are trained or tested on, in the table's order, each with its box.

        Raises:
            UserError: an unreadable image, with ``data.on_bad_image=error``.
        """
        data, bad, found = job.data, set[int](), {}
        for row in data.rows(*Roles.TRAINED, *Roles.TESTED):
            try:
                key = self._key(job, row)
                found[key, row] = self.known.get(key) or self._load(job, row)
            except BadImage:
                if job.cfg.data.on_bad_image == "error":
                    raise
                bad.add(row)
        self.known = {key: image for (key, _), image in found.items()}
        pixels = torch.stack([torch.from_numpy(p).permute(2, 0, 1) for p, _ in found.values()])
        return data.without(bad) if bad else data, pixels, [box for _, box in found.values()]

    def _key(self, job: Job, row: int) -> tuple[object, ...]:
        cfg = job.cfg.data
        return job.data.hashes[row], job.data.table.white, tuple(cfg.size), cfg.fit

    def _load(self, job: Job, row: int) -> tuple[np.ndarray, Box]:
        table = job.data.table
        spec = replace(feature_spec(job.cfg), white=table.white or FULL)
        return load_hashed(table.absolute(table.samples[row]), job.data.hashes[row], spec)


@dataclass(frozen=True)
class Outcome:
    """Scores of the scored training images and of the test images, ``(n,)``, and the maps of the
    latter on the canvas, ``(n, H, W)``; and what that has cost."""

    train: Tensor
    test: Tensor
    maps: Tensor
    fitting: Cost
    scoring: Cost
    peak_mib: float


def run_cell(job: PeerJob, decoded: Decoded, progress: Progress) -> None:
    """All files of a run, ``result.json`` last; the caller holds its directory."""
    run, cfg = job.run, job.cfg
    run.restart()
    with progress.stage("data"):
        data, pixels, boxes = decoded.read(job)
    trained = data.rows(*Roles.TRAINED)
    rows = data.rows(*Roles.TRAINED, *Roles.TESTED)
    is_train = torch.tensor([data.roles[row] in Roles.TRAINED for row in rows])
    none = torch.zeros(len(trained), dtype=torch.bool)
    seen = scored_images(none, ~none, cfg.evaluation.train_images, cfg.seed)
    with limited(cfg.trainer.threads), torch_threads(cores()):
        outcome = fit_and_score(job, pixels[is_train], seen, pixels[~is_train])
    progress.seconds |= {"training": outcome.fitting.wall, "scoring": outcome.scoring.wall}
    scored_rows = [row for row, s in zip(trained, seen.tolist(), strict=True) if s]
    scored = as_scored(outcome, scored_rows)
    limit = threshold(scored.train, scored.held_out, cfg.evaluation)
    test_boxes = [box for box, train in zip(boxes, is_train.tolist(), strict=True) if not train]
    with progress.stage("evaluation"):
        evaluation = evaluated(job, data, scored, limit, outcome.maps, test_boxes)
    write_manifest(run.path / "manifest.csv", data.table, data.roles, data.hashes)
    write_scores(run, data, scored, limit)
    run.write_result(
        result(job, data, scored, evaluation, limit) | costs(job, outcome, scored, progress)
    )
    (run.path / FAILURE).unlink(missing_ok=True)


def fit_and_score(job: PeerJob, train: Tensor, seen: Tensor, test: Tensor) -> Outcome:
    """Train the peer on images ``(N, 3, H, W)``; score the ``seen`` ones of them, ``(N,)`` bool,
    and the test images."""
    height, width = job.cfg.data.size
    forget_peak()
    seed = stream_seed("peer", job.cfg.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # scikit-learn's, which anomalib calls
        model = job.peer.build(job.settings, job.backbone, (height, width))
        batch = job.settings.batch_size
        with measured() as fitting:
            job.peer.fit(model, job.settings, Images(train, job.backbone, batch))
        with measured() as scoring:
            known, _ = scores_and_maps(model, Images(train[seen], job.backbone, batch))
            scores, maps = scores_and_maps(model, Images(test, job.backbone, batch))
    return Outcome(known, scores, maps, fitting, scoring, peak_mib())


def as_scored(outcome: Outcome, rows: Sequence[int]) -> Scored:
    """In the form of our evaluation; positions of one pixel, since the maps come apart."""
    train, test = (torch.zeros(len(s), 1, 1, 1) for s in (outcome.train, outcome.test))
    none = torch.zeros(len(rows), dtype=torch.bool)
    return Scored(outcome.train, train, tuple(rows), none, ~none, outcome.test, test)


def evaluated(
    job: PeerJob, data: Dataset, scored: Scored, limit: float, maps: Tensor, boxes: Sequence[Box]
) -> Evaluation:
    """Our metrics; those of the pixels on the part of each map that shows the image."""
    cfg = job.cfg
    found = evaluate(data, scored, limit, cfg.data, cfg.evaluation)
    if not cfg.evaluation.pixel:
        return found

    def map_of(number: int) -> Tensor:
        top, left, height, width = boxes[number]
        return maps[number, top : top + height, left : left + width]

    metrics, notes = evaluate_maps(data, map_of, cfg.data)
    return replace(found, metrics=found.metrics | metrics, notes=[*found.notes, *notes])


def result(
    job: PeerJob, data: Dataset, scored: Scored, evaluation: Evaluation, limit: float
) -> dict[str, Any]:
    """What ``result.json`` says, as that of our methods does."""
    centre, spread = reference(scored.train, scored.held_out)
    rule, config = job.cfg.evaluation.threshold, asdict(job.cfg)
    return {
        "schema_version": SCHEMA_VERSION,
        "run": job.run.path.name,
        **job.facts(),
        "noise": data.contamination.as_dict(),
        "metrics": evaluation.metrics,
        "per_defect_image_auroc": evaluation.per_defect,
        "notes": [*data.table.notes, *evaluation.notes, LEARNED],
        "images": dict(sorted(data.counts().items())),
        "threshold": {"value": limit, "rule": rule, "median": centre, "spread": spread},
        "backbone_fingerprint": job.backbone.fingerprint(),
        "manifest_sha256": file_hashes([job.run.path / "manifest.csv"])[0],
        "config": config | {"method": job.method},
    }


def costs(job: PeerJob, outcome: Outcome, scored: Scored, progress: Progress) -> dict[str, Any]:
    """Seconds, memory and versions of a cell."""
    known = environment()
    with suppress(PackageNotFoundError):  # the peers of a test
        known["packages"]["anomalib"] = version("anomalib")
    images = len(scored.train) + len(scored.test)
    return {
        "cost": {
            "threads": job.cfg.trainer.threads or cores(),
            "fit_cpu_seconds": round(outcome.fitting.cpu, 3),
            "score_cpu_seconds_per_image": round(outcome.scoring.cpu / max(1, images), 5),
            "scored_images": images,
        },
        "seconds": {name: round(value, 3) for name, value in progress.seconds.items()},
        "wall_seconds": round(progress.clock() - progress.started, 3),
        "peak_memory_mib": outcome.peak_mib,
        **known,
    }
