"""Files that appear whole or not at all, whatever is killed and whatever else writes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident


@contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """A path beside ``target`` to write to; its file takes the target's place at the end, unless an
    error leaves the context. The folder is made if it is not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Short, since a name may be as long as the file system allows; the suffix says the format.
    aside = target.with_name(f".{os.getpid()}-{get_ident()}{target.suffix}")
    try:
        yield aside
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> Path:
    with atomic(target) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")
    return target


def write_bytes(target: Path, content: bytes) -> Path:
    with atomic(target) as aside:
        aside.write_bytes(content)
    return target
