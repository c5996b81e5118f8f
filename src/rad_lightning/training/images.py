"""The training images, and what each is used for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.common.progress import Progress
from rad_lightning.common.randomness import stream_seed
from rad_lightning.config import TrainConfig
from rad_lightning.data.dataset import Dataset
from rad_lightning.data.splits import Roles
from rad_lightning.data.verdicts import Verdict
from rad_lightning.features.cache import FeatureSet
from rad_lightning.flows.heads import Head
from rad_lightning.methods.registry import SELECTION, Trust, chosen_part
from rad_lightning.methods.verdicts import exposes, follow, verdicts_alone
from rad_lightning.robust.review import Reviewed, bad, judged, of_parts, simulated
from rad_lightning.training.head import build_head, embed, fit_whitening
from rad_lightning.training.job import Job, pick_device

FEWEST_HELD_OUT = 5
REVIEWED = {
    None: Reviewed.NO,
    Verdict.GOOD: Reviewed.GOOD,
    Verdict.MISLABELLED: Reviewed.MISLABELLED,
}
VALIDATION = 0.5  # the less suspicious half of the held-out images chooses the step


class Use(IntEnum):
    """What a training image is used for."""

    FIT = 0
    VALIDATION = 1  # held out: chooses the step to keep, and places the threshold
    CALIBRATION = 2  # held out: places the threshold alone, being too suspicious to choose
    EXCLUDED = 3  # an injected image, of which an oracle knows


@dataclass(frozen=True)
class TrainingImages:
    """The N training images, in the order of the table, and what is known of them.

    All columns have N rows, whatever an image is used for: an excluded one is there too.
    """

    rows: tuple[int, ...]  # in the table
    samples: Tensor  # (N, V, L, D)
    groups: Tensor  # (N,) physical parts
    injected: Tensor  # (N,) bool: its label is wrong, which only oracles and the evaluation read
    use: Tensor  # (N,) see ``Use``
    reviewed: Tensor  # (N,) see ``Reviewed``: what a person said
    trust: Trust | None = None  # suspicion, weights and exposure of each

    @property
    def fitted(self) -> Tensor:
        """Those that the flow is fitted to, ``(N,)`` bool."""
        return self.use == Use.FIT

    @property
    def validation(self) -> Tensor:
        """Those that choose the step to keep, ``(N,)`` bool."""
        return self.use == Use.VALIDATION

    @property
    def held_out(self) -> Tensor:
        """Those kept from the flow, which place the threshold, ``(N,)`` bool."""
        return self.validation | (self.use == Use.CALIBRATION)

    @property
    def eligible(self) -> Tensor:
        """Those that the method may learn anything from, ``(N,)`` bool."""
        return self.use != Use.EXCLUDED

    @property
    def normal(self) -> Tensor:
        """Those of them that nobody knows to be anomalies, ``(N,)`` bool."""
        return self.eligible & ~bad(self.reviewed)


def training_images(
    job: Job, data: Dataset, features: FeatureSet, progress: Progress
) -> tuple[Head, TrainingImages]:
    """The untrained head, and the training images with what each is used for."""
    cfg, method = job.cfg, job.cfg.method
    with progress.stage("samples"):
        rows = data.rows(*Roles.TRAINED)
        injected = torch.tensor([data.roles[row] != Roles.TRAIN for row in rows])
        groups = group_numbers([data.table.samples[row].group for row in rows])
        reviewed = torch.tensor([REVIEWED[data.verdict(row)] for row in rows])
        reviewed = of_parts(reviewed, groups)
        eligible = ~injected if method.clean_only else torch.ones_like(injected)
        if not eligible.any():
            raise UserError(
                f"method={method.name}: all {len(rows)} training images are injected ones; "
                "use a lower noise.ratio"
            )
        normal = eligible & ~bad(reviewed)
        if not normal.any():
            raise UserError(
                f"verdicts: all {int(eligible.sum())} training images are mislabelled, or of a "
                "mislabelled part: nothing is left to learn from"
            )
        head, samples = whiten(job, features, rows, normal)
        use = torch.full_like(groups, Use.FIT)
        use[held_out_images(data, normal, method.holdout, cfg.seed)] = Use.VALIDATION
        use[~eligible if exposes(method) else ~normal] = Use.EXCLUDED
        images = TrainingImages(tuple(rows), samples, groups, injected, use, reviewed)
    if others := int((reviewed == Reviewed.PART).sum()):
        plural = "s" if others > 1 else ""
        progress.say(f"        note  {others} other image{plural} of mislabelled parts: left out")
    if chosen_part(SELECTION, method) or judged(reviewed).any():
        with progress.stage("trust"):
            images = selected(job, head, images, progress)
    return head, images


def simulated_reviews(
    data: Dataset, images: TrainingImages, cfg: TrainConfig
) -> dict[str, Verdict]:
    """What a simulated person says of the images that an audit would show, by sha256."""
    assert images.trust is not None  # TrainConfig.check
    generator = torch.Generator().manual_seed(stream_seed("review", cfg.seed))
    budget, error = cfg.review.budget, cfg.review.error
    found = simulated(
        images.trust.suspicion, images.groups, images.injected, budget, error, generator
    )
    verdicts = {code: verdict for verdict, code in REVIEWED.items() if verdict}
    judged = zip(images.rows, found.tolist(), strict=True)
    return {data.hashes[row]: verdicts[code] for row, code in judged if code != Reviewed.NO}


def whiten(
    job: Job, features: FeatureSet, rows: Sequence[int], eligible: Tensor
) -> tuple[Head, Tensor]:
    """The head with its channel reduction fitted to the eligible of the images at ``rows``, and the
    samples of all of them, ``(N, V, L, D)``. Memories get the features themselves, as their authors
    use them."""
    cfg, device = job.cfg, pick_device(job.cfg.trainer.accelerator)
    if cfg.method.memory.on:
        channels = features.shape()[1]
        head = build_head(replace(cfg.head, channels=channels), features.shape(), cfg.seed)
        head.whitening.leave()
        return head.to(device), embed(head, features, list(rows))
    head = build_head(cfg.head, features.shape(), cfg.seed).to(device)
    fit_whitening(head, features, [r for r, e in zip(rows, eligible, strict=True) if e], cfg.seed)
    return head, embed(head, features, list(rows))


def selected(job: Job, head: Head, images: TrainingImages, progress: Progress) -> TrainingImages:
    """``images`` with the eligible ones ranked by suspicion. A step must not be chosen for fitting
    images that the method itself distrusts: the less suspicious of the held-out ones choose it."""
    method, of = job.cfg.method, images.eligible
    samples, reviewed = images.samples[of], images.reviewed[of]
    if selection := chosen_part(SELECTION, method):
        with progress.bar("trust", selection.ticks(method)) as bar:
            trust: Trust = selection.build(
                method, head, samples, images.groups[of], images.injected[of],
                job.cfg.seed, bar.advance, reviewed,
            )  # fmt: skip
        trust = follow(trust, method, head, samples, reviewed).among(of)
    else:
        trust = verdicts_alone(method, head, samples, reviewed).among(of)
    doubted = (trust.suspicion >= VALIDATION) & (images.reviewed != Reviewed.GOOD)
    use, distrusted = images.use.clone(), images.held_out & doubted
    if not torch.equal(distrusted, images.held_out):  # some are left to choose
        use[distrusted] = Use.CALIBRATION
    return replace(images, use=use, trust=trust)


def held_out_images(data: Dataset, eligible: Tensor, fraction: float, seed: int) -> Tensor:
    """``(n_train,)`` bool: eligible images kept from the flow, whole physical parts at a time.

    They choose the step to keep and calibrate the threshold. At least ``FEWEST_HELD_OUT`` where
    there are twice as many; none of a single part, which has no unseen images. Methods that use
    other images of the same training set draw the parts in the same order.
    """
    groups = [s.group for s in data.samples(*Roles.TRAINED)]
    held = torch.zeros(len(groups), dtype=torch.bool)
    names = sorted(set(groups))
    generator = torch.Generator().manual_seed(stream_seed("holdout", seed))
    order = [names[i] for i in torch.randperm(len(names), generator=generator).tolist()]
    there = {g for g, use in zip(groups, eligible.tolist(), strict=True) if use}
    order = [name for name in order if name in there]
    if not fraction or len(order) < 2:
        return held
    count = int(eligible.sum())
    wanted = max(fraction * count, min(FEWEST_HELD_OUT, count // 2))
    for name in order[:-1]:
        if held.sum() >= wanted:
            break
        held |= torch.tensor([g == name for g in groups]) & eligible
    return held


def group_numbers(names: Sequence[str]) -> Tensor:
    """Physical parts as numbers, ``(n,)``."""
    known = {name: number for number, name in enumerate(sorted(set(names)))}
    return torch.tensor([known[name] for name in names])
