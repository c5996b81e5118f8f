"""A dataset as a run sees it: the sample table, a role for every sample, and file hashes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rad_lightning.common.errors import UserError
from rad_lightning.config import DataConfig, NoiseConfig
from rad_lightning.data.copies import join_copies, leaked
from rad_lightning.data.depth import white_note, white_of
from rad_lightning.data.layouts import LAYOUTS, Layout, find_layout, read_layout
from rad_lightning.data.masks import with_masks, with_tested_masks
from rad_lightning.data.noise import Contamination, describe, inject
from rad_lightning.data.pixels import limit
from rad_lightning.data.samples import ANOMALOUS, NORMAL, Sample, SampleTable
from rad_lightning.data.splits import (
    ManifestRow,
    Roles,
    file_hashes,
    read_manifest,
    split_table,
)
from rad_lightning.data.synthetic import SYNTHETIC_CATEGORIES, generate
from rad_lightning.data.synthetic_anomalies import parse_synthetic, write_synthetic
from rad_lightning.data.verdicts import Verdict

FOLDER = "the folder of the dataset: data.root=DIR"
NOISE_POOL = 0.5  # of every defect type, where noise is drawn and the user names no share


@dataclass(frozen=True)
class Dataset:
    """``roles`` and ``hashes`` are aligned with ``table.samples``."""

    table: SampleTable
    roles: tuple[str, ...]
    hashes: tuple[str, ...]
    contamination: Contamination
    # By sha256: what a person said of images, mislabelled or good.
    reviews: Mapping[str, Verdict] = field(default_factory=dict)

    def rows(self, *roles: str) -> list[int]:
        return [i for i, r in enumerate(self.roles) if r in roles]

    def samples(self, *roles: str) -> list[Sample]:
        return [self.table.samples[i] for i in self.rows(*roles)]

    def verdict(self, row: int) -> Verdict | None:
        """What is known of the training image at ``row``."""
        known = self.roles[row] in Roles.REVIEWABLE
        return self.reviews.get(self.hashes[row]) if known else None

    def wrongly_tested(self) -> set[int]:
        """Rows that would be tested on as normal though a person has called them mislabelled;
        none where nothing else is tested on."""
        tested = self.rows(*Roles.TESTED)
        found = {
            row
            for row in tested
            if self.table.samples[row].label == NORMAL
            and self.reviews.get(self.hashes[row]) == Verdict.MISLABELLED
        }
        return found if len(found) < len(tested) else set()

    def counts(self) -> Counter[str]:
        return Counter(self.roles)

    def without(self, unreadable: set[int]) -> Dataset:
        """The same dataset with the rows of ``unreadable`` images taken out of every role."""
        roles = tuple(Roles.UNREADABLE if i in unreadable else r for i, r in enumerate(self.roles))
        return replace(
            self, roles=roles, contamination=self.contamination.counted(self.table, roles)
        )

    def identity(self) -> list[tuple[str, ...]]:
        """All that a run takes from its data, wherever the files lie: part of the run key."""
        faults = sorted(("mask", path) for path in self.table.mask_faults)
        wrong = self.wrongly_tested()
        roles = [Roles.UNUSED if i in wrong else role for i, role in enumerate(self.roles)]
        return faults + sorted(
            (s.path, h, Roles.recorded(r, self.reviews.get(h)), str(s.label), s.defect_type,
             s.group, str(s.mask_path))
            for s, h, r in zip(self.table.samples, self.hashes, roles, strict=True)
        )  # fmt: skip


def read_table(cfg: DataConfig, cache_dir: Path) -> SampleTable:
    """The sample table that ``cfg`` names; the embedded set is generated on first use.

    Raises:
        UserError: no such layout, no root given, or whatever the reader finds wrong with it.
    """
    check_places(cfg)
    limit.set(cfg.max_pixels)
    if cfg.name == "synthetic":
        root = generate(
            cache_dir / "synthetic",
            cfg.category or "",
            train=cfg.train_images,
            test_normal=cfg.test_normal_images,
            test_per_defect=cfg.test_images_per_defect,
        )
        return replace(read_layout("mvtec", root, cfg.category), name="synthetic")
    chosen = find_layout(cfg.name)
    if getattr(cfg, chosen.needs) is None:
        what = "the table: data.csv=FILE" if chosen.needs == "csv" else FOLDER
        raise UserError(f"data={cfg.name} needs {what}")
    options = {key: getattr(cfg, key) for key in chosen.options}
    root = Path(cfg.root) if cfg.root is not None else Path(cfg.csv or "").parent
    return chosen.read(root, cfg.category, **options)


PLACES = ("root", "csv", "normal_dir", "abnormal_dir")  # settings that only some layouts read


def check_places(cfg: DataConfig) -> None:
    """Raise ``UserError`` at a place that the chosen layout would not look at."""

    def reads(one: Layout, key: str) -> bool:
        return key == "root" or key in one.options

    for key in PLACES:
        unread = cfg.name == "synthetic" or not reads(find_layout(cfg.name), key)
        if getattr(cfg, key) is not None and unread:
            names = [f"data={name}" for name, one in sorted(LAYOUTS.items()) if reads(one, key)]
            raise UserError(
                f"data.{key} is not read by data={cfg.name}: use it with {', '.join(names)}"
            )


def categories(cfg: DataConfig) -> list[str | None]:
    """What ``data.category=all`` stands for in a sweep; ``[None]`` where there is but one."""
    if cfg.name == "synthetic":
        return list(SYNTHETIC_CATEGORIES)
    several = find_layout(cfg.name).categories
    if several and cfg.root is not None:
        return list(several(Path(cfg.root))) or [None]
    return [None]


@dataclass
class Tables:
    """Sample tables with the hashes of their files, read once for all cells of a sweep.

    A file that changes meanwhile is noticed by the next command, not by the next cell.
    """

    known: dict[str, tuple[SampleTable, tuple[str, ...]]] | None = None

    def read(self, cfg: DataConfig, cache_dir: Path) -> tuple[SampleTable, tuple[str, ...]]:
        """The table that ``cfg`` names and the sha256 of every file."""
        key = json.dumps([asdict(cfg), str(cache_dir)], sort_keys=True)
        if self.known is not None and key in self.known:
            return self.known[key]
        table = read_table(cfg, cache_dir)
        hashes = tuple(file_hashes(table.absolute(s) for s in table.samples))
        found = join_copies(with_masks(table), hashes), hashes
        if self.known is not None:
            self.known[key] = found
        return found


def open_dataset(
    cfg: DataConfig, noise: NoiseConfig, seed: int, cache_dir: Path, tables: Tables | None = None
) -> Dataset:
    """Read, hash, split, and inject label noise.

    ``cfg.split_seed`` fixes the split across seeds, ``noise.seed`` the draw of the noise. Images
    with synthetic defects are written below ``cache_dir``.

    Raises:
        UserError: whatever is wrong with the dataset, its split, the level or the manifest.
    """
    table, hashes = (tables or Tables()).read(cfg, cache_dir)
    by_path = {s.path: h for s, h in zip(table.samples, hashes, strict=True)}
    if noise.mode == "manifest":
        return from_manifest(table, by_path, noise, cache_dir, cfg.white)
    reserved = NOISE_POOL if noise.reserves_pool else 0.0
    roles = split_table(
        table,
        scheme=cfg.split,  # type: ignore[arg-type]  # its values are checked by the config
        seed=seed if cfg.split_seed is None else cfg.split_seed,
        test_fraction=cfg.test_fraction,
        pool_fraction=reserved if cfg.pool_fraction is None else cfg.pool_fraction,
        pool_normals=cfg.pool_normals,  # type: ignore[arg-type]
    )
    table, roles, contamination = inject(
        table, roles, noise, seed if noise.seed is None else noise.seed
    )
    table = with_white(table, roles, cfg.white)
    table, by_path = write_synthetic_images(table, by_path, cache_dir)
    hashes = tuple(by_path[s.path] for s in table.samples)
    table = replace(table, notes=(*table.notes, *leaked(hashes, roles)))
    table = with_tested_masks(table, roles)
    return Dataset(table, roles, hashes, contamination)


def with_white(table: SampleTable, roles: Sequence[str], white: int | None) -> SampleTable:
    """The table with the white of its 16-bit files: ``white``, or what the training images say."""
    if white is not None:
        return replace(table, white=white)
    trained = [
        table.root / sample.path
        for sample, role in zip(table.samples, roles, strict=True)
        if role in Roles.TRAINED and parse_synthetic(sample.path) is None
    ]
    found = white_of(trained)
    return replace(table, white=found, notes=(*table.notes, *white_note(found)))


def write_synthetic_images(
    table: SampleTable, hashes: dict[str, str], cache_dir: Path
) -> tuple[SampleTable, dict[str, str]]:
    """Write the images with synthetic defects that the table names, where missing; hash them."""
    made = {}
    for sample in table.samples:
        if sample.path in hashes:
            continue
        parsed = parse_synthetic(sample.path)
        if parsed is None or parsed[2] not in hashes:
            raise UserError(f"{table.root}: no image {sample.path}")
        # Below the hash of its source, so that equal names in two datasets do not meet.
        folder = cache_dir / "made" / hashes[parsed[2]][:16]
        made[sample.path] = write_synthetic(
            folder, sample.path, table.root / parsed[2], table.white
        )
    found = dict(zip(made, file_hashes(made.values()), strict=True))
    return replace(table, synthetic=made), hashes | found


def from_manifest(
    table: SampleTable,
    hashes: dict[str, str],
    noise: NoiseConfig,
    cache_dir: Path,
    white: int | None,
) -> Dataset:
    """The very training set that a manifest records: its images, labels and roles.

    Images of the folder that the manifest does not name are left out.

    Raises:
        UserError: an image that is missing or is not the one the manifest names, or a row twice.
    """
    file = Path(noise.manifest or "")
    rows = {row.path: row for row in read_manifest(file)}
    known = {s.path: s for s in table.samples}
    samples = tuple(_as_recorded(row, known) for _, row in sorted(rows.items()))
    table = replace(table, samples=samples)
    table = with_white(table, [rows[s.path].role for s in samples], white)
    table, hashes = write_synthetic_images(table, hashes, cache_dir)
    for row in rows.values():
        if hashes[row.path] != row.sha256:
            raise UserError(
                f"{table.absolute(_as_recorded(row, known))}: not the image that {file} names "
                f"(sha256 {hashes[row.path][:12]}..., recorded {row.sha256[:12]}...)"
            )
    roles = tuple(_role_of(rows[s.path]) for s in samples)
    for needed, name in ((Roles.TRAINED, "train"), (Roles.TESTED, "test")):
        if not set(needed) & set(roles):
            raise UserError(f"{file}: no row has the role {name}")
    if len(samples) < len(known):
        note = f"{len(known) - len(samples)} images of the folder are not in the manifest: left out"
        table = replace(table, notes=(*table.notes, note))
    table = with_tested_masks(table, roles)
    contamination = describe(noise, table, roles)
    reviews = {r.sha256: Roles.REVIEWED[r.role] for r in rows.values() if r.role in Roles.REVIEWED}
    found = tuple(hashes[s.path] for s in samples)
    return Dataset(table, roles, found, contamination, reviews)


def _role_of(row: ManifestRow) -> str:
    """Trained on, as injected where the label says so, for all that a manifest calls train."""
    if row.role not in (Roles.TRAIN, *Roles.REVIEWED):
        return row.role
    return Roles.INJECTED if row.label == ANOMALOUS else Roles.TRAIN


def _as_recorded(row: ManifestRow, known: dict[str, Sample]) -> Sample:
    """The sample of a row: its place and mask from the folder, what it is from the manifest."""
    found = known.get(row.path)
    return Sample(
        path=row.path,
        label=row.label,
        defect_type=row.defect_type,
        group=row.group,
        category=row.category,
        split=found.split if found else "",
        mask_path=found.mask_path if found else None,
    )
