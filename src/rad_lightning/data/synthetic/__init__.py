"""A small defect dataset drawn by numpy, for tests, demos and machines without any data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
from PIL import Image

from rad_lightning.common.errors import UserError
from rad_lightning.common.files import named
from rad_lightning.data.samples import GOOD
from rad_lightning.data.synthetic.defects import DEFECTS, photograph
from rad_lightning.data.synthetic.surfaces import SURFACES

__all__ = ["SYNTHETIC_CATEGORIES", "SYNTHETIC_DEFECTS", "generate"]

SYNTHETIC_CATEGORIES = tuple(SURFACES)
SYNTHETIC_DEFECTS = tuple(DEFECTS)
VERSION = 1  # part of the folder's name: raise it when the pictures change


class _Picture(NamedTuple):
    split: str
    kind: str
    number: int


def generate(
    directory: Path,
    category: str,
    size: int = 128,
    train: int = 48,
    test_normal: int = 24,
    test_per_defect: int = 8,
    seed: int = 0,
) -> Path:
    """Draw one category in MVTec layout and return the root to read it from.

    The root is a folder in ``directory`` named after the parameters, so that sets with other
    parameters lie beside it; a category that is there already is used again. A category appears
    whole or not at all, also when several processes draw it at once. Image number i is the same
    whatever the counts are.

    Raises:
        UserError: unknown category, a count or size out of range, or an incomplete folder.
    """
    _check(category, size, train, test_normal, test_per_defect, seed)
    counts = f"{size}px-{train}-{test_normal}-{test_per_defect}-seed{seed}"
    root = directory / f"synthetic-v{VERSION}-{counts}"
    pictures = list(_plan(train, test_normal, test_per_defect))
    if _is_complete(root / category, pictures):
        return root
    root.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=root, prefix=f".{category}.") as workspace,
        named(root / category, Path(workspace)),
    ):
        folder = Path(workspace) / category
        for picture in pictures:
            _draw(folder, category, picture, size, seed)
        try:
            folder.rename(root / category)
        except OSError:
            # another process was first, and drew the same pictures
            if not _is_complete(root / category, pictures):
                raise
    return root


def _check(category: str, size: int, train: int, normal: int, defects: int, seed: int) -> None:
    if category not in SURFACES:
        known = ", ".join(SYNTHETIC_CATEGORIES)
        raise UserError(f"synthetic category {category!r} does not exist: choose one of {known}")
    ranges = {
        "size": (size, 32, 2048),
        "train": (train, 1, 100_000),
        "test_normal": (normal, 0, 100_000),
        "test_per_defect": (defects, 0, 100_000),
        "seed": (seed, 0, 2**63 - 1),
    }
    for name, (value, low, high) in ranges.items():
        if not low <= value <= high:
            raise UserError(
                f"synthetic {name}={value} is not valid: use a value from {low} to {high}"
            )


def _plan(train: int, test_normal: int, test_per_defect: int) -> Iterator[_Picture]:
    yield from (_Picture("train", GOOD, i) for i in range(train))
    yield from (_Picture("test", GOOD, i) for i in range(test_normal))
    for kind in SYNTHETIC_DEFECTS:
        yield from (_Picture("test", kind, i) for i in range(test_per_defect))


def _image_path(folder: Path, picture: _Picture) -> Path:
    return folder / picture.split / picture.kind / f"{picture.number:03d}.png"


def _is_complete(folder: Path, pictures: list[_Picture]) -> bool:
    if not folder.exists():
        return False
    lost = [p for p in pictures if not _image_path(folder, p).is_file()]
    if lost:
        raise UserError(f"{_image_path(folder, lost[0])} is missing; delete {folder} to redraw it")
    return True


def _draw(folder: Path, category: str, picture: _Picture, size: int, seed: int) -> None:
    names = (category, picture.split, picture.kind)
    entropy = [seed, *(crc32(name.encode()) for name in names), picture.number]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
    defect = None if picture.kind == GOOD else picture.kind
    image, mask = photograph(category, defect, size, rng)
    path = _image_path(folder, picture)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    if defect is not None:
        mask_path = folder / "ground_truth" / picture.kind / f"{path.stem}_mask.png"
        mask_path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(mask_path)
