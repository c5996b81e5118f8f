"""Magnetic tile defects, MTD (Huang et al., The Visual Computer 2020)."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from rad_lightning.common.errors import UserError
from rad_lightning.data.layouts.common import (
    build_table,
    folders,
    images_in,
    missing_mask_note,
    require_category,
    require_root,
)
from rad_lightning.data.layouts.registry import layout
from rad_lightning.data.samples import ANOMALOUS, GOOD, NORMAL, Sample, SampleTable

LAYOUT = "the MTD layout <root>/MT_*/Imgs/expN_num_M.jpg with masks expN_num_M.png"
TILES = "tiles.csv"
NAME = re.compile(r"exp(\d+)_num_(\d+)")


@layout("mtd")
def read_mtd(root: Path, category: str | None = None) -> SampleTable:
    """Read MTD, which has no split of its own; the physical tile is the group.

    A tile was photographed under several exposures. Its number comes from ``tiles.csv`` (columns
    path, tile) in ``root`` where that exists, else from the file names, see `derive_tiles`.

    Raises:
        UserError: missing folder, no image, or an image whose tile cannot be told.
    """
    category = require_category("mtd", category)
    require_root(root, LAYOUT)
    images = [
        image.relative_to(root).as_posix()
        for kind in folders(root)
        if kind.name.lower().startswith("mt_")
        for image in images_in(kind / "Imgs")
        if image.suffix.lower() == ".jpg"
    ]
    tiles = read_tiles(root / TILES) if (root / TILES).is_file() else derive_tiles(images)
    samples = [_sample(root, path, _tile(root, tiles, path), category) for path in images]
    return build_table(
        "mtd", category, root, samples, layout=LAYOUT, notes=missing_mask_note(samples)
    )


def derive_tiles(paths: Iterable[str]) -> dict[str, str]:
    """The tile of every image from its name ``expN_num_M``.

    Sorted by M, the running number, a tile is a run of increasing N, the exposure. Where files
    are left out, neighbouring tiles may merge; one tile is never taken apart.
    """
    tiles: dict[str, str] = {}
    tile, previous = -1, -1
    for _, exposure, path in sorted(_numbers(path) for path in paths):
        if tile < 0 or exposure <= previous:
            tile += 1
        tiles[path] = str(tile)
        previous = exposure
    return tiles


def read_tiles(path: Path) -> dict[str, str]:
    """Read ``tiles.csv`` into image path -> tile."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if not {"path", "tile"} <= set(reader.fieldnames or ()):
            raise UserError(f"{path}: expected the columns path,tile, found {reader.fieldnames}")
        return {row["path"]: row["tile"] for row in reader if row["tile"]}


def _numbers(path: str) -> tuple[int, int, str]:
    match = NAME.fullmatch(Path(path).stem)
    if match is None:
        raise UserError(f"{path}: cannot tell its tile; expected a name expN_num_M or a {TILES}")
    return int(match[2]), int(match[1]), path


def _tile(root: Path, tiles: dict[str, str], path: str) -> str:
    if path not in tiles:
        raise UserError(f"{root / TILES} has no row for {path}; every image needs its tile")
    return f"tile-{tiles[path]}"


def _sample(root: Path, path: str, group: str, category: str) -> Sample:
    kind = Path(path).parts[0][len("MT_") :].lower()
    normal = kind == "free"
    mask = Path(path).with_suffix(".png")
    return Sample(
        path=path,
        label=NORMAL if normal else ANOMALOUS,
        defect_type=GOOD if normal else kind,
        group=group,
        category=category,
        mask_path=None if normal or not (root / mask).is_file() else mask.as_posix(),
    )
