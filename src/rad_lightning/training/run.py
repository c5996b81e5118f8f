"""One training in three calls: ``prepare``, ``fit``, ``finish``; and all of it for a job."""

from __future__ import annotations

from dataclasses import dataclass

from rad_lightning.common.progress import Progress
from rad_lightning.common.runs import RunDirectory
from rad_lightning.common.threads import limited
from rad_lightning.config import to_yaml
from rad_lightning.data.splits import write_manifest
from rad_lightning.evaluation.evaluate import Scorer
from rad_lightning.evaluation.summary import print_summary
from rad_lightning.methods.penalty_scale import with_scale
from rad_lightning.methods.registry import objective_of
from rad_lightning.tracking.content import log_result
from rad_lightning.tracking.guard import Curves
from rad_lightning.tracking.wandb import wandb_run
from rad_lightning.training.checkpoint import usable_checkpoint
from rad_lightning.training.finish import finish
from rad_lightning.training.inputs import Prepared, prepare
from rad_lightning.training.job import Job
from rad_lightning.training.trainer import fit_flow


@dataclass(frozen=True)
class Fitted:
    """A trained detector. ``first_node``: whether this is the first node of the training, which
    alone finishes it; ``held_out_nll``: the trimmed NLL of the validation images under the deployed
    parameters (nats per dimension; ``None`` without such images, or without a flow); ``l2_scale``:
    the factor that ``method.l2.auto`` has found."""

    detector: Scorer
    first_node: bool = True
    held_out_nll: float | None = None
    l2_scale: float | None = None


def run_job(job: Job, progress: Progress) -> RunDirectory:
    """All files of a run, ``result.json`` last; the caller holds its directory."""
    cfg, run = job.cfg, job.run
    if run.done or not cfg.resume:
        run.restart()
    with limited(cfg.trainer.threads), wandb_run(cfg, run, job.facts()) as logger:
        prepared = prepare(job, progress)
        run.write_text("config.yaml", to_yaml(cfg))
        data = prepared.data
        write_manifest(run.path / "manifest.csv", data.table, data.roles, data.hashes, data.reviews)
        with progress.stage("training"):
            fitted = fit(prepared, progress, logger)
        if not fitted.first_node:
            return run
        result = finish(prepared, fitted.detector, fitted.held_out_nll, progress)
        if fitted.l2_scale is not None:
            result["l2_scale"] = fitted.l2_scale
        if logger:
            log_result(logger, run, result, images=cfg.logger.images)
    if logger and logger.guard.problem:
        result["notes"].append(logger.guard.problem)
    result["wall_seconds"] = round(progress.clock() - progress.started, 3)
    run.write_result(result)
    print_summary(progress, result, run.path)
    return run


def fit(prepared: Prepared, progress: Progress, logger: Curves | None = None) -> Fitted:
    """The head with its flow trained, or a reference without a flow. An interrupted training of
    this job goes on from its checkpoint."""
    job, cfg, training = prepared.job, prepared.job.cfg, prepared.training()
    objective = objective_of(cfg.method)
    method, scale = with_scale(cfg.method, prepared.head, training, cfg.seed)
    if scale is not None:
        progress.say(f"     penalty  {scale:g} times as strong as set, by held-out images")
    built = objective.build(method, prepared.head, training, cfg.seed)
    if not objective.flow:
        return Fitted(built)
    module, batches = built
    checkpoint = usable_checkpoint(job.run, progress)
    if checkpoint:
        progress.say(f"    resuming  {checkpoint}")
    assert training.held_out is not None
    ended = fit_flow(
        module, batches, training.held_out, cfg, job.run.path, checkpoint, progress, logger
    )
    return Fitted(prepared.head, ended.first_node, ended.held_out_nll, scale)
