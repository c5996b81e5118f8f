"""The Lightning training of a head's flow."""

from __future__ import annotations

import csv
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException

from rad_lightning.common.environ import forget_nodes
from rad_lightning.common.errors import UserError
from rad_lightning.common.files import named, write_text
from rad_lightning.common.processes import Terminated, sigterm_left_to_lightning
from rad_lightning.common.progress import Progress
from rad_lightning.common.threads import flow_threads, torch_threads
from rad_lightning.config import MethodConfig, TrainConfig, TrainerConfig
from rad_lightning.methods.batches import Batches, StepDataModule, flat_samples
from rad_lightning.methods.module import FlowModule
from rad_lightning.tracking.guard import Curves
from rad_lightning.tracking.wandb import log_curves
from rad_lightning.training.callbacks import KeepBest, SaveLast, StepBar, Threads
from rad_lightning.training.checkpoint import SealedCheckpoints
from rad_lightning.training.ranks import SpawnedDDP, ended_when_stopped, silence_lightning

LOG, EARLIER = "metrics.csv", "metrics.earlier.csv"


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
    keep_best = keep_best_of(cfg, held_out, wandb is not None) if len(held_out) else None
    log = run / LOG
    earlier = earlier_rows(run, resumed=checkpoint is not None)
    spawned = spawns(cfg.trainer)
    live = None if spawned else wandb  # a run cannot be written from several processes
    if live and earlier:
        log_curves(live, log)
    threads = flow_threads(cfg.method.batch_size, cfg.head.hidden)
    with (
        quiet_lightning(),
        torch_threads(threads),
        progress.bar("training", cfg.method.steps) as bar,
    ):
        save = SaveLast(run / "last.ckpt", cfg.trainer.checkpoint_every)
        step_bar = None if spawned else StepBar(bar)  # it cannot travel to another process
        every: list[Callback | None] = [step_bar, keep_best, save, Threads(threads)]
        callbacks = [callback for callback in every if callback]
        trainer = build_trainer(cfg.trainer, cfg.method, run, callbacks, live)
        with named(log):  # the curves; the checkpoint names itself
            run_trainer(trainer, module, data, checkpoint)
    if trainer.is_global_zero:
        write_text(log, joined_log(earlier, read_rows(log)))
        (run / EARLIER).unlink(missing_ok=True)
        if wandb and spawned:
            log_curves(wandb, log)
    nll = keep_best.validation_nll(module) if keep_best else None
    return Ended(trainer.is_global_zero, nll)


def run_trainer(
    trainer: Trainer, module: FlowModule, data: StepDataModule, checkpoint: Path | None
) -> None:
    """``trainer.fit``, whose processes all end with it.

    Raises:
        Terminated: at SIGTERM, with a checkpoint of the step that it came in.
        KeyboardInterrupt: at Ctrl-C, which Lightning turns into an exit.
        UserError: one of several processes was lost, or failed.
    """
    launcher = trainer.strategy.launcher
    stopped: list[str] = []
    interrupts = signal.getsignal(signal.SIGINT)
    try:
        with ExitStack() as stack:
            if launcher:
                ranks = partial(getattr, launcher, "procs", ())
                stopped = stack.enter_context(ended_when_stopped(ranks))
            else:
                stack.enter_context(sigterm_left_to_lightning())
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except SIGTERMException:
        raise Terminated from None
    except SystemExit as error:  # Lightning ignores Ctrl-C from then on
        signal.signal(signal.SIGINT, interrupts)
        raise (error.__context__ or error) from None
    except ProcessException as error:
        last = stopped[0] if stopped else str(error).strip().splitlines()[-1]
        raise UserError(f"trainer.devices: a process of the training was lost: {last}") from error
    finally:
        for process in getattr(launcher, "procs", []):
            process.kill()  # no effect on one that has ended


def keep_best_of(cfg: TrainConfig, held_out: Tensor, tracked: bool) -> KeepBest:
    """The callback for ``(n, V, L, D)`` held-out samples. Where it keeps nothing, it looks at them
    for a curve that somebody sees."""
    method, looks = cfg.method, tracked or cfg.evaluation.pictures > 0
    samples, positions = flat_samples(held_out)
    return KeepBest(samples, positions, method.steps, cfg.seed, method.keep == "best", looks)


def earlier_rows(run: Path, resumed: bool) -> str:
    """The rows of ``metrics.csv`` before a training goes on. They are kept in a file of their own
    meanwhile, as Lightning's logger writes over the log, and may be killed any number of times."""
    if not resumed:
        (run / EARLIER).unlink(missing_ok=True)
        return ""
    rows = joined_log(read_rows(run / EARLIER), read_rows(run / LOG))
    write_text(run / EARLIER, rows)
    return rows


def read_rows(log: Path) -> str:
    return log.read_text() if log.is_file() else ""


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


def spawns(cfg: TrainerConfig) -> bool:
    """Whether the training runs in processes of its own.

    Lightning's usual way to several is to run the command line again in each, which would replay a
    sweep. In Python, torchrun may have started them: the command line forgets that.

    Raises:
        UserError: a strategy of that kind.
    """
    if "LOCAL_RANK" in os.environ:
        return False
    several = cfg.devices not in (1, "1") or cfg.num_nodes > 1
    if several and cfg.strategy not in ("auto", "ddp_spawn"):
        raise UserError(
            f"trainer.strategy = {cfg.strategy!r} with trainer.devices = {cfg.devices}: "
            "use trainer.strategy=ddp_spawn for several devices"
        )
    return several or "spawn" in cfg.strategy


def build_trainer(
    cfg: TrainerConfig,
    method: MethodConfig,
    run: Path,
    callbacks: Sequence[Callback],
    wandb: Curves | None = None,
) -> Trainer:
    """A Lightning trainer that logs ``metrics.csv`` into ``run``."""
    # Not Slurm's or torchrun's environment: the processes are ours, or this one is the only one.
    alone = [LightningEnvironment()] if spawns(cfg) or cfg.num_nodes == 1 else []
    if cfg.num_nodes == 1 and "LOCAL_RANK" not in os.environ:
        forget_nodes()
    # Every row at once: a killed training goes on from its checkpoint, and no row before that is
    # computed again.
    loggers: list[Logger] = [CSVLogger(run, name="", version="", flush_logs_every_n_steps=1)]
    try:
        return Trainer(
            accelerator=cfg.accelerator,
            devices=cfg.devices,
            num_nodes=cfg.num_nodes,
            strategy=SpawnedDDP() if spawns(cfg) else cfg.strategy,
            precision=cfg.precision,
            max_steps=method.steps,
            gradient_clip_val=method.grad_clip or None,
            logger=[*loggers, wandb] if wandb else loggers,
            callbacks=list(callbacks),
            plugins=[SealedCheckpoints(), *alone],
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
    """Inside, Lightning tells of errors alone."""
    with warnings.catch_warnings():
        silence_lightning()
        yield
