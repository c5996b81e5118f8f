"""Training that treats the suspicious images of each batch differently (``method.latent``)."""

from __future__ import annotations

from torch import Tensor

from rad_lightning.config import MethodConfig
from rad_lightning.flows.coupling import nll
from rad_lightning.flows.heads import Head
from rad_lightning.meta.tasks import Bank
from rad_lightning.methods.batches import ImageBatch, ImageBatches
from rad_lightning.methods.module import FlowModule, unseen_samples
from rad_lightning.methods.registry import OBJECTIVE, Training, part
from rad_lightning.robust.robust_loss import image_losses, image_weights, robust_loss


class RobustLossFlow(FlowModule):
    """Fits ``head.flow`` to the images of a batch that fit, and trims or pushes away the others.

    Under DDP each process picks the suspects within its own share of the batch: none of them sees
    the losses of another.

    Args:
        rate: share of a batch's images that is suspicious.
    """

    def __init__(
        self,
        head: Head,
        method: MethodConfig,
        rate: float,
        unseen: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__(head, method, unseen)
        self.rate = rate

    def training_step(self, batch: ImageBatch, _: int) -> Tensor:
        values, positions = batch
        condition = self.head.condition(positions.flatten())
        flat = nll(self.head.flow, None, values.flatten(0, 1), condition)
        losses = flat.view(positions.shape)
        c = self.method.latent
        loss = robust_loss(losses, c.form, self.rate, c.margin, c.weight, c.top_fraction)
        seen = losses.detach()
        normal = image_weights(seen, c.form, self.rate, c.margin, c.top_fraction)[0]
        self.log("train/suspects", (normal < 1).float().mean())
        uncertainty = self.measure(seen) if self.penalty else None
        return self.finish_step(loss, image_losses(seen)[normal == 1], uncertainty)


@part(OBJECTIVE, "robust_loss", chosen=lambda method: method.latent.on)
def build_robust_loss(
    method: MethodConfig, head: Head, training: Training, seed: int
) -> tuple[RobustLossFlow, ImageBatches]:
    """Batches of images, of which a share is trimmed or pushed away."""
    latent = method.latent
    rate = training.injected if latent.known_rate else latent.rate
    bank = Bank(training.samples, training.groups, training.jitter)
    images = ImageBatches(bank, method.batch_size)
    unseen = unseen_samples(method, training, seed)
    return RobustLossFlow(head, method, rate, unseen), images
