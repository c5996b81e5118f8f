"""A dataset as a run sees it: the sample table, a role for every sample, and file hashes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from rad_lightning.config import DataConfig
from rad_lightning.data.layouts import read_layout
from rad_lightning.data.samples import Sample, SampleTable
from rad_lightning.data.splits import file_hashes, split_table
from rad_lightning.data.synthetic import generate
from rad_lightning.errors import UserError

UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Dataset:
    """``roles`` and ``hashes`` are aligned with ``table.samples``."""

    table: SampleTable
    roles: tuple[str, ...]
    hashes: tuple[str, ...]

    def rows(self, role: str) -> list[int]:
        return [i for i, r in enumerate(self.roles) if r == role]

    def samples(self, role: str) -> list[Sample]:
        return [self.table.samples[i] for i in self.rows(role)]

    def paths(self) -> list[Path]:
        return [self.table.absolute(s) for s in self.table.samples]

    def counts(self) -> Counter[str]:
        return Counter(self.roles)

    def without(self, unreadable: set[int]) -> Dataset:
        """The same dataset with the rows of ``unreadable`` images taken out of every role."""
        roles = tuple(UNREADABLE if i in unreadable else r for i, r in enumerate(self.roles))
        return replace(self, roles=roles)

    def identity(self) -> list[tuple[str, ...]]:
        """All that a run takes from its data, wherever the files lie: part of the run key."""
        return sorted(
            (s.path, h, r, str(s.label), s.defect_type, s.group, str(s.mask_path))
            for s, h, r in zip(self.table.samples, self.hashes, self.roles, strict=True)
        )


def read_table(cfg: DataConfig, cache_dir: Path) -> SampleTable:
    """The sample table that ``cfg`` names; the embedded set is generated on first use.

    Raises:
        UserError: no root given, or whatever the reader finds wrong with it.
    """
    if cfg.name == "synthetic":
        root = generate(
            cache_dir / "synthetic",
            cfg.category or "",
            train=cfg.train_images,
            test_normal=cfg.test_normal_images,
            test_per_defect=cfg.test_images_per_defect,
        )
        return replace(read_layout("mvtec", root, cfg.category), name="synthetic")
    options: dict[str, object] = {}
    if cfg.name == "folder":
        options = {"normal_dir": cfg.normal_dir, "abnormal_dir": cfg.abnormal_dir}
    if cfg.name == "csv":
        if cfg.csv is None:
            raise UserError("data=csv needs the table: data.csv=FILE")
        options = {"csv": Path(cfg.csv)}
    elif cfg.root is None:
        raise UserError(f"data={cfg.name} needs the folder of the dataset: data.root=DIR")
    root = Path(cfg.root) if cfg.root is not None else Path(cfg.csv or "").parent
    return read_layout(cfg.name, root, cfg.category, **options)


def open_dataset(cfg: DataConfig, seed: int, cache_dir: Path) -> Dataset:
    """Read, split and hash; ``cfg.split_seed`` fixes the split across seeds."""
    table = read_table(cfg, cache_dir)
    roles = split_table(
        table,
        scheme=cfg.split,  # type: ignore[arg-type]  # its values are checked by the config
        seed=seed if cfg.split_seed is None else cfg.split_seed,
        test_fraction=cfg.test_fraction,
        pool_fraction=cfg.pool_fraction,
        pool_normals=cfg.pool_normals,  # type: ignore[arg-type]
    )
    hashes = file_hashes([table.absolute(s) for s in table.samples])
    return Dataset(table, roles, tuple(hashes))
