"""Locks between processes that say whom they wait for."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from rad_lightning.common.files import write_text
from rad_lightning.common.owners import Owner, this_process
from rad_lightning.common.sealed import read_regular

PATIENCE = 5.0  # seconds that a wait needs no explanation
LOOK = 1.0  # seconds between two looks at who holds a lock
MOST_BYTES = 1024  # of the file beside a lock
HOST = re.compile(r"[A-Za-z0-9._:-]+")


@contextmanager
def held(file: Path, wait: bool = True, lock: FileLock | None = None) -> Iterator[None]:
    """Hold the lock ``file``; whoever comes later learns who holds it from a file beside it.
    ``lock``: one on that file which others share in this process.

    Who waits longer than ``PATIENCE`` says so on stderr, once, and once more when the process that
    holds the lock is stopped.

    Raises:
        Timeout: another process holds it, without ``wait``.
        OSError: the lock cannot be written.
    """
    lock = lock or FileLock(file)
    if wait:
        _wait(lock, file)
    else:
        lock.acquire(timeout=0)
    try:
        with suppress(OSError):  # a full disk, say: then nobody learns who it is
            write_text(_note(file), f"{this_process()} {platform.node()}\n", durable=False)
        yield
    finally:
        with suppress(OSError):
            _note(file).unlink(missing_ok=True)
        lock.release()


def holder(file: Path) -> tuple[str, str]:
    """Who holds the lock, `` (pid 7 on HOST)``, and what to do where that process is stopped; each
    is empty where it is not known."""
    try:
        written, host = read_regular(_note(file), MOST_BYTES).decode().split()
        owner = Owner.parse(written)
    except (OSError, ValueError):
        return "", ""
    known = not owner.here and HOST.fullmatch(host)  # anything else is not for a terminal
    who = f" (pid {owner.pid} on {host})" if known else f" (pid {owner.pid})"
    how = f"; it is stopped: `kill -CONT {owner.pid}` continues it, `kill {owner.pid}` ends it"
    return who, how if owner.stopped else ""


def _wait(lock: FileLock, file: Path) -> None:
    said: set[str] = set()
    patience = PATIENCE
    while True:
        try:
            lock.acquire(timeout=patience)
            return
        except Timeout:
            patience = LOOK
        who, how = holder(file)
        if not said or how not in said | {""}:
            line = f"waiting for another process{who} that holds {file.parent}{how}"
            print(line, file=sys.stderr, flush=True)
        said.add(how)


def _note(file: Path) -> Path:
    return file.with_name(f"{file.name}-holder")
