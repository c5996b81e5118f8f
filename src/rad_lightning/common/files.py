"""Files that appear whole or not at all, whatever is killed and whatever else writes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import get_ident

from rad_lightning.common.machine import not_written, reason_of


@contextmanager
def named(target: Path, aside: Path | None = None) -> Iterator[None]:
    """An error of writing inside names ``target``: the operating system says no file when a disk
    is full, and ``aside``, a file or a folder with all in it, is a name that no user has ever seen.

    Raises:
        OSError: with ``target`` as its ``filename``; those that name another file stay as they are.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            foreign = error.filename is not None and not (
                aside and Path(os.fsdecode(error.filename)).is_relative_to(aside)
            )
        else:
            foreign = not not_written(error)
        if foreign or isinstance(error, BrokenPipeError):
            raise
        number = getattr(error, "errno", None)
        raise OSError(number, reason_of(error), str(target)) from error


@contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """A path beside ``target`` to write to; its file takes the target's place at the end, unless an
    error leaves the context. The folder is made if it is not there.

    Raises:
        OSError: what kept the file from being written, with ``target`` as its ``filename``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Short, since a name may be as long as the file system allows; the suffix says the format.
    aside = target.with_name(f".{os.getpid()}-{get_ident()}{target.suffix}")
    try:
        with named(target, aside):
            yield aside
            to_disk(aside)
            aside.replace(target)
    finally:
        with suppress(OSError):  # of a file system that has become read-only, say
            aside.unlink(missing_ok=True)


def to_disk(file: Path) -> None:
    """Wait until its content is on the disk: a power cut must not leave the name of a file that is
    empty."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(target: Path, text: str) -> Path:
    with atomic(target) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")
    return target


def write_bytes(target: Path, content: bytes) -> Path:
    with atomic(target) as aside:
        aside.write_bytes(content)
    return target
