"""Episodes: which samples a task adapts on (support) and is evaluated on (query).

A source draws the tasks of one step from a generator; with the generator's seed (seed, rank,
step) they can be drawn again. Support and query of a task never share a physical part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from rad_lightning.flows.sampling import jittered


class Samples(NamedTuple):
    """Flow samples ``(..., n, D)``, and of each ``(..., n)``: its position on the grid, which of
    the drawn images it is from, which view of that image."""

    values: Tensor
    positions: Tensor
    images: Tensor
    views: Tensor


class Episodes(NamedTuple):
    """The tasks of one step: samples ``(T, S, ...)`` and ``(T, Q, ...)``, per task ``(T,)`` the
    rate at which its support was corrupted on purpose, and ``(T, Q)`` which samples of the query
    are to be pushed away instead of learned."""

    support: Samples
    query: Samples
    rates: Tensor
    exposed: Tensor


@dataclass(frozen=True)
class Bank:
    """The samples of some images, ``(N, V, L, D)`` with NaN where there is no image, addressed by
    image. ``groups`` ``(N,)`` are the physical parts, ``jitter`` is the standard deviation of the
    noise on what is drawn.

    Raises:
        ValueError: fewer than two images, or one of them without a sample.
    """

    samples: Tensor
    groups: Tensor
    jitter: float = 0.0
    flat: Tensor = field(init=False)  # (P,) places of the samples in samples.flatten(0, 2)
    start: Tensor = field(init=False)  # (N,) where an image begins in ``flat``
    count: Tensor = field(init=False)  # (N,) samples of an image

    def __post_init__(self) -> None:
        valid = ~self.samples[..., 0].flatten(1).isnan()  # (N, V * L)
        count = valid.sum(1)
        if len(count) < 2 or not count.all():
            raise ValueError("tasks need two images, each with a sample")
        flat = valid.flatten().nonzero()[:, 0]
        for name, value in (("flat", flat), ("start", count.cumsum(0) - count), ("count", count)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.samples)

    def draw(self, images: Tensor, size: int, generator: Generator) -> Samples:
        """``size`` samples of ``images`` ``(n,)``, as even over them as it goes."""
        slots = torch.arange(size) % len(images)
        chosen = images[slots]
        places = torch.rand(size, generator=generator, dtype=torch.double)
        at = self.flat[self.start[chosen] + (places * self.count[chosen]).long()]
        _, views, length, _ = self.samples.shape
        values = jittered(self.samples.flatten(0, 2)[at].float(), self.jitter, generator)
        return Samples(values, at % length, slots, at // length % views)


Task = tuple[Samples, Samples, Tensor]  # support, query, the rate at which the support is corrupted


class TaskSource(Protocol):
    """Where tasks come from."""

    def draw_task(self, support: int, query: int, generator: Generator) -> Task: ...

    def exposed(self, query: int) -> int:
        """How many of a query's samples, its last, are to be pushed away."""
        return 0


@dataclass(frozen=True)
class Bootstrap(TaskSource):
    """Support and query from the same, noisy training set: the reading that the paper suggests.

    Every task halves the physical parts at random and draws ``images`` of each half, so that
    the share of mislabelled images differs from task to task by chance; which they are is unknown.
    """

    bank: Bank
    images: int

    def draw_task(self, support: int, query: int, generator: Generator) -> Task:
        first, second = halves(self.bank.groups, generator)
        return (
            self.bank.draw(some(first, self.images, generator), support, generator),
            self.bank.draw(some(second, self.images, generator), query, generator),
            torch.zeros(()),
        )


@dataclass(frozen=True)
class PseudoNoise(TaskSource):
    """Supports corrupted at a rate that differs from task to task; queries from trusted images.

    Args:
        corrupted: the images of ``bank``, row by row, each with a synthetic defect.
        trusted: ``(N,)`` bool.
        max_rate: a task's rate is uniform between 0 and this.
    """

    bank: Bank
    corrupted: Bank
    trusted: Tensor
    images: int
    max_rate: float

    def __post_init__(self) -> None:
        if len(self.corrupted) != len(self.bank) or not self.trusted.any():
            raise ValueError("every image needs a copy with a defect, and one must be trusted")

    def draw_task(self, support: int, query: int, generator: Generator) -> Task:
        first, second = halves(self.bank.groups, generator)
        if not self.trusted[second].any():
            first, second = second, first
        rate = torch.rand((), generator=generator) * self.max_rate
        chosen = some(first, self.images, generator)
        bad = torch.rand(len(chosen), generator=generator) < rate
        clean = self.bank.draw(chosen, support, generator)
        made = self.corrupted.draw(chosen, support, generator)
        mixed = (
            torch.where(bad[clean.images].view(-1, *[1] * (c.ndim - 1)), m, c)
            for c, m in zip(clean, made, strict=True)
        )
        judged = some(second[self.trusted[second]], self.images, generator)
        return Samples(*mixed), self.bank.draw(judged, query, generator), rate


@dataclass(frozen=True)
class Trusted(TaskSource):
    """Supports from all images, as noisy as they are; queries from those that are believed, and at
    their end samples of suspects that the adapted flow is to push away.

    Args:
        suspicion: ``(N,)`` from 0 to 1; an image is queried by 1 minus this.
        outliers: the images of ``bank``, row by row, with their most suspicious samples alone;
            ``None``: no sample is pushed away.
        doubt: ``(N,)`` how often a suspect is pushed away.
        share: of a query that is.
    """

    bank: Bank
    suspicion: Tensor
    outliers: Bank | None
    doubt: Tensor
    images: int
    share: float

    def __post_init__(self) -> None:
        if self.outliers is not None and (
            len(self.outliers) != len(self.bank) or not (self.doubt > 0).any()
        ):
            raise ValueError("every image needs samples to push away, and one must be suspicious")

    def exposed(self, query: int) -> int:
        return min(query - 1, round(self.share * query)) if self.outliers is not None else 0

    def draw_task(self, support: int, query: int, generator: Generator) -> Task:
        first, second = halves(self.bank.groups, generator)
        count = self.exposed(query)
        if count and not (self.doubt[second] > 0).any():
            first, second = second, first
        noisy = self.bank.draw(some(first, self.images, generator), support, generator)
        trusted = weighted(second, 1 - self.suspicion[second], self.images, generator)
        judged = self.bank.draw(trusted, query - count, generator)
        if self.outliers is not None and count:
            suspects = weighted(second, self.doubt[second], self.images, generator)
            exposed = self.outliers.draw(suspects, count, generator)
            exposed = exposed._replace(images=exposed.images + len(trusted))
            judged = Samples(*(torch.cat(p) for p in zip(judged, exposed, strict=True)))
        return noisy, judged, torch.zeros(())


@dataclass(frozen=True)
class CrossCategory(TaskSource):
    """Each task from one of several categories, all of them others than the one to be deployed."""

    categories: Sequence[TaskSource]

    def draw_task(self, support: int, query: int, generator: Generator) -> Task:
        which = int(torch.randint(len(self.categories), (), generator=generator))
        return self.categories[which].draw_task(support, query, generator)


@dataclass(frozen=True)
class EpisodeBatches:
    """The tasks of a step, as ``methods.batches`` asks for them.

    Args:
        tasks: of a step, over all ranks together; each rank draws its share, at least one.
        size: samples of a step over all ranks, shared evenly by tasks, supports and queries.
    """

    source: TaskSource
    tasks: int
    size: int
    stream = "episodes"

    def draw(self, generator: Generator, world: int) -> Episodes:
        each = max(1, self.size // (2 * self.tasks))
        drawn = [
            self.source.draw_task(each, each, generator) for _ in range(max(1, self.tasks // world))
        ]
        support, query, rates = zip(*drawn, strict=True)
        last = self.source.exposed(each)
        exposed = (torch.arange(each) >= each - last).expand(len(drawn), each)
        return Episodes(_stack(support), _stack(query), torch.stack(rates), exposed)


def halves(groups: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Images in two halves ``(a,), (b,)`` that share no group, both with an image.

    Images of a single group are halved one by one: there is no other way to have two halves.
    """
    _, part = torch.unique(groups, return_inverse=True)
    count = int(part.max()) + 1
    if count == 1:
        part, count = torch.arange(len(groups)), len(groups)
    first = torch.randperm(count, generator=generator)[part] < (count + 1) // 2
    return first.nonzero()[:, 0], (~first).nonzero()[:, 0]


def some(images: Tensor, count: int, generator: Generator) -> Tensor:
    """``count`` of ``images`` without replacement, all of them where there are fewer."""
    return images[torch.randperm(len(images), generator=generator)[:count]]


def weighted(images: Tensor, weights: Tensor, count: int, generator: Generator) -> Tensor:
    """``count`` different ones of ``images`` by ``weights`` ``(n,)``, all of weight above 0 where
    there are fewer; any ``count`` where all weights are 0."""
    positive = int((weights > 0).sum())
    if not positive:
        return some(images, count, generator)
    drawn = torch.multinomial(weights.float(), min(count, positive), generator=generator)
    return images[drawn]


def corrupt(
    samples: Tensor, generator: Generator, share: float = 0.1, scale: float = 2.0
) -> Tensor:
    """Latent outliers: noise of ``scale`` standard deviations of a whitened feature on a ``share``
    of every image's positions, ``(N, V, L, D) -> (N, V, L, D)``; on all where L = 1."""
    count, _, length, _ = samples.shape
    order = torch.rand(count, 1, length, 1, generator=generator).argsort(2)
    noise = torch.randn(samples.shape, generator=generator) * scale
    return samples + torch.where(order < max(1, round(share * length)), noise, 0.0).to(
        samples.dtype
    )


def _stack(tasks: Sequence[Samples]) -> Samples:
    return Samples(*(torch.stack(parts) for parts in zip(*tasks, strict=True)))
