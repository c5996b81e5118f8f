"""A user's own folder of images, sorted into normal and abnormal ones or not sorted at all."""

from __future__ import annotations

from pathlib import Path

from rad_lightning.common.errors import UserError
from rad_lightning.data.layouts.common import (
    ANOMALOUS_WORDS,
    NORMAL_WORDS,
    build_table,
    folders,
    images_below,
    images_in,
    mask_index,
    missing_mask_note,
    refuse_shared_masks,
    require_root,
)
from rad_lightning.data.layouts.registry import layout
from rad_lightning.data.samples import (
    ANOMALOUS,
    GOOD,
    NORMAL,
    UNLABELLED,
    Sample,
    SampleTable,
)

LAYOUT = (
    "images (png, jpg, bmp, tif, webp) in <root>, or sorted into <root>/good and <root>/bad, "
    "or both of these in <root>/train and <root>/test"
)
SPLITS = ("train", "test")
MASKS = "masks"


@layout("folder", options=("normal_dir", "abnormal_dir"))
def read_folder(
    root: Path,
    category: str | None = None,
    normal_dir: str | None = None,
    abnormal_dir: str | None = None,
) -> SampleTable:
    """Read a folder; every image is its own group.

    ``normal_dir`` and ``abnormal_dir`` name the two sub-folders, found by their usual names where
    left out; sub-folders of the abnormal one are defect types. Without any of the two, every
    image below ``root`` is unlabelled. ``masks/`` may mirror the image paths, with the same stem
    or the stem and ``_mask``.

    Raises:
        UserError: missing or ambiguous folders, no image, or one mask that fits two images.
    """
    require_root(root, LAYOUT)
    name = category or root.resolve().name
    options = (normal_dir, abnormal_dir)
    if normal_dir is not None and normal_dir == abnormal_dir:
        raise UserError(f"normal_dir and abnormal_dir are both {normal_dir}; give two folders")
    tops = {folder.name.lower(): folder for folder in folders(root)}
    split_tops = [tops[split] for split in SPLITS if split in tops]
    if len(split_tops) == len(SPLITS) and any(_sides(top, *options) for top in split_tops):
        found = [
            (image, kind, top.name.lower())
            for top in split_tops
            for image, kind in _labelled(top, *options)
        ]
    elif any(options) or _sides(root, *options):
        found = [(image, kind, "") for image, kind in _labelled(root, *options)]
    elif len(split_tops) == len(SPLITS):
        found = [
            (image, "unlabelled", top.name.lower())
            for top in split_tops
            for image in images_below(top, frozenset({MASKS}))
        ]
    else:
        found = [(image, "unlabelled", "") for image in images_below(root, frozenset({MASKS}))]
    masks = _mask_index(root)
    samples = [_sample(root, name, image, kind, split, masks) for image, kind, split in found]
    refuse_shared_masks(root, samples)
    notes = missing_mask_note(samples) if masks else ()
    return build_table("folder", name, root, samples, layout=LAYOUT, notes=notes)


def _sides(top: Path, normal_dir: str | None, abnormal_dir: str | None) -> dict[str, Path]:
    """The normal and the abnormal folder in ``top``, as far as they are there."""
    sides = {
        "normal_dir": _side(top, "normal_dir", normal_dir, NORMAL_WORDS),
        "abnormal_dir": _side(top, "abnormal_dir", abnormal_dir, ANOMALOUS_WORDS),
    }
    return {option: folder for option, folder in sides.items() if folder is not None}


def _side(top: Path, option: str, given: str | None, words: frozenset[str]) -> Path | None:
    if given is not None:
        if Path(given).is_absolute() or ".." in Path(given).parts:
            raise UserError(f"{option}={given} is not valid: give a folder name below {top}")
        return top / given if (top / given).is_dir() else None
    fitting = [folder for folder in folders(top) if folder.name.lower() in words]
    if len(fitting) > 1:
        names = ", ".join(folder.name for folder in fitting)
        raise UserError(f"{top} has more than one candidate for {option} ({names}): name one")
    return fitting[0] if fitting else None


def _labelled(
    top: Path, normal_dir: str | None, abnormal_dir: str | None
) -> list[tuple[Path, str]]:
    """Images of ``top`` with their defect type; a folder that fits neither side is an error."""
    sides = _sides(top, normal_dir, abnormal_dir)
    for option, given in (("normal_dir", normal_dir), ("abnormal_dir", abnormal_dir)):
        # a split may lack the abnormal side, as training sets usually do
        if given is not None and option not in sides and not (sides and top.name.lower() in SPLITS):
            raise UserError(f"{option}={given} is not a folder in {top}; expected {LAYOUT}")
    known = {side.relative_to(top).parts[0] for side in sides.values()}
    known |= {folder.name for folder in folders(top) if folder.name.lower() == MASKS}
    if stray := [folder.name for folder in folders(top) if folder.name not in known]:
        raise UserError(
            f"{top / stray[0]} is neither the normal nor the abnormal folder; set normal_dir and "
            "abnormal_dir, or use the mvtec layout if each defect type has its folder there"
        )
    if loose := images_in(top):
        raise UserError(f"{loose[0]} is in neither folder of normal or abnormal images; move it")
    found = []
    if normal := sides.get("normal_dir"):
        found += [(image, GOOD) for image in images_below(normal)]
    if abnormal := sides.get("abnormal_dir"):
        found += [(image, _defect_type(image, abnormal)) for image in images_below(abnormal)]
    return found


def _defect_type(image: Path, abnormal: Path) -> str:
    first, *rest = image.relative_to(abnormal).parts
    return first if rest else "defect"


def _mask_index(root: Path) -> dict[str, str]:
    """Mask files by the path of their image below ``masks/``."""
    return {
        name: mask.relative_to(root).as_posix()
        for masks in folders(root)
        if masks.name.lower() == MASKS
        for name, mask in mask_index(masks).items()
    }


def _mask(image: str, masks: dict[str, str]) -> str | None:
    """The mask that mirrors the longest end of the image's path."""
    parts = Path(image).with_suffix("").parts
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((masks[end] for end in ends if end in masks), None)


def _sample(
    root: Path, category: str, image: Path, kind: str, split: str, masks: dict[str, str]
) -> Sample:
    path = image.relative_to(root).as_posix()
    label = {GOOD: NORMAL, "unlabelled": UNLABELLED}.get(kind, ANOMALOUS)
    return Sample(
        path=path,
        label=label,
        defect_type=kind,
        group=path,
        category=category,
        split=split,
        mask_path=_mask(path, masks) if label == ANOMALOUS else None,
    )
