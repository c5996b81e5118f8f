"""Maximum likelihood on single samples: the thin Lightning shell around ``flows.coupling.nll``."""

from __future__ import annotations

from torch import Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.config import MethodConfig
from rad_lightning.flows.coupling import nll
from rad_lightning.flows.heads import Head
from rad_lightning.methods.batches import SampleBatches, flat_samples
from rad_lightning.methods.exposure import Exposure, exposure_of
from rad_lightning.methods.module import FlowModule, unseen_samples
from rad_lightning.methods.registry import OBJECTIVE, USUAL, Training, part


class PlainFlow(FlowModule):
    """Fits ``head.flow`` to its samples, and makes those of a batch unlikely that are exposed.

    Args:
        exposure: for batches that have such samples.
    """

    def __init__(
        self,
        head: Head,
        method: MethodConfig,
        unseen: tuple[Tensor, Tensor] | None = None,
        exposure: Exposure | None = None,
    ) -> None:
        super().__init__(head, method, unseen)
        self.exposure = exposure or Exposure()

    def training_step(self, batch: tuple[Tensor, ...], _: int) -> Tensor:
        samples, positions, *exposed = batch
        losses = nll(self.head.flow, None, samples, self.head.condition(positions))
        normal, push = self.exposure.split(losses, exposed[0] if exposed else None)
        if exposed:
            self.log("train/exposure", push)
        return self.finish_step(normal.mean() + push, normal)


@part(OBJECTIVE, USUAL, chosen=lambda _: False)
def build_likelihood(
    method: MethodConfig, head: Head, training: Training, seed: int
) -> tuple[PlainFlow, SampleBatches]:
    """Maximum likelihood on single samples, by the weights that the selection gives them."""
    unseen = unseen_samples(method, training, seed)
    exposure = exposure_of(method.trust, training)
    return PlainFlow(head, method, unseen, exposure), sample_batches(method, training)


def sample_batches(method: MethodConfig, training: Training) -> SampleBatches:
    """Batches of single samples, by the weights that trust gives them."""
    flat, positions = flat_samples(training.samples)
    trust = training.trust
    if trust is None:
        return SampleBatches(flat, positions, method.batch_size, jitter=training.jitter)
    valid = ~training.samples[..., 0].isnan()
    if not (trust.weights[valid] > 0).any():
        raise UserError(
            f"method={method.name}: all training images that are not held out count as "
            "mislabelled; use a lower method.trust.rate or method.trust.reach"
        )
    exposed = None if trust.exposed is None else trust.exposed[valid]
    return SampleBatches(
        flat,
        positions,
        method.batch_size,
        trust.weights[valid],
        exposed,
        share=method.trust.share,
        jitter=training.jitter,
    )
