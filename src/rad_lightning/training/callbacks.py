"""Callbacks of a training: the best parameters on held-out images, a checkpoint, progress."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from rad_lightning.common.errors import DivergedError
from rad_lightning.common.processes import lightning_takes_sigterm
from rad_lightning.common.progress import Bar
from rad_lightning.common.randomness import stream_seed
from rad_lightning.flows.coupling import Parameters, nll
from rad_lightning.flows.heads import Head
from rad_lightning.methods.module import FlowModule

LOOKS = 20  # how often a training looks at its held-out images
SAMPLES = 4096  # held-out samples of one look
TRIM = 0.1  # share of the least likely held-out samples left out: they may be mislabelled


def trimmed_nll(head: Head, params: Parameters, samples: Tensor, positions: Tensor) -> float:
    """Mean NLL of ``(P, D)`` samples under ``params`` without the least likely tenth."""
    with torch.no_grad():
        values = nll(head.flow, params, samples, head.condition(positions))
    kept = values.sort().values[: math.ceil((1 - TRIM) * len(values))]
    return float(kept.mean())


class KeepBest(Callback):
    """Ends a training with the parameters that were best on images the flow never saw.

    A flow soon memorises a small training set. Held-out *training* images show when; no test image
    and no label is read. The loss is that of the parameters that would be deployed.
    """

    def __init__(
        self,
        samples: Tensor,
        positions: Tensor,
        steps: int,
        seed: int,
        keep: bool = True,
        looks: bool = True,
    ) -> None:
        self.keep, self.looks = keep, looks  # without both, only the end of a training is looked at
        # Drawn, not strided: a stride in step with the grid would look at a few columns only.
        generator = torch.Generator().manual_seed(stream_seed("looks", seed))
        chosen = torch.randperm(len(samples), generator=generator)[:SAMPLES]
        self.samples, self.positions = samples[chosen].float(), positions[chosen]
        self.every = max(1, steps // LOOKS)
        self.best, self.best_step, self.params = math.inf, 0, dict[str, Tensor]()

    def validation_nll(self, module: FlowModule) -> float:
        """The trimmed NLL of the held-out samples, nats per dimension."""
        at = next(module.head.flow.parameters())
        samples, positions = self.samples.to(at), self.positions.to(at.device)
        return trimmed_nll(module.head, module.deployed(), samples, positions)

    def on_train_batch_end(self, trainer: Trainer, module: FlowModule, *_: object) -> None:
        if not (self.keep or self.looks):
            return
        step = trainer.global_step
        if step != 1 and step % self.every and step != trainer.max_steps:
            return
        loss = self.validation_nll(module)
        if self.keep and not math.isfinite(loss):
            raise DivergedError(
                f"training diverged at step {step}: the held-out NLL is {loss}; "
                "lower method.lr or head.clamp"
            )
        for logger in trainer.loggers:
            logger.log_metrics({"holdout/nll": loss}, step=step - 1)
        if self.keep and loss < self.best:
            self.best, self.best_step = loss, step
            self.params = {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}

    def on_train_end(self, _: Trainer, module: FlowModule) -> None:
        if self.params:
            module.load_state_dict(self.params)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "params": self.params}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_step = state["best"], state["best_step"]
        self.params = state["params"]


class SaveLast(Callback):
    """Keeps one checkpoint, renewed every so many steps and at SIGTERM, which ends the training;
    the last holds the deployed detector."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def on_fit_start(self, *_: object) -> None:
        lightning_takes_sigterm()

    def on_train_start(self, trainer: Trainer, *_: object) -> None:
        # Lightning would wait for all processes, and a lost one never answers.
        if trainer.world_size > 1:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step % self.every == 0:
            self.save(trainer)

    def on_exception(self, trainer: Trainer, _: object, exception: BaseException) -> None:
        # Lightning raises it when the step that SIGTERM came in is done and logged.
        if isinstance(exception, SIGTERMException):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        # Not at the very end: resuming a training that has all its steps would end it without
        # giving the flow its best, or its deployed, parameters.
        if trainer.global_step < trainer.max_steps:
            trainer.save_checkpoint(self.path)

    def on_train_end(self, trainer: Trainer, module: FlowModule) -> None:
        module.deploy()
        trainer.save_checkpoint(self.path)


class Threads(Callback):
    """Trains with so many threads, also in processes that Lightning starts: the setting is not
    passed on to them."""

    def __init__(self, count: int) -> None:
        self.count = count

    def on_fit_start(self, *_: object) -> None:
        torch.set_num_threads(self.count)


class StepBar(Callback):
    """Moves the command's own progress bar."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar

    def on_train_batch_end(self, *_: object) -> None:
        self.bar.advance()
