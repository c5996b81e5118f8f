"""The image files that a user names: a folder, a file or a pattern."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from rad_lightning.common.errors import UserError
from rad_lightning.data.layouts.common import images_below


def find_images(given: str, skip: Path | None = None) -> tuple[list[Path], Path]:
    """The files that ``given`` names, sorted, and the folder that all of them lie below.

    A folder stands for all images in it and below, without hidden ones and those below ``skip``.

    Raises:
        UserError: there is none.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        found = list(images_below(path))
    elif path.exists():  # before patterns: a file's name may hold brackets
        found = [path]
    else:
        named = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path's takes no absolute one
        found = [p for p in map(Path, named) if p.is_file()]
    ours = skip.resolve() if skip else None
    files = sorted(p for p in found if ours not in p.resolve().parents)
    if not files:
        raise UserError(
            f"input = {given}: no image there; give a folder with images, a file, or a "
            "pattern like 'photos/*.png'"
        )
    base = path if path.is_dir() else Path(os.path.commonpath([p.parent for p in files]))
    return files, base
