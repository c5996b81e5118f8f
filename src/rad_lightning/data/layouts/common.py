"""What the readers share: finding files, naming problems, building the table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from rad_lightning.common.errors import UserError
from rad_lightning.common.names import printed, writable
from rad_lightning.data.images import IMAGE_SUFFIXES
from rad_lightning.data.samples import Sample, SampleTable

S = TypeVar("S")
T = TypeVar("T")

MASK_NAME = re.compile(r"[_-](mask|gt|label|seg)$", re.IGNORECASE)

OF_STORAGE = frozenset({"@eaDir", "__MACOSX", "#recycle"})  # Synology and macOS
NORMAL_WORDS = frozenset({"good", "normal", "ok", "free", "pass"})
ANOMALOUS_WORDS = frozenset(
    {"bad", "defect", "defective", "abnormal", "anomaly", "anomalous", "ng", "nok", "fail"}
)


def require_root(root: Path, layout: str) -> Path:
    """``root`` if it is a folder; ``layout`` says in the error what was expected there."""
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"data root {root} {kind}; expected {layout}")
    return root


def require_category(name: str, category: str | None) -> str:
    """The one category of a dataset that has no more."""
    if category not in (None, name):
        raise UserError(f"category {category!r} does not exist here: use {name}")
    return name


def choose_category(root: Path, category: str | None, there: list[str], layout: str) -> str:
    """``category``, or the only one that is ``there``.

    Raises:
        UserError: no such category, none at all, or a choice that is open.
    """
    if not there:
        raise UserError(f"no category found in {root}; expected {layout}")
    if category is None and len(there) == 1:
        return there[0]
    if category not in there:
        problem = "no category given" if category is None else f"category {category!r} not found"
        raise UserError(f"{problem} in {root}: choose one of {', '.join(there)}")
    return category


def folders(root: Path) -> list[Path]:
    """Visible sub-folders, sorted by name, without those that storage systems add."""
    return sorted(
        p
        for p in root.iterdir()
        if p.is_dir() and not p.name.startswith(".") and p.name not in OF_STORAGE
    )


def images_in(root: Path) -> list[Path]:
    """Visible image files directly in ``root`` (none if it is missing), sorted by name."""
    return sorted(p for p in root.iterdir() if _is_image(p)) if root.is_dir() else []


def images_below(root: Path, skip: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Visible image files in ``root`` and below, without hidden folders and those in ``skip``.

    Links to folders are followed, but each real folder is read once, under the path that is no
    link where there is one, and none that ``root`` itself lies in: it would bring in other images.

    ``skip`` holds lower-case names of folders directly in ``root``.
    """
    real = root.resolve()
    yield from _below(root, skip, {real}, real)


def _below(folder: Path, skip: frozenset[str], seen: set[Path], top: Path) -> Iterator[Path]:
    yield from images_in(folder)
    inner = sorted(folders(folder), key=lambda p: p.is_symlink())  # what is no link comes first
    for below in inner:
        real = below.resolve()
        if below.name.lower() in skip or real in seen or real in top.parents:
            continue
        seen.add(real)
        yield from _below(below, frozenset(), seen, top)


def _is_image(path: Path) -> bool:
    return (
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def threaded(work: Callable[[S], T], paths: list[S]) -> list[T]:
    """``work`` of every path, in order; reading and decoding release the interpreter lock."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(work, paths))


def missing_mask_note(samples: Iterable[Sample]) -> tuple[str, ...]:
    """A note with the number of anomalous images without a mask, or nothing."""
    missing = sum(s.label == 1 and s.mask_path is None for s in samples)
    return (f"{missing} anomalous images have no mask file",) if missing else ()


def mask_index(masks: Path) -> dict[str, Path]:
    """Mask files in ``masks`` and below by the path that their image has there: without the suffix
    and a final ``_mask``, ``_gt``, ``_label`` or ``_seg``, in any case.

    Raises:
        UserError: two masks of one image.
    """
    found: dict[str, Path] = {}
    for mask in images_below(masks) if masks.is_dir() else ():
        name = MASK_NAME.sub("", mask.relative_to(masks).with_suffix("").as_posix())
        if name in found:
            raise UserError(f"{mask} and {found[name].name} are masks of one image: keep one")
        found[name] = mask
    return found


def refuse_shared_masks(root: Path, samples: Iterable[Sample]) -> None:
    """Raise ``UserError`` where one mask fits several images."""
    uses = Counter(sample.mask_path for sample in samples if sample.mask_path is not None)
    shared = [mask for mask, count in uses.items() if count > 1]
    if shared:
        raise UserError(
            f"{root / min(shared)} fits {uses[min(shared)]} images: give them names that differ "
            "before the suffix, and let the folders of masks mirror those of the images"
        )


def build_table(
    name: str,
    category: str,
    root: Path,
    samples: Iterable[Sample],
    *,
    layout: str,
    notes: Iterable[str] = (),
) -> SampleTable:
    """Sort by path; refuse an empty table, and names that no other file could hold.

    Raises:
        UserError: no sample, or a name that is not UTF-8.
    """
    ordered = tuple(sorted(samples, key=lambda sample: sample.path))
    if not ordered:
        raise UserError(f"no image found in {root}; expected {layout}")
    names = (n for s in ordered for n in (s.category, s.path, s.mask_path or ""))
    if wrong := [n for n in names if not writable(n)]:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise UserError(f"{root / printed(wrong[0])}{more}: the name is not UTF-8; rename it")
    return SampleTable(name, category, root, ordered, tuple(notes))
