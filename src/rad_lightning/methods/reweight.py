"""Learning to reweight (Ren et al., ICML 2018): images count as far as they help trusted ones."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.func import grad, jvp

from rad_lightning.common.errors import UserError
from rad_lightning.config import MethodConfig
from rad_lightning.config.fields import setting
from rad_lightning.flows.coupling import Parameters, nll
from rad_lightning.flows.heads import Head
from rad_lightning.meta.tasks import Bank, Samples
from rad_lightning.methods.batches import ImageBatch, ImageBatches
from rad_lightning.methods.module import FlowModule
from rad_lightning.methods.registry import OBJECTIVE, Training, part, settings_of

NAME = "reweight"


@dataclass
class ReweightConfig:
    trusted: int = setting(512, low=1)  # samples of trusted images that a step looks at


class ReweightBatch(NamedTuple):
    images: ImageBatch
    trusted: Tensor  # (T, D)
    positions: Tensor  # (T,)


@dataclass(frozen=True)
class ReweightBatches:
    """Images to learn from, and samples of trusted ones to judge them by."""

    images: ImageBatches
    trusted: Bank
    size: int
    stream = "reweight_batches"

    def draw(self, generator: Generator, world: int) -> ReweightBatch:
        images = self.images.draw(generator, world)
        chosen = torch.randperm(len(self.trusted), generator=generator)[: self.size]
        found: Samples = self.trusted.draw(chosen, self.size, generator)
        return ReweightBatch(images, found.values, found.positions)


class ReweightFlow(FlowModule):
    """Weighs each image of a batch by how far a small step on it would lower the loss of trusted
    images: the product of both gradients, where it is positive. The shares sum to one; all alike
    where no image helps. Ren et al. differentiate through the step; the product is the same, and
    forward mode gives that of all images at once.
    """

    def training_step(self, batch: ReweightBatch, _: int) -> Tensor:
        flow, (values, places) = self.head.flow, batch.images

        def trusted(params: Parameters) -> Tensor:
            condition = self.head.condition(batch.positions)
            return nll(flow, params, batch.trusted, condition).mean()

        def each(params: Parameters | None) -> Tensor:
            condition = self.head.condition(places.flatten())
            return nll(flow, params, values.flatten(0, 1), condition).view(places.shape).mean(1)

        at = {name: p.detach() for name, p in self.params.items()}
        with warnings.catch_warnings():  # forward mode loads decompositions of torch's own
            warnings.filterwarnings("ignore", ".*torch.jit.script", FutureWarning)
            helps: Tensor = jvp(each, (at,), (grad(trusted)(at),))[1]
        weights = shares(helps)
        losses = each(None)
        self.log("train/images_used", (weights > 0).float().mean())
        return self.finish_step((weights * losses).sum(), losses)


def shares(helps: Tensor) -> Tensor:
    """Products of gradients ``(B,)`` as weights that sum to one; all alike where none helps."""
    positive = helps.clamp(min=0)
    total = positive.sum()
    even = torch.full_like(helps, 1 / len(helps))
    return torch.where(total > 0, positive / total.clamp(min=1e-30), even)


@part(OBJECTIVE, NAME, settings=ReweightConfig, cost=lambda _: 4.0)
def build_reweight(
    method: MethodConfig, head: Head, training: Training, seed: int
) -> tuple[ReweightFlow, ReweightBatches]:
    """Trusted are the images that a person has confirmed, and those that choose the step; where
    there are fewer than two, the half that the ranking trusts most.

    Raises:
        UserError: there are none.
    """
    known = [s for s in (training.good, training.held_out) if s is not None and len(s)]
    trusted = torch.cat(known) if known else training.samples[:0]
    if len(trusted) < 2 and training.trust is not None:
        trusted = training.samples[training.trust.suspicion < 0.5]
    if len(trusted) < 2:
        raise UserError(
            f"method={method.name}: no two images are trusted; give verdicts=FILE with good ones, "
            "or method.holdout > 0"
        )
    if method.l2.on:
        raise UserError(f"method={method.name} has no penalty: set method.l2.form=none")
    learned = Bank(training.samples, training.groups, training.jitter)
    images = ImageBatches(learned, method.batch_size)
    bank = Bank(trusted, torch.arange(len(trusted)))
    return ReweightFlow(head, method), ReweightBatches(
        images, bank, settings_of(method, NAME).trusted
    )
