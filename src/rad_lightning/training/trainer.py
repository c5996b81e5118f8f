"""Fitting a head on cached features: whitening, samples in memory, then a Lightning training."""

from __future__ import annotations

import csv
import logging
import math
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.common.files import named, write_text
from rad_lightning.common.progress import Progress
from rad_lightning.common.randomness import stream_seed
from rad_lightning.common.threads import flow_threads, torch_threads
from rad_lightning.config import HeadConfig, MethodConfig, TrainConfig, TrainerConfig
from rad_lightning.features.cache import FeatureSet
from rad_lightning.flows.heads import Head, HeadSpec
from rad_lightning.methods.batches import Batches, StepDataModule, flat_samples
from rad_lightning.methods.module import FlowModule
from rad_lightning.tracking.guard import Curves
from rad_lightning.tracking.wandb import log_curves
from rad_lightning.training.callbacks import KeepBest, SaveLast, StepBar, Threads
from rad_lightning.training.checkpoint import SealedCheckpoints

WHITENING_SAMPLES = 32_768
IMAGES_AT_ONCE = 16  # images held as float32 at once


def build_head(cfg: HeadConfig, feature_shape: tuple[int, ...], seed: int) -> Head:
    """The head for features ``(V, C, H, W)``."""
    _, channels, height, width = feature_shape
    return Head(
        HeadSpec(
            grid=(height, width),
            inputs=channels,
            channels=cfg.channels,
            blocks=cfg.blocks,
            hidden=cfg.hidden,
            clamp=cfg.clamp,
            position_dims=cfg.position_dims,
            top_fraction=cfg.top_fraction,
            score=cfg.score,
            seed=stream_seed("init", seed),
            center=cfg.center,
        )
    )


def fit_whitening(head: Head, features: FeatureSet, rows: list[int], seed: int) -> None:
    """Fit the channel reduction, and the positions' centres where the head has them, on positions
    drawn evenly from the training images.

    Raises:
        UserError: fewer samples than channels.
    """
    generator = torch.Generator().manual_seed(stream_seed("whitening", seed))
    per_image = math.ceil(WHITENING_SAMPLES / len(rows))
    offset = torch.zeros(1, 1)
    if head.centres is not None:
        offset = position_means(features, rows)
        head.centres.copy_(offset)
    drawn = []
    for row in rows:
        maps = features.read([row])[0].flatten(2) - offset.T  # (V, C, L)
        view, at = (~maps[:, 0].isnan()).nonzero(as_tuple=True)
        chosen = torch.randperm(len(at), generator=generator)[:per_image]
        drawn.append(maps.transpose(1, 2)[view[chosen], at[chosen]])
    samples = torch.cat(drawn)
    if len(samples) <= head.spec.channels:
        raise UserError(
            f"head.channels = {head.spec.channels}: {len(rows)} training images give "
            f"{len(samples)} samples; use a value from 2 to {max(2, len(samples) - 1)}"
        )
    head.whitening.fit(samples)


def position_means(features: FeatureSet, rows: list[int]) -> Tensor:
    """The mean feature of every grid position over images and views, ``(L, C)``; the mean of all
    where no image reaches (padding)."""
    _, channels, *grid = features.shape()
    total, count = torch.zeros(math.prod(grid), channels), torch.zeros(math.prod(grid), 1)
    for i in range(0, len(rows), IMAGES_AT_ONCE):
        maps = (
            features.read(rows[i : i + IMAGES_AT_ONCE]).flatten(3).transpose(2, 3)
        )  # (n, V, L, C)
        total += maps.nansum((0, 1))
        count += (~maps[..., :1].isnan()).sum((0, 1))
    return torch.where(count > 0, total / count.clamp(min=1), total.sum(0) / count.sum())


def embed(head: Head, features: FeatureSet, rows: list[int]) -> Tensor:
    """Flow samples of the images at ``rows``: ``(n, V, L, D)`` float16, on the CPU."""
    device = head.whitening.mean.device
    if not rows:
        views, _, *grid = features.shape()
        return torch.empty(0, views, math.prod(grid), head.spec.channels, dtype=torch.half)
    parts = [
        head.embed(features.read(rows[i : i + IMAGES_AT_ONCE]).to(device)).half().cpu()
        for i in range(0, len(rows), IMAGES_AT_ONCE)
    ]
    return torch.cat(parts)


@dataclass(frozen=True)
class Ended:
    """How a training ended: whether this is its first node, and the trimmed NLL of the held-out
    samples under the deployed parameters (nats per dimension; ``None`` without such samples)."""

    first_node: bool
    held_out_nll: float | None


def fit_flow(
    module: FlowModule,
    batches: Batches,
    held_out: Tensor,
    cfg: TrainConfig,
    run: Path,
    checkpoint: Path | None,
    progress: Progress,
    wandb: Curves | None = None,
) -> Ended:
    """Train ``module.head.flow`` in place, and give it its deployed parameters.

    Args:
        held_out: ``(n, V, L, D)`` samples of training images that the flow must not see; they
            choose the step whose parameters are kept. Empty: the last step's are.
        checkpoint: of an interrupted training, to go on from.
        wandb: gets the curves beside ``metrics.csv``.
    """
    data = StepDataModule(batches, steps=cfg.method.steps, seed=cfg.seed)
    looks = cfg.evaluation.pictures > 0 or wandb is not None
    keep_best = keep_best_of(cfg, held_out, looks) if len(held_out) else None
    log = run / "metrics.csv"
    earlier = log.read_text() if checkpoint and log.is_file() else ""
    spawned = "spawn" in cfg.trainer.strategy
    live = None if spawned else wandb  # a run cannot be written from several processes
    if live and earlier:
        log_curves(live, log)
    threads = flow_threads(cfg.method.batch_size, cfg.head.hidden)
    with (
        quiet_lightning(),
        torch_threads(threads),
        progress.bar("training", cfg.method.steps) as bar,
    ):
        # A bar cannot travel to spawned processes.
        callbacks: list[Callback] = [] if spawned else [StepBar(bar)]
        if keep_best:
            callbacks.append(keep_best)
        callbacks.append(SaveLast(run / "last.ckpt", cfg.trainer.checkpoint_every))
        callbacks.append(Threads(threads))
        trainer = build_trainer(cfg.trainer, cfg.method, run, callbacks, live)
        try:
            with named(log):  # the curves; the checkpoint names itself
                trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        except SystemExit as error:  # Lightning's answer to Ctrl-C, which it ignores from then on
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise (error.__context__ or error) from None
    if trainer.is_global_zero:
        write_text(log, joined_log(earlier, log.read_text() if log.is_file() else ""))
        if wandb and spawned:
            log_curves(wandb, log)
    nll = keep_best.validation_nll(module) if keep_best else None
    return Ended(trainer.is_global_zero, nll)


def keep_best_of(cfg: TrainConfig, held_out: Tensor, looks: bool) -> KeepBest:
    """The callback for ``(n, V, L, D)`` held-out samples; ``looks``: whether anybody sees the curve
    where it keeps nothing."""
    method = cfg.method
    samples, positions = flat_samples(held_out)
    return KeepBest(samples, positions, method.steps, cfg.seed, method.keep == "best", looks)


def joined_log(earlier: str, later: str) -> str:
    """One row per step of ``metrics.csv``, a resumed training's behind the interrupted one's.

    Lightning's CSVLogger starts a new file on resume and writes a row per logging call; where
    both trainings have a step, the later one counts.
    """
    rows: dict[int, dict[str, str]] = {}
    for text in (earlier, later):
        for row in csv.DictReader(text.splitlines()):
            if not (row.get("step") or "").isdigit():
                continue  # a line that a killed process left torn
            filled = {key: value for key, value in row.items() if key and value}
            rows.setdefault(int(row["step"]), {}).update(filled)
    columns = ["epoch", "step", *dict.fromkeys(k for row in rows.values() for k in sorted(row))]
    buffer = StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(columns)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[step] for step in sorted(rows))
    return buffer.getvalue()


def build_trainer(
    cfg: TrainerConfig,
    method: MethodConfig,
    run: Path,
    callbacks: Sequence[Callback],
    wandb: Curves | None = None,
) -> Trainer:
    """A Lightning trainer that logs ``metrics.csv`` into ``run``."""
    # Not Slurm's environment: a job of one task may spawn its processes itself.
    spawned = [LightningEnvironment()] if "spawn" in cfg.strategy else []
    loggers: list[Logger] = [CSVLogger(run, name="", version="", flush_logs_every_n_steps=10)]
    try:
        return Trainer(
            accelerator=cfg.accelerator,
            devices=cfg.devices,
            num_nodes=cfg.num_nodes,
            strategy=cfg.strategy,
            precision=cfg.precision,
            max_steps=method.steps,
            gradient_clip_val=method.grad_clip or None,
            logger=[*loggers, wandb] if wandb else loggers,
            callbacks=list(callbacks),
            plugins=[SealedCheckpoints(), *spawned],
            log_every_n_steps=1 if method.l2.on else max(1, min(10, method.steps // 10)),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (TypeError, ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise UserError(f"trainer: {error}") from error


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's start-up notices are about its own defaults; errors still come through."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning")
        yield
