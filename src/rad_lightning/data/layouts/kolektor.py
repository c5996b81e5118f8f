"""KolektorSDD (Tabernik et al., 2019) and KolektorSDD2 (Božič et al., 2021)."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from rad_lightning.common.errors import UserError
from rad_lightning.data.images import mask_has_defect
from rad_lightning.data.layouts.common import (
    build_table,
    folders,
    images_in,
    require_category,
    require_root,
    threaded,
)
from rad_lightning.data.layouts.registry import layout
from rad_lightning.data.samples import ANOMALOUS, GOOD, NORMAL, Sample, SampleTable

KSDD2_LAYOUT = "the KolektorSDD2 layout <root>/train and <root>/test with NNNNN.png, NNNNN_GT.png"
KSDD_LAYOUT = "the KolektorSDD layout <root>/kosNN/PartM.jpg with PartM_label.bmp"


@layout("ksdd2")
def read_ksdd2(root: Path, category: str | None = None) -> SampleTable:
    """Read KolektorSDD2 with its own split; every image is its own group.

    Raises:
        UserError: missing folder, no image, or an image without its ``_GT`` file.
    """
    category = require_category("ksdd2", category)
    require_root(root, KSDD2_LAYOUT)
    images = []
    for split in ("train", "test"):
        require_root(root / split, KSDD2_LAYOUT)
        images += [p for p in images_in(root / split) if not p.stem.endswith("_GT")]
    masks = [_mask_of(image, f"{image.stem}_GT.png") for image in images]
    samples = [
        _sample(root, image, mask, defective, category, split=image.parent.name)
        for image, mask, defective in zip(
            images, masks, threaded(mask_has_defect, masks), strict=True
        )
    ]
    return build_table("ksdd2", category, root, samples, layout=KSDD2_LAYOUT)


@layout("ksdd")
def read_ksdd(root: Path, category: str | None = None) -> SampleTable:
    """Read KolektorSDD, which has no split of its own; the commutator is the group.

    Commutators that share a byte-identical image are one part and become one group, and a note
    names them: in the full set kos01 = kos26 and kos27 = kos34.

    Raises:
        UserError: missing folder, no image, or an image without its ``_label`` file.
    """
    category = require_category("ksdd", category)
    require_root(root, KSDD_LAYOUT)
    parts = [folder for folder in folders(root) if re.fullmatch(r"(?i)kos\d+", folder.name)]
    images = [
        image
        for part in parts
        for image in images_in(part)
        if re.fullmatch(r"(?i)part\d+", image.stem)
    ]
    masks = [_mask_of(image, f"{image.stem}_label.bmp") for image in images]
    groups = _merge_copies(images)
    samples = [
        _sample(root, image, mask, defective, category, group=groups[image.parent.name])
        for image, mask, defective in zip(
            images, masks, threaded(mask_has_defect, masks), strict=True
        )
    ]
    return build_table(
        "ksdd", category, root, samples, layout=KSDD_LAYOUT, notes=_copy_notes(groups)
    )


def _mask_of(image: Path, name: str) -> Path:
    mask = image.with_name(name)
    if not mask.is_file():
        raise UserError(f"{image} has no mask {name} beside it; the mask is needed for its label")
    return mask


def _sample(
    root: Path,
    image: Path,
    mask: Path,
    defective: bool,
    category: str,
    split: str = "",
    group: str | None = None,
) -> Sample:
    path = image.relative_to(root).as_posix()
    return Sample(
        path=path,
        label=ANOMALOUS if defective else NORMAL,
        defect_type="defect" if defective else GOOD,
        group=path if group is None else group,
        category=category,
        split=split,
        mask_path=mask.relative_to(root).as_posix() if defective else None,
    )


def _merge_copies(images: Iterable[Path]) -> dict[str, str]:
    """The group of every commutator: itself, or all that share an image, joined by ``+``."""
    merged: dict[str, frozenset[str]] = {}
    for image in images:
        merged.setdefault(image.parent.name, frozenset({image.parent.name}))
    for copies in _identical(images):
        union = frozenset().union(*(merged[copy.parent.name] for copy in copies))
        merged.update(dict.fromkeys(union, union))
    return {part: "+".join(sorted(names)) for part, names in merged.items()}


def _identical(images: Iterable[Path]) -> list[list[Path]]:
    by_size: dict[int, list[Path]] = defaultdict(list)
    for image in images:
        by_size[image.stat().st_size].append(image)
    by_content: dict[bytes, list[Path]] = defaultdict(list)
    for image in (image for same in by_size.values() if len(same) > 1 for image in same):
        by_content[hashlib.sha256(image.read_bytes()).digest()].append(image)
    return [same for same in by_content.values() if len(same) > 1]


def _copy_notes(groups: dict[str, str]) -> list[str]:
    return [
        f"{group.replace('+', ', ')} share byte-identical images and are treated as one part"
        for group in sorted(set(groups.values()))
        if "+" in group
    ]
