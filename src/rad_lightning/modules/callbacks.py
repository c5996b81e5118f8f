"""Callbacks of a training: the best parameters on held-out images, a checkpoint, progress."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from rad_lightning.errors import UserError
from rad_lightning.flows.coupling import nll
from rad_lightning.flows.heads import Head
from rad_lightning.progress import Bar
from rad_lightning.randomness import stream_seed

LOOKS = 20  # how often a training looks at its held-out images
SAMPLES = 4096  # held-out samples of one look
TRIM = 0.1  # share of the least likely held-out samples left out: they may be mislabelled


def trimmed_nll(head: Head, samples: Tensor, positions: Tensor) -> float:
    """Mean NLL of ``(P, D)`` samples without the least likely tenth."""
    params = dict(head.flow.named_parameters())
    with torch.no_grad():
        values = nll(head.flow, params, samples, head.condition(positions))
    kept = values.sort().values[: math.ceil((1 - TRIM) * len(values))]
    return float(kept.mean())


class KeepBest(Callback):
    """Ends a training with the parameters that were best on images the flow never saw.

    A flow soon knows a small training set by heart. Held-out *training* images show when: no test
    image and no label has a say.
    """

    def __init__(self, samples: Tensor, positions: Tensor, steps: int, seed: int) -> None:
        # Drawn, not strided: a stride in step with the grid would look at a few columns only.
        generator = torch.Generator().manual_seed(stream_seed("looks", seed))
        chosen = torch.randperm(len(samples), generator=generator)[:SAMPLES]
        self.samples, self.positions = samples[chosen].float(), positions[chosen]
        self.every = max(1, steps // LOOKS)
        self.best, self.best_step, self.params = math.inf, 0, dict[str, Tensor]()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        step = trainer.global_step
        if step != 1 and step % self.every and step != trainer.max_steps:
            return
        loss = trimmed_nll(
            module.head, self.samples.to(module.device), self.positions.to(module.device)
        )
        if not math.isfinite(loss):
            raise UserError(
                f"training diverged at step {step}: the held-out NLL is {loss}; "
                "lower method.lr or head.clamp"
            )
        for logger in trainer.loggers:
            logger.log_metrics({"holdout/nll": loss}, step=step - 1)
        if loss < self.best:
            self.best, self.best_step = loss, step
            state = module.head.flow.state_dict()
            self.params = {k: v.detach().cpu().clone() for k, v in state.items()}

    def on_train_end(self, _: Trainer, module: LightningModule) -> None:
        if self.params:
            module.head.flow.load_state_dict(self.params)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "params": self.params}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_step = state["best"], state["best_step"]
        self.params = state["params"]


class SaveLast(Callback):
    """Keeps one checkpoint, renewed every so many steps and at the end."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step % self.every == 0:
            trainer.save_checkpoint(self.path)

    def on_train_end(self, trainer: Trainer, *_: object) -> None:
        trainer.save_checkpoint(self.path)


class StepBar(Callback):
    """Moves the command's own progress bar."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar

    def on_train_batch_end(self, *_: object) -> None:
        self.bar.advance()
