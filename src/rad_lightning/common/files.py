"""Files that appear whole or not at all, whatever is killed and whatever else writes them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from rad_lightning.common.machine import not_written, reason_of
from rad_lightning.common.owners import Owner, this_process

# What `atomic` writes to: `.aside-OWNER-NUMBER.SUFFIX`.
ASIDE = re.compile(r"\.aside-([0-9a-f]+-\d+-\d+)-\d+(\..*)?")
FORGOTTEN = 24 * 3600  # seconds without a change, after which another machine's file is nobody's

_numbers = count()  # of this process's files
_tidied: set[tuple[int, Path]] = set()  # process and folder


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
def atomic(target: Path, durable: bool = True) -> Iterator[Path]:
    """A path beside ``target`` to write to; its file takes the target's place at the end, unless an
    error leaves the context. The folder is made if it is not there, and rid of what killed
    processes have left in it.

    Args:
        durable: wait until the disk has it. Without, a power cut may leave the name of a file that
            is empty or damaged: for what is checked when it is read, and can be had again.

    Raises:
        OSError: what kept the file from being written, with ``target`` as its ``filename``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if (here := (os.getpid(), target.parent.absolute())) not in _tidied:
        _tidied.add(here)
        remove_leftovers(target.parent)
    # Short, since a name may be as long as the file system allows; the suffix says the format.
    aside = target.with_name(f".aside-{this_process()}-{next(_numbers)}{target.suffix}")
    try:
        with named(target, aside):
            yield aside
            if durable:
                to_disk(aside)
            aside.replace(target)
            if durable:
                # Not every file system can; then the name is on the disk when the system likes.
                with suppress(OSError):
                    to_disk(target.parent)
    finally:
        with suppress(OSError):  # of a file system that has become read-only, say
            aside.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what ``atomic`` has begun in ``folder`` for processes that were killed; never what a
    living one is writing. Where that is not known, another machine's, a day must have passed."""
    try:
        entries = list(os.scandir(folder))
    except OSError:  # may be written to, but not listed
        return
    found = [(e, m) for e in entries if (m := ASIDE.fullmatch(e.name))]
    for entry, name in found:
        with suppress(OSError):  # another process was first
            owner, changed = Owner.parse(name[1]), entry.stat(follow_symlinks=False).st_mtime
            forgotten = not owner.here and time.time() - changed > FORGOTTEN
            if owner.dead or forgotten:
                Path(entry).unlink()


def to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk: a power cut must not leave
    the name of a file that is empty, nor take back a file that somebody was told of."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(target: Path, text: str, durable: bool = True) -> Path:
    with atomic(target, durable) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")
    return target


def write_bytes(target: Path, content: bytes, durable: bool = True) -> Path:
    with atomic(target, durable) as aside:
        aside.write_bytes(content)
    return target
