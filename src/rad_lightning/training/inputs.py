"""What a training learns from: whitened samples, held-out images, trust, synthetic defects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from rad_lightning.common.errors import UserError
from rad_lightning.common.progress import Progress
from rad_lightning.common.randomness import stream_seed
from rad_lightning.config import TrainConfig
from rad_lightning.data.dataset import Dataset, open_dataset
from rad_lightning.data.pseudo import made_path, write_made
from rad_lightning.data.splits import Roles, file_hashes
from rad_lightning.features.cache import FeatureSet
from rad_lightning.flows.heads import Head
from rad_lightning.methods.build import Training
from rad_lightning.methods.selection import Trust, find_trust, trust_steps
from rad_lightning.training.job import Cell, cell_features, pick_device
from rad_lightning.training.trainer import build_head, embed, fit_whitening

FEWEST_HELD_OUT = 5
JUDGES = 0.5  # the less suspicious half of the held-out images chooses the step


def usable_images(data: Dataset, clean_only: bool) -> Tensor:
    """``(n_train,)`` bool: the training images that a method may learn anything from."""
    clean = [data.roles[row] == Roles.TRAIN for row in data.rows(*Roles.TRAINED)]
    return torch.tensor(clean) if clean_only else torch.ones(len(clean)).bool()


def whiten(
    cfg: TrainConfig, data: Dataset, features: FeatureSet, usable: Tensor, device: torch.device
) -> tuple[Head, Tensor]:
    """The head with its channel reduction fitted, and the training samples ``(n, V, L, D)``."""
    rows = data.rows(*Roles.TRAINED)
    head = build_head(cfg.head, features.shape(), cfg.seed).to(device)
    fit_whitening(head, features, [r for r, u in zip(rows, usable, strict=True) if u], cfg.seed)
    return head, embed(head, features, rows)


@dataclass(frozen=True)
class Material:
    """What is known of the N training images when a training begins.

    ``usable``, ``held_out``, ``judges``, ``injected`` ``(N,)`` bool: ``judges`` are the held-out
    images that choose the step to keep. ``trust`` is about the ``usable`` ones.
    """

    samples: Tensor  # (N, V, L, D)
    usable: Tensor
    held_out: Tensor
    judges: Tensor
    injected: Tensor
    training: Training
    trust: Trust | None


def find_material(
    cell: Cell, data: Dataset, head: Head, samples: Tensor, usable: Tensor, progress: Progress
) -> Material:
    """What the method may learn from: the ``usable`` images, the trust in each, and the further
    images that its settings name."""
    cfg, method = cell.cfg, cell.cfg.method
    held_out = held_out_images(data, usable, method.holdout, cfg.seed)
    fitted, judges = usable & ~held_out, held_out
    rows = data.rows(*Roles.TRAINED)
    groups = group_numbers([data.table.samples[row].group for row in rows])
    injected = torch.tensor([data.roles[row] != Roles.TRAIN for row in rows])
    trust = None
    if method.trust.on:
        with progress.bar("trust", trust_steps(method.trust)) as bar:
            trust = find_trust(
                method, head, samples[usable], groups[usable], injected[usable], cfg.seed,
                bar.advance,
            )  # fmt: skip
        # A step must not be chosen for fitting images that the method itself distrusts.
        believed = torch.zeros_like(usable)
        believed[usable] = trust.suspicion < JUDGES
        judges = held_out & believed if (held_out & believed).any() else held_out
    chosen = [row for row, f in zip(rows, fitted.tolist(), strict=True) if f]
    spoiled, others = None, []
    if method.meta.source == "pseudo_noise" and method.meta.pseudo != "latent":
        spoiled = embed_images(cell, head, *spoiled_images(cell, data, chosen), progress)
    if method.meta.source == "cross_category":
        others = [other_category(cell, c, progress) for c in method.meta.categories or []]
    training = Training(
        samples[fitted],
        groups[fitted],
        samples[judges],
        trust.of(fitted[usable]) if trust else None,
        float(injected[fitted].float().mean()) if fitted.any() else 0.0,
        spoiled,
        tuple(others),
    )
    return Material(samples, usable, held_out, judges, injected, training, trust)


def group_numbers(names: Sequence[str]) -> Tensor:
    """Physical parts as numbers, ``(n,)``."""
    known = {name: number for number, name in enumerate(sorted(set(names)))}
    return torch.tensor([known[name] for name in names])


def spoiled_images(cell: Cell, data: Dataset, rows: Sequence[int]) -> tuple[list[Path], list[str]]:
    """The images at ``rows`` with a synthetic defect each, and their hashes. The defect depends on
    the content of the image alone, so that all cells of a sweep share the features."""
    kind, paths = cell.cfg.method.meta.pseudo, []
    for row in rows:
        sample, sha256 = data.table.samples[row], data.hashes[row]
        path = made_path(kind, int(sha256[:15], 16), sample.path)
        folder = Path(cell.cfg.cache.dir) / "made" / sha256[:16]
        paths.append(write_made(folder, path, data.table.absolute(sample)))
    return paths, file_hashes(paths)


def other_category(cell: Cell, category: str, progress: Progress) -> tuple[Tensor, Tensor]:
    """Samples and parts of another category's training images, under the same noise. They are
    whitened by themselves, so that every category starts from the same Gaussian."""
    cfg = replace(cell.cfg, data=replace(cell.cfg.data, category=category))
    data = open_dataset(cfg.data, cfg.noise, cfg.seed, Path(cfg.cache.dir))
    rows = data.rows(*Roles.TRAINED)
    paths = [data.table.absolute(data.table.samples[row]) for row in rows]
    features = cell_features(cell, paths, [data.hashes[row] for row in rows], progress)
    for reason in features.unreadable.values():
        raise UserError(f"{reason}; every image of method.meta.categories must be readable")
    head = build_head(cfg.head, features.shape(), cfg.seed).to(pick_device(cfg.trainer.accelerator))
    every = list(range(len(rows)))
    fit_whitening(head, features, every, cfg.seed)
    groups = group_numbers([data.table.samples[row].group for row in rows])
    return embed(head, features, every), groups


def embed_images(
    cell: Cell, head: Head, paths: Sequence[Path], hashes: Sequence[str], progress: Progress
) -> Tensor:
    """Flow samples ``(n, V, L, D)`` of any readable images."""
    features = cell_features(cell, paths, hashes, progress)
    return embed(head, features, list(range(len(paths))))


def held_out_images(data: Dataset, usable: Tensor, fraction: float, seed: int) -> Tensor:
    """``(n_train,)`` bool: usable images kept from the flow, whole physical parts at a time.

    They choose the step to keep and calibrate the threshold. At least ``FEWEST_HELD_OUT`` where
    there are twice as many; none of a single part, which has no unseen images. Methods that use
    other images of the same training set draw the parts in the same order.
    """
    groups = [s.group for s in data.samples(*Roles.TRAINED)]
    held = torch.zeros(len(groups), dtype=torch.bool)
    names = sorted(set(groups))
    generator = torch.Generator().manual_seed(stream_seed("holdout", seed))
    order = [names[i] for i in torch.randperm(len(names), generator=generator).tolist()]
    eligible = {g for g, use in zip(groups, usable.tolist(), strict=True) if use}
    order = [name for name in order if name in eligible]
    if not fraction or len(order) < 2:
        return held
    count = int(usable.sum())
    wanted = max(fraction * count, min(FEWEST_HELD_OUT, count // 2))
    for name in order[:-1]:
        if held.sum() >= wanted:
            break
        held |= torch.tensor([g == name for g in groups]) & usable
    return held
