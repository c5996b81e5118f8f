"""Maximum-likelihood training of a head: the thin Lightning shell around ``flows.coupling.nll``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from rad_lightning.config import MethodConfig
from rad_lightning.flows.coupling import Parameters, nll
from rad_lightning.flows.heads import Head
from rad_lightning.flows.stacked import one_cycle
from rad_lightning.methods.penalty import Penalty, gathered
from rad_lightning.robust.exposure import hinge
from rad_lightning.robust.regularizer import weight_penalty
from rad_lightning.robust.uncertainty import generalisation_gap, tail_weight


class PlainFlow(LightningModule):
    """Fits ``head.flow`` to its samples with Adam; the whitening is fitted before.

    Args:
        unseen: held-out samples ``(P, D)`` and their positions ``(P,)``, which the generalisation
            gap asks for; never trained on.
        strength: of the exposure, where a batch has samples to push away.
    """

    def __init__(
        self,
        head: Head,
        method: MethodConfig,
        unseen: tuple[Tensor, Tensor] | None = None,
        strength: float = 1.0,
    ) -> None:
        super().__init__()
        self.head, self.method, self.unseen, self.strength = head, method, unseen, strength
        self.penalty = Penalty(method.l2) if method.l2.on else None
        # Plain values only, so that the checkpoint loads with weights_only=True.
        self.save_hyperparameters(
            {"head": asdict(head.spec), "method": asdict(method)}, logger=False
        )

    @property
    def params(self) -> dict[str, Tensor]:
        """θ: the flow's real parameters by name; through them, DDP averages gradients."""
        return dict(self.head.flow.named_parameters())

    def deployed(self) -> Parameters:
        """The parameters that the detector is to have if training ends now."""
        return self.params

    def deploy(self) -> None:
        """Give ``head.flow`` its deployed parameters, once: here they are its own."""

    def training_step(self, batch: tuple[Tensor, ...], _: int) -> Tensor:
        samples, positions, *pushed = batch
        losses = nll(self.head.flow, None, samples, self.head.condition(positions))
        return self.finish_exposed(losses, pushed[0] if pushed else None)

    def finish_exposed(
        self, losses: Tensor, pushed: Tensor | None, measured: Tensor | None = None
    ) -> Tensor:
        """``finish_step`` for NLLs of which some, ``pushed``, are to rise above a margin.
        ``measured`` is the uncertainty where the NLLs alone cannot show it."""
        c, normal, push = self.method.trust, losses, losses.new_zeros(())
        if pushed is not None:
            normal = losses[~pushed]
            push = self.strength * c.weight * hinge(losses[pushed], c.margin).mean()
            self.log("train/exposure", push)
        if self.penalty and measured is None:
            measured = self.measure(normal.detach())
        return self.finish_step(normal.mean() + push, measured, normal.detach().mean())

    @torch.no_grad()
    def measure(self, losses: Tensor) -> Tensor:
        """The uncertainty of a step from the losses of its batch, ``()``."""
        losses = gathered(losses.flatten())
        if self.method.l2.uncertainty == "tail_weight":
            return tail_weight(losses)
        assert self.unseen is not None
        samples, positions = self.unseen
        samples, positions = samples.to(losses), positions.to(losses.device)
        unseen = nll(self.head.flow, None, samples, self.head.condition(positions))
        return generalisation_gap(losses, unseen)

    def finish_step(
        self, losses: Tensor, uncertainty: Tensor | None, shown: Tensor | None = None
    ) -> Tensor:
        """The outer loss of a step, logged: mean of ``losses`` and, where it applies, the penalty
        with the uncertainty of the steps before. ``shown`` is the NLL to log where ``losses`` are
        something else, ``()``."""
        loss = losses.mean()
        self.log("train/nll", loss if shown is None else shown, prog_bar=True)
        if self.penalty is not None and uncertainty is not None:
            outer, strength = self.method.l2.where != "inner", self.penalty.strength
            with torch.set_grad_enabled(outer):
                size = weight_penalty(self.params)
            if outer:
                loss = loss + strength * size
            self.log("train/lambda", strength)
            self.log("train/weight_penalty", size.detach())
            self.penalty.update(uncertainty)
            self.log("train/uncertainty", self.penalty.uncertainty)
        return loss

    def rates(self) -> list[nn.Parameter]:
        """Learned inner learning rates: none without an inner loop."""
        return []

    def configure_optimizers(self) -> dict[str, Any]:
        m = self.method
        groups: list[dict[str, Any]] = [{"params": list(self.head.flow.parameters())}]
        if rates := self.rates():
            groups.append({"params": rates, "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(groups, lr=m.lr, weight_decay=m.weight_decay)
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
        return one_cycle(optimizer, method.lr, method.steps)
    if method.schedule == "cosine":
        return schedulers.CosineAnnealingLR(optimizer, method.steps)
    return schedulers.ConstantLR(optimizer, factor=1.0)
