"""A dataset described by a CSV file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from csv import DictReader, Error
from pathlib import Path

from rad_lightning.common.errors import UserError
from rad_lightning.common.tables import text_lines
from rad_lightning.data.layouts.common import (
    ANOMALOUS_WORDS,
    NORMAL_WORDS,
    build_table,
    require_category,
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

REQUIRED = ("path", "label")
OPTIONAL = ("split", "category", "defect_type", "group", "mask_path")
LAYOUT = f"a CSV file with the columns {','.join(REQUIRED)}[,{','.join(OPTIONAL)}]"
LABELS = {
    **dict.fromkeys(NORMAL_WORDS | {"0", "false"}, NORMAL),
    **dict.fromkeys(ANOMALOUS_WORDS | {"1", "true"}, ANOMALOUS),  # is it anomalous?
    **dict.fromkeys({"", "-1", "unlabelled"}, UNLABELLED),
}
NUMBER = re.compile(r"^(-?[01])\.0*$")  # 1.0, as pandas writes a column with gaps
DEFECT_TYPES = {NORMAL: GOOD, ANOMALOUS: "defect", UNLABELLED: "unlabelled"}


@layout("csv", needs="csv", options=("csv",))
def read_csv(
    root: Path | None = None, category: str | None = None, csv: Path | str | None = None
) -> SampleTable:
    """Read the table in the file ``csv``; paths are relative to ``root``, or else to its folder.

    ``label`` is 0 or normal, 1 or anomalous (or another usual word), or empty for unlabelled. A
    row without a group is a group of its own.

    Raises:
        UserError: unknown column, value or category, or a missing file; with the line number.
    """
    if csv is None:
        raise UserError(f"the csv layout needs the option csv=FILE; expected {LAYOUT}")
    file = Path(csv)
    if not file.is_file():
        raise UserError(f"csv={file} is not a file; expected {LAYOUT}")
    root = require_root(file.parent if root is None else root, f"the folder of the paths in {file}")
    fallback = category or file.stem
    samples: dict[str, Sample] = {}
    for where, row in _rows(file):
        sample = _sample(root, where, row, fallback)
        if sample.path in samples:
            raise UserError(f"{where}: {sample.path} is listed twice; every image has one row")
        samples[sample.path] = sample
    there = sorted({sample.category for sample in samples.values()})
    if category is None and len(there) > 1:
        raise UserError(f"no category given for {file}: choose one of {', '.join(there)}")
    name = there[0] if category is None and there else fallback
    if there and name not in there:
        require_category(" or ".join(there), category)
    kept = [sample for sample in samples.values() if sample.category == name]
    return build_table("csv", name, root, kept, layout=LAYOUT)


def _rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Every row with its place ``file:line`` for messages."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = DictReader(text_lines(stream), strict=True)
            columns = list(reader.fieldnames or ())
            unknown = [c for c in columns if c not in REQUIRED + OPTIONAL]
            missing = [c for c in REQUIRED if c not in columns]
            if unknown or missing:
                problem = f"unknown column {unknown[0]!r}" if unknown else f"no column {missing[0]}"
                raise UserError(f"{file}:1: {problem}; expected {LAYOUT}")
            for row in reader:
                where = f"{file}:{reader.line_num}"
                if None in row or None in row.values():
                    raise UserError(f"{where}: expected {len(columns)} values, as in the header")
                yield where, {key: value.strip() for key, value in row.items()}
    except (UnicodeDecodeError, Error) as error:
        raise UserError(f"{file}: not a CSV file in UTF-8 ({error})") from None


def _sample(root: Path, where: str, row: dict[str, str], fallback: str) -> Sample:
    label = LABELS.get(NUMBER.sub(r"\1", row["label"].lower()))
    if label is None:
        raise UserError(
            f"{where}: label {row['label']!r} is not known: "
            "use 0 or normal, 1 or anomalous, empty for unlabelled"
        )
    split = row.get("split", "").lower()
    if split not in ("train", "test", ""):
        raise UserError(f"{where}: split {row['split']!r} is not known: use train or test")
    defect_type = row.get("defect_type") or DEFECT_TYPES[label]
    if (label == NORMAL) != (defect_type.lower() in NORMAL_WORDS):
        raise UserError(
            f"{where}: label {row['label']!r} and defect_type {defect_type!r} contradict each other"
        )
    path = _relative(root, where, row["path"])
    mask = row.get("mask_path")
    return Sample(
        path=path,
        label=label,
        defect_type=GOOD if label == NORMAL else defect_type,
        group=row.get("group") or path,
        category=row.get("category") or fallback,
        split=split,
        mask_path=_relative(root, where, mask) if mask and label == ANOMALOUS else None,
    )


def _relative(root: Path, where: str, path: str) -> str:
    """The POSIX path below ``root`` of a file that is there, links as they are written: a file may
    be a link into a store (DVC, git-annex), and two of them links to one."""
    file = root / path
    if not path or not file.is_file():
        raise UserError(f"{where}: no such file {file} (paths are relative to {root})")
    plain = Path(os.path.abspath(file))  # noqa: PTH100 - Path's resolve follows links
    for below, top in ((plain, Path(os.path.abspath(root))), (file.resolve(), root.resolve())):  # noqa: PTH100
        if below.is_relative_to(top):
            return below.relative_to(top).as_posix()
    raise UserError(f"{where}: {file} is not below the root {root}; set data.root=FOLDER")
