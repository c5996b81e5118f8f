"""From a method's settings to what Lightning trains: the module and its batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from rad_lightning.config import MetaConfig, MethodConfig
from rad_lightning.data.datamodule import Batches, SampleBatches
from rad_lightning.errors import UserError
from rad_lightning.flows.heads import Head
from rad_lightning.meta.tasks import (
    Bank,
    Bootstrap,
    CrossCategory,
    EpisodeBatches,
    PseudoNoise,
    Samples,
    TaskSource,
    spoil,
)
from rad_lightning.modules.plain import PlainFlow
from rad_lightning.modules.rad import RadFlow
from rad_lightning.randomness import stream_seed
from rad_lightning.robust.trusted import central_images

UNSEEN = 512  # held-out samples that a step looks at


@dataclass(frozen=True)
class Training:
    """What a method may learn from: samples ``(n, V, L, D)`` of the training images and their
    physical parts ``(n,)``.

    ``held_out`` ``(m, V, L, D)`` are images that are not trained on. ``spoiled`` are the training
    images with made defects; ``others`` are samples and parts of further
    categories. Only some task sources ask for them.
    """

    samples: Tensor
    groups: Tensor
    held_out: Tensor | None = None
    spoiled: Tensor | None = None
    others: tuple[tuple[Tensor, Tensor], ...] = ()


def build_method(
    method: MethodConfig, head: Head, training: Training, seed: int
) -> tuple[PlainFlow, Batches]:
    """The module and its batches; ``head`` has its whitening fitted and its flow untrained.

    Raises:
        UserError: too few training images for tasks.
    """
    unseen = unseen_samples(method, training, seed)
    if not method.meta.on:
        samples = SampleBatches(*flat_samples(training.samples), method.batch_size)
        return PlainFlow(head, method, unseen), samples
    meta = method.meta
    if len(training.samples) < 2:
        raise UserError(
            f"method={method.name}: tasks need two training images beside the held-out ones, "
            f"there are {len(training.samples)}"
        )
    bank = Bank(training.samples, training.groups)
    trusted = torch.ones(len(bank), dtype=torch.bool)
    if meta.source == "pseudo_noise" or meta.deploy_support == "trusted":
        trusted = central_images(head, training.samples, meta.trusted_fraction)
    source = task_source(meta, bank, trusted, training, seed)
    support = deploy_support(meta, bank, trusted, seed)
    batches = EpisodeBatches(source, meta.tasks, method.batch_size)
    return RadFlow(head, method, unseen, support), batches


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
            "accepted is tail_weight"
        )
    samples, positions = flat_samples(training.held_out)
    generator = Generator().manual_seed(stream_seed("unseen", seed))
    chosen = torch.randperm(len(samples), generator=generator)[:UNSEEN]
    return samples[chosen], positions[chosen]


def task_source(
    meta: MetaConfig, bank: Bank, trusted: Tensor, training: Training, seed: int
) -> TaskSource:
    """Where the tasks come from."""
    if meta.source == "bootstrap":
        return Bootstrap(bank, meta.images)
    if meta.source == "cross_category":
        banks = [Bank(samples, groups) for samples, groups in training.others]
        return CrossCategory([Bootstrap(other, meta.images) for other in banks])
    spoiled = training.spoiled
    if spoiled is None:
        spoiled = spoil(bank.samples, Generator().manual_seed(stream_seed("spoiled", seed)))
    return PseudoNoise(bank, Bank(spoiled, bank.groups), trusted, meta.images, meta.max_rate)


def deploy_support(meta: MetaConfig, bank: Bank, trusted: Tensor, seed: int) -> Samples | None:
    """What the deployed flow adapts on; ``None`` where θ itself is deployed."""
    if meta.deploy == "meta":
        return None
    images = torch.arange(len(bank))
    if meta.deploy_support == "trusted":
        images = images[trusted]
    generator = Generator().manual_seed(stream_seed("deploy", seed))
    return bank.draw(images, min(meta.deploy_samples, int(bank.count[images].sum())), generator)


def flat_samples(samples: Tensor) -> tuple[Tensor, Tensor]:
    """``(N, V, L, D)`` -> the samples that show an image ``(P, D)``, their positions ``(P,)``."""
    flat = samples.flatten(0, 2)
    valid = (~flat[:, 0].isnan()).nonzero()[:, 0]
    return flat[valid], valid % samples.shape[2]
