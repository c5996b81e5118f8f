"""What of a folder is not read, and which images look like something else: for ``prepare``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rad_lightning.data.images import IMAGE_SUFFIXES, ImageArray
from rad_lightning.data.layouts.common import MASK_NAME, OF_STORAGE
from rad_lightning.data.samples import SampleTable

# Layouts of which every image file is an image or a mask; in others it may be neither.
WHOLE_FOLDERS = ("folder", "mvtec")
FEW_LEVELS = 8  # grey levels of an image that has hardly any
SHOWN = 3  # names in a note


def left_out(table: SampleTable) -> list[str]:
    """A note for each kind of file and folder below the table's own folder that is not read."""
    if table.name not in WHOLE_FOLDERS:
        return []
    top = table.root / table.category if table.name == "mvtec" else table.root
    used = {table.root / s.path for s in table.samples}
    used |= {table.root / s.mask_path for s in table.samples if s.mask_path}
    skipped: list[Path] = []
    suffixes: Counter[str] = Counter()
    images: list[Path] = []
    for file in _files(top, skipped):
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            suffixes[file.suffix.lower() or "no suffix"] += 1
        elif file not in used:
            images.append(file)
    counted = ", ".join(f"{n} {suffix}" for suffix, n in sorted(suffixes.items()))
    notes = [f"not read, for their suffix: {counted}"] if counted else []
    if skipped:
        notes.append(f"not read, as folders of storage systems: {named(top, skipped)}")
    masks = [file for file in images if _of_masks(file.relative_to(top))]
    if masks:
        notes.append(f"masks of no anomalous image, not read: {named(top, masks)}")
    if others := [file for file in images if file not in set(masks)]:
        notes.append(f"images in no folder of the layout, not read: {named(top, others)}")
    return notes


def _files(top: Path, skipped: list[Path]) -> Iterator[Path]:
    """Visible files below ``top``; folders of storage systems go to ``skipped``."""
    for folder, inner, names in os.walk(top):
        skipped += [Path(folder, name) for name in inner if name in OF_STORAGE]
        inner[:] = sorted(n for n in inner if n not in OF_STORAGE and not n.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _of_masks(path: Path) -> bool:
    return path.parts[0].lower() in ("masks", "ground_truth") and len(path.parts) > 1


def named(top: Path, paths: Sequence[Path]) -> str:
    """``7: a.png, b.png, c.png, ...``"""
    shown = [path.relative_to(top).as_posix() for path in paths[:SHOWN]]
    more = ["..."] if len(paths) > SHOWN else []
    return f"{len(paths)}: {', '.join(shown + more)}"


def looks_like(path: Path, image: ImageArray) -> str | None:
    """What an image rather is, by its name or its pixels: ``None`` for an image.

    Args:
        image: ``(H, W, 3)`` uint8.
    """
    levels = np.bincount(image.reshape(-1), minlength=256) > 0
    count = int(levels.sum())
    if MASK_NAME.search(path.stem):
        return "a mask, by its name"
    if count == 1:
        return "one colour"
    if count == 2 and (image == image[..., :1]).all():
        return "a mask, of two grey values"
    if count <= FEW_LEVELS:
        return f"of {FEW_LEVELS} grey levels or fewer"
    return None
