"""Label noise: which anomalous images stand among the training images, as a pure function.

Every level is nested in the higher ones (with equal seed and settings), the test set is the same at
every level, and nothing is capped: a level that the data cannot give is refused with the largest
that they can. Protocols: docs/noise.md.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np

from rad_lightning.common.errors import UserError
from rad_lightning.config import NoiseConfig
from rad_lightning.data.samples import ANOMALOUS, Sample, SampleTable
from rad_lightning.data.splits import Roles
from rad_lightning.data.synthetic_anomalies import KINDS, parse_synthetic, synthetic_path

TRAINING = "training images"


@dataclass(frozen=True)
class Contamination:
    """What was requested and what was done.

    ``requested`` and ``achieved`` are shares of ``of`` images, which are what ``denominator``
    says; ``contamination`` is always the share of the training images.
    """

    mode: str
    source: str
    requested: float
    denominator: str
    of: int
    injected: int
    normals: int
    defect_types: dict[str, int]

    @property
    def achieved(self) -> float:
        return self.injected / self.of if self.of else 0.0

    @property
    def contamination(self) -> float:
        return self.injected / max(1, self.injected + self.normals)

    def counted(self, table: SampleTable, roles: Sequence[str]) -> Contamination:
        """The same request, with what ``roles`` hold in fact (images may turn out unreadable)."""
        drawn = injected_samples(table, roles)
        normals = sum(role == Roles.TRAIN for role in roles)
        return replace(
            self,
            injected=len(drawn),
            normals=normals,
            of=len(drawn) + normals if self.denominator == TRAINING else self.of,
            defect_types=dict(sorted(Counter(s.defect_type for s in drawn).items())),
        )

    def as_dict(self) -> dict[str, Any]:
        """For ``result.json``."""
        ratios = {"achieved": self.achieved, "contamination": self.contamination}
        return asdict(self) | {name: round(value, 6) for name, value in ratios.items()}

    def __str__(self) -> str:
        if self.mode == "none":
            return "none"
        requested = "" if self.mode == "manifest" else f"{100 * self.requested:.3g} % requested, "
        return (
            f"{self.mode}: {requested}{100 * self.achieved:.3g} % achieved = {self.injected} of "
            f"{self.of} {self.denominator}"
        )


def inject(
    table: SampleTable, roles: Sequence[str], cfg: NoiseConfig, seed: int
) -> tuple[SampleTable, tuple[str, ...], Contamination]:
    """Put anomalies among the training images.

    Args:
        roles: aligned with ``table.samples``, as ``splits.split_table`` gives them.
        seed: of the draw.

    Returns:
        The table (with further samples where ``source="synthetic"`` makes some; their files do not
        exist yet), its roles, and what was done. Drawn anomalies become ``INJECTED``; normals that
        they replace, or that the size of the training set leaves no room for, ``UNUSED``.

    Raises:
        UserError: a level that the data cannot give, with the largest feasible one.
    """
    role_of = {s.path: r for s, r in zip(table.samples, roles, strict=True)}
    normals = _shuffled(
        [s for s in table.samples if role_of[s.path] == Roles.TRAIN], _stream("normals", seed)
    )
    if cfg.mode in ("none", "manifest"):
        return table, tuple(roles), describe(cfg, table, roles)
    anomalies = _drawable(table, role_of, normals, cfg, seed)
    size = _training_size(len(normals), len(anomalies), cfg)
    every_anomaly = sum(s.label == ANOMALOUS for s in table.samples)
    of = {"replace": size, "add": len(normals), "pool_fraction": every_anomaly}[cfg.mode]
    count = math.floor(cfg.ratio * of + 0.5)  # half up: Python's half to even is not monotone here
    if count > len(anomalies):
        raise UserError(_infeasible(table, cfg, len(anomalies), of))
    chosen = anomalies[:count]
    if cfg.mode == "replace":
        role_of |= {s.path: Roles.UNUSED for s in normals[max(0, size - count) :]}
    added = {}
    for sample in chosen:
        if cfg.source == "synthetic":
            added[sample.path] = sample
        tested = role_of.get(sample.path) == Roles.TEST
        role_of[sample.path] = Roles.SHARED if tested else Roles.INJECTED
    samples = tuple(sorted((*table.samples, *added.values()), key=lambda s: s.path))
    table = replace(table, samples=samples)
    roles = tuple(role_of[s.path] for s in samples)
    return table, roles, describe(cfg, table, roles, of)


def describe(
    cfg: NoiseConfig, table: SampleTable, roles: Sequence[str], of: int = 0
) -> Contamination:
    """The contamination that ``roles`` amount to; ``of`` where it is no share of the training."""
    names = {"add": "normal training images", "pool_fraction": "anomalous images of the dataset"}
    denominator = names.get(cfg.mode, TRAINING)
    requested = Contamination(cfg.mode, cfg.source, cfg.ratio, denominator, of, 0, 0, {})
    found = requested.counted(table, roles)
    if cfg.mode != "manifest":
        return found
    made = {parse_synthetic(s.path) is not None for s in injected_samples(table, roles)}
    source = "mixed" if len(made) > 1 else "synthetic" if True in made else "real"
    return replace(found, source=source, requested=found.achieved)


def injected_samples(table: SampleTable, roles: Sequence[str]) -> list[Sample]:
    """The anomalies that are trained on as if normal."""
    injected = (Roles.INJECTED, Roles.SHARED)
    return [s for s, role in zip(table.samples, roles, strict=True) if role in injected]


def _drawable(
    table: SampleTable,
    role_of: dict[str, str],
    normals: Sequence[Sample],
    cfg: NoiseConfig,
    seed: int,
) -> list[Sample]:
    """The anomalies that may be injected, in the order in which they are."""
    if cfg.source == "synthetic":
        return _made_from(normals, cfg, seed)
    allowed = {Roles.POOL, Roles.TEST} if cfg.overlap else {Roles.POOL}
    pool = [s for s in table.samples if s.label == ANOMALOUS and role_of[s.path] in allowed]
    if not pool:
        where = "in the dataset" if cfg.overlap else "in the noise pool"
        raise UserError(
            f"{table.name}/{table.category}: no anomalous image {where}; raise data.pool_fraction, "
            "or use synthetic defects with noise.source=synthetic"
        )
    if cfg.clustered:
        counts = Counter(s.defect_type for s in pool)
        kind = cfg.defect_type or min(counts, key=lambda k: (-counts[k], k))
        _known_type(kind, sorted(counts))
        pool = [s for s in pool if s.defect_type == kind]
    stream = _stream("anomalies", seed)
    return _interleaved(pool, stream) if cfg.stratify else _shuffled(pool, stream)


def _made_from(normals: Sequence[Sample], cfg: NoiseConfig, seed: int) -> list[Sample]:
    """Defects on the training images, the last of ``normals`` first: those are replaced first."""
    kinds = sorted(KINDS)
    if cfg.clustered:
        kind = cfg.defect_type or kinds[0]
        _known_type(kind, kinds)
        kinds = [kind]
    made = []
    for number, sample in enumerate(reversed(normals)):
        kind = kinds[number % len(kinds)]
        # By the image's name, so that it is the same one whatever else is drawn.
        own = crc32(f"{seed}/{sample.path}".encode())
        path = synthetic_path(kind, own, sample.path)
        made.append(replace(sample, path=path, label=ANOMALOUS, defect_type=kind, mask_path=None))
    return made


def _training_size(normals: int, anomalies: int, cfg: NoiseConfig) -> int:
    """Training images of every level of ``replace``: as many as its highest level can fill."""
    if cfg.train_images is not None:
        if cfg.train_images > normals:
            raise UserError(
                f"noise.train_images = {cfg.train_images}: use a value from 2 to {normals}, "
                "the number of normal training images"
            )
        return cfg.train_images
    if cfg.mode != "replace" or cfg.source == "synthetic":
        return normals
    # The rounding keeps 3 / 0.3 at 10: doubles would make it 9.
    return min(normals, math.floor(round(anomalies / cfg.max_ratio, 9)))


def _infeasible(table: SampleTable, cfg: NoiseConfig, available: int, of: int) -> str:
    largest = available * 1000 // max(1, of) / 1000
    source = (
        "normal images to put synthetic defects on"
        if cfg.source == "synthetic"
        else "images to draw"
    )
    kind = " of one defect type" if cfg.clustered else ""
    return (
        f"noise.ratio = {cfg.ratio:g} of {of} images with noise={cfg.mode}: {table.name}/"
        f"{table.category} has {available} {source}{kind}; the largest feasible ratio is "
        f"{largest:g}"
    )


def _known_type(kind: str, known: Sequence[str]) -> None:
    if kind not in known:
        raise UserError(f"noise.defect_type = {kind}: choose one of {', '.join(known)}")


def _stream(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([crc32(f"noise/{name}".encode()), seed])


def _shuffled(samples: Sequence[Sample], stream: np.random.Generator) -> list[Sample]:
    ordered = sorted(samples, key=lambda s: s.path)
    return [ordered[i] for i in stream.permutation(len(ordered))]


def _interleaved(samples: Sequence[Sample], stream: np.random.Generator) -> list[Sample]:
    """An order every beginning of which holds the defect types in about their proportions."""
    by_type: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_type[sample.defect_type].append(sample)
    placed = []
    for kind in sorted(by_type):
        members = _shuffled(by_type[kind], stream)
        # The k-th of n stands at (k + 1/2) / n; types with equal places take random turns.
        turn = float(stream.random())
        placed += [((k + 0.5) / len(members), turn, s) for k, s in enumerate(members)]
    return [sample for *_, sample in sorted(placed, key=lambda p: p[:2])]
