"""The layout of MVTec AD (Bergmann et al., CVPR 2019), for that dataset or any other in it."""

from __future__ import annotations

from pathlib import Path

from rad_lightning.data.layouts.common import (
    build_table,
    choose_category,
    folders,
    images_below,
    mask_index,
    missing_mask_note,
    refuse_shared_masks,
    require_root,
)
from rad_lightning.data.layouts.registry import layout
from rad_lightning.data.samples import ANOMALOUS, GOOD, NORMAL, Sample, SampleTable

MVTEC_CATEGORIES = (
    "bottle",
    "cable",
    "capsule",
    "carpet",
    "grid",
    "hazelnut",
    "leather",
    "metal_nut",
    "pill",
    "screw",
    "tile",
    "toothbrush",
    "transistor",
    "wood",
    "zipper",
)
LAYOUT = (
    "the MVTec AD layout <root>/<category>/train/good, test/<defect>, "
    "ground_truth/<defect>/<image>_mask.png"
)


def list_categories(root: Path, good: str = GOOD) -> list[str]:
    """The names of the categories below ``root``, sorted; none if it is one itself or absent."""
    return [f.name for f in folders(root) if _is_category(f, good)] if root.is_dir() else []


@layout("mvtec", categories=list_categories)
def read_mvtec(root: Path, category: str | None = None) -> SampleTable:
    """Read one category; ``root`` is the folder of the categories or a category's own folder.

    ``category`` may be left out where there is only one. Every image is its own group.

    Raises:
        UserError: missing root or category, no image, or a choice between categories is open.
    """
    return read_tree("mvtec", root, category, GOOD, LAYOUT)


def read_tree(name: str, root: Path, category: str | None, good: str, expected: str) -> SampleTable:
    """What ``read_mvtec`` reads, for a data set whose folders of normal images are called ``good``
    and whose layout is ``expected``."""
    require_root(root, expected)
    if _is_category(root, good) and category in (None, root.resolve().name):
        root, category = root.resolve().parent, root.resolve().name
    else:
        category = choose_category(root, category, list_categories(root, good), expected)
    masks = mask_index(root / category / "ground_truth")
    samples = [
        _sample(root, category, image, masks, good)
        for split in ("train", "test")
        for image in _images(root / category / split)
    ]
    refuse_shared_masks(root, samples)
    return build_table(
        name,
        category,
        root,
        samples,
        layout=expected,
        notes=missing_mask_note(samples),
    )


def _is_category(folder: Path, good: str) -> bool:
    return (folder / "train" / good).is_dir()


def _images(split: Path) -> list[Path]:
    kinds = folders(split) if split.is_dir() else []
    return [image for kind in kinds for image in images_below(kind)]


def _sample(root: Path, category: str, image: Path, masks: dict[str, Path], good: str) -> Sample:
    path = image.relative_to(root).as_posix()
    split, defect_type, *_ = image.relative_to(root / category).parts
    normal = defect_type == good
    below = image.relative_to(root / category / split).with_suffix("").as_posix()
    mask = None if normal else masks.get(below)
    return Sample(
        path=path,
        label=NORMAL if normal else ANOMALOUS,
        defect_type=GOOD if normal else defect_type,
        group=path,
        category=category,
        split=split,
        mask_path=None if mask is None else mask.relative_to(root).as_posix(),
    )
