"""VisA (Zou et al., ECCV 2022), as it is published: twelve objects with one split for all."""

from __future__ import annotations

import csv
from pathlib import Path

from rad_lightning.common.errors import UserError
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

LAYOUT = (
    "the VisA layout <root>/<category>/Data/Images/{Normal,Anomaly}, Data/Masks/Anomaly, "
    "<root>/split_csv/1cls.csv"
)
SPLIT, KINDS = Path("split_csv/1cls.csv"), "image_anno.csv"
IMAGES, MASKS = "Data/Images", "Data/Masks"
FOLDERS = {"Normal": NORMAL, "Anomaly": ANOMALOUS}
UNNAMED = "defect"  # its type, where no table says more


def list_categories(root: Path) -> list[str]:
    """The names of the objects below ``root``, sorted; none if it is absent."""
    there = folders(root) if root.is_dir() else []
    return [f.name for f in there if (f / IMAGES / "Normal").is_dir()]


@layout("visa", categories=list_categories)
def read_visa(root: Path, category: str | None = None) -> SampleTable:
    """Read one object. Its split is that of ``split_csv/1cls.csv``; without that file it has none.

    Defect types are those of ``image_anno.csv`` in the object's folder, where that is there; an
    image with several has a type of its own. Every image is its own group.

    Raises:
        UserError: missing root or object, no image, a table without the columns it should have or
            without an image, or a choice between objects is open.
    """
    require_root(root, LAYOUT)
    category = choose_category(root, category, list_categories(root), LAYOUT)
    splits = read_column(root / SPLIT, "split") if (root / SPLIT).is_file() else None
    table = root / category / KINDS
    kinds = read_column(table, "label") if table.is_file() else {}
    masks = mask_index(root / category / MASKS)
    samples = [
        _sample(root, category, image, label, splits, kinds, masks)
        for folder, label in FOLDERS.items()
        if (root / category / IMAGES / folder).is_dir()
        for image in images_below(root / category / IMAGES / folder)
    ]
    refuse_shared_masks(root, samples)
    notes = list(missing_mask_note(samples))
    if splits is None:
        notes.append(f"no {SPLIT.as_posix()}: the images have no published split")
    return build_table("visa", category, root, samples, layout=LAYOUT, notes=notes)


def read_column(file: Path, column: str) -> dict[str, str]:
    """Image path -> what the table in ``file`` says of it in ``column``.

    Raises:
        UserError: no such column, or no table.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            if not {"image", column} <= set(reader.fieldnames or ()):
                found = ",".join(reader.fieldnames or ())
                raise UserError(f"{file}: expected the columns image,{column}, found {found}")
            return {row["image"]: (row[column] or "").strip() for row in reader}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: not a CSV file in UTF-8 ({error})") from None


def _sample(
    root: Path,
    category: str,
    image: Path,
    label: int,
    splits: dict[str, str] | None,
    kinds: dict[str, str],
    masks: dict[str, Path],
) -> Sample:
    path = image.relative_to(root).as_posix()
    below = image.relative_to(root / category / IMAGES).with_suffix("").as_posix()
    mask = masks.get(below) if label == ANOMALOUS else None
    named = " + ".join(part for kind in kinds.get(path, "").split(",") if (part := kind.strip()))
    return Sample(
        path=path,
        label=label,
        defect_type=GOOD if label == NORMAL else named or UNNAMED,
        group=path,
        category=category,
        split="" if splits is None else _split(root, splits, path),
        mask_path=None if mask is None else mask.relative_to(root).as_posix(),
    )


def _split(root: Path, splits: dict[str, str], path: str) -> str:
    found = splits.get(path)
    if found not in ("train", "test"):
        raise UserError(f"{root / SPLIT} has no row with split train or test for {path}")
    return found
