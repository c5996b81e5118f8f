"""Where tasks of bi-level training come from: ``method.meta.source=NAME``, a function each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from rad_lightning.common.randomness import stream_seed
from rad_lightning.config import MetaConfig, MethodConfig
from rad_lightning.meta.tasks import (
    Bank,
    Bootstrap,
    CrossCategory,
    PseudoNoise,
    TaskSource,
    Trusted,
    corrupt,
)
from rad_lightning.methods.registry import Training, Trust

# What a source may need besides the training images: copies of them with synthetic defects, other
# categories, the images nearest to the centre.
CORRUPTED, CATEGORIES, CENTRAL = "corrupted", "categories", "central"


@dataclass(frozen=True)
class Given:
    """What a source is built from; ``central`` ``(N,)`` bool, all where it is not needed."""

    method: MethodConfig
    bank: Bank
    central: Tensor
    training: Training
    seed: int


Build = Callable[[Given], TaskSource]
SOURCES: dict[str, tuple[Build, Callable[[MetaConfig], set[str]]]] = {}


def task_source(
    name: str, needs: Callable[[MetaConfig], set[str]] = lambda _: set()
) -> Callable[[Build], Build]:
    """Registers a source; ``needs`` says what it needs under some settings."""

    def register(build: Build) -> Build:
        SOURCES[name] = build, needs
        return build

    return register


def needs(method: MethodConfig) -> set[str]:
    """What the tasks of ``method`` need; nothing without tasks."""
    meta = method.meta
    if not meta.on:
        return set()
    central = {CENTRAL} if meta.deploy_support == "trusted" else set()
    return SOURCES[meta.source][1](meta) | central


def build_source(given: Given) -> TaskSource:
    return SOURCES[given.method.meta.source][0](given)


@task_source("bootstrap")
def bootstrap(given: Given) -> TaskSource:
    """Support and query from the same noisy training set."""
    return Bootstrap(given.bank, given.method.meta.images)


@task_source(
    "pseudo_noise", lambda meta: {CENTRAL} | ({CORRUPTED} if meta.pseudo != "latent" else set())
)
def pseudo_noise(given: Given) -> TaskSource:
    """Supports with synthetic anomalies, queries from the central images."""
    meta, bank, corrupted = given.method.meta, given.bank, given.training.corrupted
    if corrupted is None:
        generator = Generator().manual_seed(stream_seed("spoiled", given.seed))
        corrupted = corrupt(bank.samples, generator)
    copies = Bank(corrupted, bank.groups, bank.jitter)
    return PseudoNoise(bank, copies, given.central, meta.images, meta.max_rate)


@task_source("cross_category", lambda _: {CATEGORIES})
def cross_category(given: Given) -> TaskSource:
    """Tasks from other categories."""
    jitter = given.bank.jitter
    banks = [Bank(samples, groups, jitter) for samples, groups in given.training.others]
    return CrossCategory([Bootstrap(bank, given.method.meta.images) for bank in banks])


@task_source("trusted")
def trusted(given: Given) -> TaskSource:
    """Supports as noisy as the data, queries by the ranking of the training images."""
    assert given.training.trust is not None  # MethodConfig.check
    trust = given.method.trust
    return trusted_queries(given.method.meta, given.bank, given.training.trust, trust.share)


def trusted_queries(meta: MetaConfig, bank: Bank, trust: Trust, share: float) -> Trusted:
    """Tasks whose queries follow the suspicion of each image."""
    if trust.exposed is None:
        return Trusted(bank, trust.suspicion, None, trust.suspicion, meta.images, 0.0)
    outliers = torch.where(trust.exposed[..., None] > 0, bank.samples, torch.nan)
    doubt = trust.exposed.flatten(1).amax(1)
    suspect = doubt > 0
    every = outliers.clone()
    every[~suspect] = bank.samples[~suspect]  # never drawn: a bank asks for a sample of each
    suspects = Bank(every, bank.groups, bank.jitter)
    return Trusted(bank, trust.suspicion, suspects, doubt, meta.images, share)
