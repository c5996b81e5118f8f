"""Dataset layouts: one reader each, ``read_xxx(root, category, **options) -> SampleTable``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from rad_lightning.common.errors import UserError
from rad_lightning.data.layouts.folder import read_folder
from rad_lightning.data.layouts.kolektor import read_ksdd, read_ksdd2
from rad_lightning.data.layouts.mtd import read_mtd
from rad_lightning.data.layouts.mvtec import MVTEC_CATEGORIES, read_mvtec
from rad_lightning.data.layouts.table_csv import read_csv
from rad_lightning.data.samples import SampleTable

__all__ = [
    "MVTEC_CATEGORIES",
    "READERS",
    "read_csv",
    "read_folder",
    "read_ksdd",
    "read_ksdd2",
    "read_layout",
    "read_mtd",
    "read_mvtec",
]

READERS: dict[str, Callable[..., SampleTable]] = {
    "mvtec": read_mvtec,
    "ksdd2": read_ksdd2,
    "ksdd": read_ksdd,
    "mtd": read_mtd,
    "folder": read_folder,
    "csv": read_csv,
}


def read_layout(
    layout: str, root: Path, category: str | None = None, **options: object
) -> SampleTable:
    """Read the dataset at ``root`` with the reader called ``layout``.

    Raises:
        UserError: no such layout, an option that the reader does not have, or unreadable data.
    """
    if layout not in READERS:
        raise UserError(f"layout {layout!r} is not known: choose one of {', '.join(READERS)}")
    reader = READERS[layout]
    accepted = list(inspect.signature(reader).parameters)[2:]
    if unknown := sorted(set(options) - set(accepted)):
        known = f"choose one of {', '.join(accepted)}" if accepted else "it has no options"
        raise UserError(f"layout {layout!r} has no option {unknown[0]!r}: {known}")
    return reader(root, category, **options)
