"""Maximum-likelihood training of a head: the thin Lightning shell around ``flows.coupling.nll``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from rad_lightning.config import MethodConfig
from rad_lightning.flows.coupling import nll
from rad_lightning.flows.heads import Head

WARM_UP = 0.1  # share of the steps: the flow starts as the identity, a long one is wasted


class PlainFlow(LightningModule):
    """Fits ``head.flow`` to its samples with Adam; the whitening is fitted before."""

    def __init__(self, head: Head, method: MethodConfig) -> None:
        super().__init__()
        self.head, self.method = head, method
        # Plain values only, so that the checkpoint loads with weights_only=True.
        self.save_hyperparameters(
            {"head": asdict(head.spec), "method": asdict(method)}, logger=False
        )

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        samples, positions = batch
        flow = self.head.flow
        params = dict(flow.named_parameters())
        loss = nll(flow, params, samples, self.head.condition(positions)).mean()
        self.log("train/nll", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        m = self.method
        optimizer = torch.optim.AdamW(
            self.head.flow.parameters(), lr=m.lr, weight_decay=m.weight_decay
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule(optimizer, m), "interval": "step"},
        }


def schedule(
    optimizer: torch.optim.Optimizer, method: MethodConfig
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate over ``method.steps`` steps."""
    schedulers = torch.optim.lr_scheduler
    if method.schedule == "one_cycle":
        return schedulers.OneCycleLR(
            optimizer, method.lr, total_steps=method.steps + 1, pct_start=WARM_UP
        )
    if method.schedule == "cosine":
        return schedulers.CosineAnnealingLR(optimizer, method.steps)
    return schedulers.ConstantLR(optimizer, factor=1.0)
