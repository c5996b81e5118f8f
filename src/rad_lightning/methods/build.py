"""From a method's settings to what Lightning trains: the module and its batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.common.randomness import stream_seed
from rad_lightning.config import MemoryConfig, MetaConfig, MethodConfig
from rad_lightning.flows.heads import Head
from rad_lightning.meta.tasks import (
    Bank,
    Bootstrap,
    CrossCategory,
    EpisodeBatches,
    PseudoNoise,
    Samples,
    TaskSource,
    Trusted,
    spoil,
)
from rad_lightning.methods.batches import Batches, ImageBatches, SampleBatches
from rad_lightning.methods.bilevel import RadFlow
from rad_lightning.methods.likelihood import PlainFlow
from rad_lightning.methods.robust_loss import LatentFlow
from rad_lightning.methods.selection import Trust, trust_steps
from rad_lightning.robust.memories import MemoryHead, lof_head, sparse_head
from rad_lightning.robust.trusted import central_images

UNSEEN = 512  # held-out samples that a step looks at


@dataclass(frozen=True)
class Training:
    """What a method may learn from: samples ``(n, V, L, D)`` of the training images and their
    physical parts ``(n,)``.

    ``held_out`` ``(m, V, L, D)`` are images that are not trained on. ``trust`` is about the
    ``samples``, and ``injected`` their true contamination, for oracles. ``spoiled`` are the
    training images with synthetic defects; ``others`` are samples and parts of further categories.
    Only some task sources need them.
    """

    samples: Tensor
    groups: Tensor
    held_out: Tensor | None = None
    trust: Trust | None = None
    injected: float = 0.0
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
    strength = training.trust.strength if training.trust else 0.0
    if method.latent.on:
        latent = method.latent
        rate = training.injected if latent.known_rate else latent.rate
        images = ImageBatches(Bank(training.samples, training.groups), method.batch_size)
        return LatentFlow(head, method, rate, unseen), images
    if not method.meta.on:
        return PlainFlow(head, method, unseen, strength), sample_batches(method, training)
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
    source = task_source(meta, bank, trusted, training, seed, method.trust.share)
    support = deploy_support(meta, bank, trusted, seed)
    batches = EpisodeBatches(source, meta.tasks, method.batch_size)
    return RadFlow(head, method, unseen, support, strength), batches


def plain_steps(method: MethodConfig) -> float:
    """About how many steps of maximum likelihood take as long as a training by ``method``: a
    meta-step is 1 + 3 K of them (``benchmarks/meta.py``), one of F stacked flows F."""
    if method.memory.on:
        return 0.0
    meta, trust = method.meta, method.trust
    steps = method.steps * (1.0 + 3 * meta.inner_steps if meta.on else 1.0)
    folds = trust.folds if trust.source != "in_sample" else 1
    return steps + (trust_steps(trust) * folds if trust.on else 0)


def build_reference(memory: MemoryConfig, head: Head, training: Training, seed: int) -> MemoryHead:
    """A detector without a flow on the samples of ``head``."""
    generator = Generator().manual_seed(stream_seed("memory", seed))
    samples = training.samples.to(head.whitening.mean.device).float()
    if memory.form == "sparse":
        return sparse_head(head, samples, training.groups, memory.memories, memory.share, generator)
    return lof_head(head, samples, memory.coreset, memory.neighbours, memory.drop, generator)


def sample_batches(method: MethodConfig, training: Training) -> SampleBatches:
    """Batches of single samples, by the weights that trust gives them."""
    flat, positions = flat_samples(training.samples)
    trust = training.trust
    if trust is None:
        return SampleBatches(flat, positions, method.batch_size)
    valid = ~training.samples[..., 0].isnan()
    if not (trust.weights[valid] > 0).any():
        raise UserError(
            f"method={method.name}: all training images that are not held out count as "
            "mislabelled; use a lower method.trust.rate or method.trust.reach"
        )
    exposed = None if trust.exposed is None else trust.exposed[valid]
    share = method.trust.share
    return SampleBatches(flat, positions, method.batch_size, trust.weights[valid], exposed, share)


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


def task_source(
    meta: MetaConfig, bank: Bank, trusted: Tensor, training: Training, seed: int, share: float
) -> TaskSource:
    """Where the tasks come from."""
    if meta.source == "bootstrap":
        return Bootstrap(bank, meta.images)
    if meta.source == "trusted":
        assert training.trust is not None
        return trusted_queries(meta, bank, training.trust, share)
    if meta.source == "cross_category":
        banks = [Bank(samples, groups) for samples, groups in training.others]
        return CrossCategory([Bootstrap(other, meta.images) for other in banks])
    spoiled = training.spoiled
    if spoiled is None:
        spoiled = spoil(bank.samples, Generator().manual_seed(stream_seed("spoiled", seed)))
    return PseudoNoise(bank, Bank(spoiled, bank.groups), trusted, meta.images, meta.max_rate)


def trusted_queries(meta: MetaConfig, bank: Bank, trust: Trust, share: float) -> Trusted:
    """Tasks whose queries follow the suspicion of each image."""
    if trust.exposed is None:
        return Trusted(bank, trust.suspicion, None, trust.suspicion, meta.images, 0.0)
    odd = torch.where(trust.exposed[..., None] > 0, bank.samples, torch.nan)
    doubt = trust.exposed.flatten(1).amax(1)
    some_odd = doubt > 0
    every = odd.clone()
    every[~some_odd] = bank.samples[~some_odd]  # never drawn: a bank asks for a sample of each
    return Trusted(bank, trust.suspicion, Bank(every, bank.groups), doubt, meta.images, share)


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
