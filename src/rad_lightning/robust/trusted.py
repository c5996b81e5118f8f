"""Which training images to trust, decided before the training and without a label.

Rests on one assumption: normal images are mutually more alike than anomalies are. Images of one
physical part (a group) are never compared with each other, and share one rank with ``by_part``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from rad_lightning.common.threads import each
from rad_lightning.flows.coupling import Parameters, nll, standard_normal_nll
from rad_lightning.flows.heads import SAMPLES_AT_ONCE, Head
from rad_lightning.flows.sampling import drawn_from, running_sums
from rad_lightning.flows.stacked import fit_stack

SCORED = 64  # images whose samples are scored at once


def gaussian_scores(head: Head, samples: Tensor) -> Tensor:
    """NLL of every sample under the Gaussian that the whitening gives, ``(N, V, L)``.

    An untrained flow is the identity, so its NLL is the Mahalanobis distance: no training.

    Args:
        head: untrained.
        samples: ``(N, V, L, D)``.
    """
    device = head.whitening.mean.device
    parts = [
        head.position_scores(part.to(device).float()).flatten(2).cpu()
        for part in torch.split(samples, SCORED)
    ]
    return torch.cat(parts)


def central_images(head: Head, samples: Tensor, fraction: float) -> Tensor:
    """The most ordinary images under the Gaussian of the whitening, ``(N,)`` bool.

    Args:
        head: untrained.
        samples: ``(N, V, L, D)``.
        fraction: how many images to trust, at least one.
    """
    scores = image_suspicion(head, gaussian_scores(head, samples))
    trusted = torch.zeros(len(samples), dtype=torch.bool)
    trusted[scores.argsort()[: math.ceil(fraction * len(scores))]] = True
    return trusted


def image_suspicion(head: Head, scores: Tensor) -> Tensor:
    """Image scores ``(N,)`` of sample scores ``(N, V, L)``, as the head gives them."""
    return head.image_scores(scores.view(*scores.shape[:2], *head.spec.grid))


def part_means(values: Tensor, groups: Tensor) -> Tensor:
    """Each value replaced by the mean of its part's, ``(N,) -> (N,)``."""
    part = parts(groups)
    total = torch.zeros(int(part.max()) + 1, dtype=values.dtype).index_add_(0, part, values)
    return (total / torch.bincount(part))[part]


def parts(groups: Tensor) -> Tensor:
    """Physical parts numbered from 0, ``(N,)``. Images of a single part count as one each: there
    is no other part to compare them with."""
    names, part = torch.unique(groups, return_inverse=True)
    return part if len(names) > 1 else torch.arange(len(groups))


def first_of_parts(order: Iterable[int], groups: Tensor) -> list[int]:
    """The places, from 0, at which ``order``, of rows, comes to a physical part ``(N,)`` for the
    first time."""
    part = parts(groups).tolist()
    first: dict[int, int] = {}
    for place, row in enumerate(order):
        first.setdefault(part[row], place)
    return list(first.values())


def ranks(values: Tensor) -> Tensor:
    """Ranks along the last axis as shares: from 0 for the smallest to below 1; ties share one, and
    NaN, which is not counted, stays NaN."""
    counted = (~values.isnan()).sum(-1, keepdim=True)
    ordered = torch.where(values.isnan(), torch.inf, values).sort(-1).values.contiguous()
    below = torch.searchsorted(ordered, values.contiguous())
    return torch.where(values.isnan(), torch.nan, below / counted)


def part_weights(groups: Tensor) -> Tensor:
    """Weights under which every physical part has one vote, however often it was photographed,
    ``(N,)`` of mean 1."""
    part = parts(groups)
    weights: Tensor = 1.0 / torch.bincount(part)[part].float()
    return weights / weights.mean()


def fold_of(groups: Tensor, folds: int, generator: Generator) -> Tensor:
    """A fold ``0..folds-1`` for every image ``(N,)``, whole parts at a time; of a single part,
    image by image."""
    part = parts(groups)
    count = int(part.max()) + 1
    return (torch.randperm(count, generator=generator) % min(folds, count))[part]


@dataclass(frozen=True)
class OutOfFold:
    """How the flows of the folds are trained: all of them as one vmapped batch.

    Args:
        folds: K; 1: one flow of all images, whose scores are then in-sample.
        steps: of Adam under a one-cycle schedule.
        batch: samples of a step and fold.
        lr: its peak.
        seed: of the folds and the batches.
    """

    folds: int
    steps: int
    batch: int
    lr: float
    seed: int

    def scores(
        self,
        head: Head,
        samples: Tensor,
        groups: Tensor,
        weights: Tensor,
        tick: Callable[[], object] = lambda: None,
    ) -> Tensor:
        """NLL of every sample under a flow that saw no image of its physical part, ``(N, V, L)``.

        In-sample NLLs rank mislabelled images worse: a flow learns those that it is shown.

        Args:
            head: untrained; stays so.
            samples: ``(N, V, L, D)``, NaN where there is no image.
            groups: ``(N,)``.
            weights: ``(N, V, L)`` how often a sample is drawn; 0: never.
            tick: called after every step.

        Raises:
            ValueError: fewer than two images, or a fold whose training images all weigh nothing.
        """
        if len(samples) < 2:
            raise ValueError(f"out-of-fold scores need two images, got {len(samples)}")
        generator = Generator().manual_seed(self.seed)
        fold = fold_of(groups, self.folds, generator)
        params = self._fit(head, samples, weights, fold, generator, tick)
        found = torch.empty(samples.shape[:3])
        for k in range(int(fold.max()) + 1):
            of_fold = (fold == k).nonzero()[:, 0]
            at = {name: value[k] for name, value in params.items()}
            for rows in torch.split(of_fold, SCORED):
                found[rows] = self._score(head, at, samples[rows])
        return found

    def _fit(
        self,
        head: Head,
        samples: Tensor,
        weights: Tensor,
        fold: Tensor,
        generator: Generator,
        tick: Callable[[], object],
    ) -> dict[str, Tensor]:
        device, length = head.whitening.mean.device, samples.shape[2]
        flat = samples.flatten(0, 2)
        # A single infinite value would turn a whole flow, and all that it scores, into NaN.
        finite = flat.sum(1, dtype=torch.float32).isfinite()
        image = torch.arange(len(samples)).repeat_interleave(samples.shape[1] * length)
        folds = int(fold.max()) + 1
        drawn = torch.where(finite, weights.flatten(), 0.0)
        out = [(fold[image] == k) if folds > 1 else image < 0 for k in range(folds)]
        sums = running_sums(torch.stack([torch.where(o, 0.0, drawn) for o in out]))
        if not (sums[:, -1] > 0).all():
            raise ValueError("a fold has no image to learn from: all that it could use weigh 0")

        def draw() -> tuple[Tensor, Tensor | None]:
            at = drawn_from(sums, self.batch, generator)
            return flat[at].to(device).float(), head.condition((at % length).to(device))

        def loss(params: Parameters, batch: tuple[Tensor, Tensor | None]) -> Tensor:
            return nll(head.flow, params, *batch).mean()

        flows = [head.flow] * folds
        return fit_stack(flows, draw, loss, steps=self.steps, lr=self.lr, tick=tick)

    @torch.no_grad()
    def _score(self, head: Head, params: dict[str, Tensor], samples: Tensor) -> Tensor:
        device, length = head.whitening.mean.device, samples.shape[2]
        flat = samples.flatten(0, 2)
        found = torch.full((len(flat),), torch.nan)
        valid = (~flat[:, 0].isnan()).nonzero()[:, 0]
        # A flow of their own: functional_call puts parameters into a module while it runs, which
        # several threads cannot do to one.
        flow = copy.deepcopy(head.flow)
        for name, value in params.items():
            flow.get_parameter(name).copy_(value)

        def scored(rows: Tensor) -> Tensor:
            x, condition = flat[rows].to(device).float(), head.condition((rows % length).to(device))
            scores = standard_normal_nll(*flow(x, condition))
            return scores.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).cpu()

        if len(valid):
            pieces = torch.split(valid, SAMPLES_AT_ONCE.get(device.type, 8192))
            found[valid] = torch.cat(each(scored, pieces, device))
        return found.view(samples.shape[:3])
