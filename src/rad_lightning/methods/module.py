"""What every trained flow shares: parameters, optimiser, and the adaptive penalty of a step."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Generator, Tensor, nn

from rad_lightning.common.errors import UserError
from rad_lightning.common.randomness import stream_seed
from rad_lightning.config import MethodConfig
from rad_lightning.flows.coupling import Parameters, nll
from rad_lightning.flows.heads import Head
from rad_lightning.flows.stacked import one_cycle
from rad_lightning.methods.batches import flat_samples
from rad_lightning.methods.penalty import gathered
from rad_lightning.methods.registry import PENALTY, Training, chosen_part
from rad_lightning.robust.uncertainty import generalisation_gap, tail_weight

UNSEEN = 512  # held-out samples that a step looks at


class FlowModule(LightningModule):
    """A head whose flow is trained; the whitening is fitted before. Objectives add their step.

    Args:
        unseen: held-out samples ``(P, D)`` and their positions ``(P,)``, which the generalisation
            gap reads; never trained on.
    """

    def __init__(
        self, head: Head, method: MethodConfig, unseen: tuple[Tensor, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.head, self.method, self.unseen = head, method, unseen
        penalty = chosen_part(PENALTY, method)
        self.penalty = penalty.build(method) if penalty else None
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

    def rates(self) -> list[nn.Parameter]:
        """Learned inner learning rates: none without an inner loop."""
        return []

    def finish_step(
        self, loss: Tensor, normal: Tensor, uncertainty: Tensor | None = None
    ) -> Tensor:
        """The loss of a step with the penalty, where there is one, logged.

        Args:
            loss: ``()``.
            normal: NLLs of what is learned as normal, of any shape; their mean is logged.
            uncertainty: where the NLLs alone cannot show it, for a penalty that reads it.
        """
        self.log("train/nll", normal.detach().mean(), prog_bar=True)
        if self.penalty is None:
            return loss
        penalised: Tensor = self.penalty.step(self, loss, normal, uncertainty)
        return penalised

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


def unseen_samples(
    method: MethodConfig, training: Training, seed: int
) -> tuple[Tensor, Tensor] | None:
    """Held-out samples ``(P, D)``, positions ``(P,)`` for a method that looks at them."""
    if not method.l2.on or method.l2.uncertainty != "generalisation_gap":
        return None
    if training.held_out is None or not len(training.held_out):
        raise UserError(
            f"method={method.name}: method.l2.uncertainty='generalisation_gap' needs held-out "
            "training images, and none could be held out (too few, or one physical part); "
            "use tail_weight"
        )
    samples, positions = flat_samples(training.held_out)
    generator = Generator().manual_seed(stream_seed("unseen", seed))
    chosen = torch.randperm(len(samples), generator=generator)[:UNSEEN]
    return samples[chosen], positions[chosen]
