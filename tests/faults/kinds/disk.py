"""Nothing can be written any more: at each file, at any size, without permission, without folder.

Afterwards there is room again, and the same command has to come to the right end.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from faults.base import drawn, photos, predicted, reference, scratch, settings, well
from faults.kinds.kills import unlike
from faults.outcomes import Ended
from faults.processes import PATIENCE, Forked, rad

WRITES = os.O_WRONLY | os.O_RDWR
CHANGES = ("os.mkdir", "os.rename")


@dataclass(frozen=True)
class Command:
    """A command that writes, and what is wrong with what it left in its folder."""

    name: str
    arguments: tuple[str, ...]
    wrong: Callable[[Path], str | None]
    start: Path | None = None  # a folder that it begins with


def commands(folder: Path) -> list[Command]:
    """Each command that writes files, run once undisturbed."""
    data = photos(folder / "photos")
    whole = reference(folder / "whole", "evaluation.pictures=2", "evaluation.worst=2", data=data)
    sweep = ("-m", *settings(data, "seed=0,1"), "output=cells")
    well(rad(folder / "swept", *sweep))
    found = [
        Command("train", whole.arguments, whole.wrong),
        Command("sweep", sweep, lambda here: unlike(here / "cells", folder / "swept" / "cells")),
    ]
    asked = ("predict", f"checkpoint={whole.run}", f"input={data / 'bad'}", "overlays=all")
    well(rad(folder / "predicted", *asked, "output=out", "progress=false"))
    scores = predicted(folder / "predicted" / "out")
    found.append(
        Command(
            "predict",
            (*asked, "output=out", "progress=false"),
            lambda here: None if predicted(here / "out") == scores else "other scores",
        )
    )
    for name, more, files in (
        ("audit", (f"run={whole.run}", "output=out", "progress=false"), ("out/audit.json",)),
        ("export", (f"checkpoint={whole.run}", "format=torch", "output=out"), ("out/detector.pt",)),
    ):
        ended = rad(folder / name, name, *more)
        if ended.code == 0:
            there = all((folder / name / file).is_file() for file in files)
            found.append(Command(name, (name, *more), _there(files if there else ())))
    return found


def _there(files: tuple[str, ...]) -> Callable[[Path], str | None]:
    return lambda here: next((f"no {f}" for f in files if not (here / f).is_file()), None)


@contextmanager
def failing_at(number: int) -> Iterator[list[str]]:
    """Inside, the ``number``-th file that is opened to be written, folder made or file renamed
    fails, and all that follow, as on a full disk. Gives the names of what was asked for.

    For a process that ends with the context: Python's audit hooks cannot be taken off.
    """
    asked: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & WRITES
            if not writes and not (isinstance(mode, str) and set(mode) & set("wax+")):
                return
        elif event in CHANGES:
            path = arguments[0] if event == "os.mkdir" else arguments[1]
        else:
            return
        if isinstance(path, int):
            return
        text = os.fsdecode(path)
        if text.startswith(("/dev/", "/proc/")) or text.endswith(".lock"):
            return
        asked.append(text)
        if number and len(asked) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), text)

    sys.addaudithook(hook)
    yield asked


def each_file(folder: Path, count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """The disk is full from the n-th thing on that a command asks the disk for."""
    found = commands(folder)
    asked = [(command, number) for command in found for number in range(1, _asks(command, folder))]
    every = drawn(seed, "each file").permutation(len(asked))[:count]
    for index in sorted(every):
        command, number = asked[index]
        with scratch(folder / "try") as here:

            def failing(command: Command = command, number: int = number) -> None:
                from rad_lightning.cli import main

                with failing_at(number):
                    main(list(command.arguments))

            ended = Forked(failing, here).wait()
            yield from judged(f"{command.name}, file {number}", ended, command, here)


def _asks(command: Command, folder: Path) -> int:
    """How many things the command asks the disk for."""
    counted = folder / f"{command.name}.count"

    def counting() -> None:
        from rad_lightning.cli import main

        with failing_at(0) as asked:
            main(list(command.arguments))
        number = len(asked)
        counted.write_text(str(number))

    with scratch(folder / "try") as here:
        well(Forked(counting, here).wait())
    return int(counted.read_text())


def judged(name: str, ended: Ended, command: Command, here: Path) -> Iterator[tuple[Any, ...]]:
    """The command's outcome; if it refused, also whether it ends well now that it can write."""
    wrong = command.wrong(here) if ended.code == 0 else None
    if ended.code:
        again = rad(here, *command.arguments)
        if again.code == 0:
            found = command.wrong(here)
            if found:  # taken for whole what was not
                ended, wrong = Ended(0, "", ""), f"with room again: {found}"
        elif again.code is not None:
            ended = Ended(0, "", "")
            wrong = f"with room again exit code {again.code}: {again.last}"
    yield name, ended, wrong


@contextmanager
def disk(at: Path, kib: int) -> Iterator[Callable[[str], None]]:
    """A file system of ``kib`` KiB; gives how to change its options.

    Raises:
        OSError: this user cannot mount one.
    """
    at.mkdir(parents=True, exist_ok=True)

    def change(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(at)], check=True)

    line = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(at)]
    if os.geteuid() or subprocess.run(line, capture_output=True, check=False).returncode:
        raise OSError(f"{at}: no file system can be mounted")
    try:
        yield change
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def by_size(folder: Path, count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """A disk of any size (where one can be mounted), or a limit to the size of each file."""
    found = commands(folder)
    for number in range(count):
        rng = drawn(seed, "by size", number)
        command = found[number % len(found)]
        kib = int(2 ** rng.uniform(2, 11.5))
        here = folder / "try"
        shutil.rmtree(here, ignore_errors=True)
        if number % 4:
            try:
                with disk(here, kib) as change:
                    ended = rad(here, *command.arguments)
                    change("size=1g")
                    yield from judged(f"{command.name}, disk of {kib} KiB", ended, command, here)
                continue
            except OSError:
                pass  # nobody but root may: the limit below, then

        def limited(command: Command = command, kib: int = kib) -> None:
            from rad_lightning.cli import main

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 256, resource.RLIM_INFINITY))
            main(list(command.arguments))

        ended = Forked(limited, here).wait()
        yield from judged(f"{command.name}, files of {kib // 4} KiB", ended, command, here)


def gone(folder: Path, count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """The folder cannot be written, or becomes so, or is removed, while a command runs."""
    found = commands(folder)
    for number in range(count):
        command = found[number // 2 % len(found)]
        moment = float(drawn(seed, "gone", number).uniform(0, 1.2))
        here = folder / "try"
        shutil.rmtree(here, ignore_errors=True)
        if number % 2:
            with scratch(here):
                timer = threading.Timer(moment, partial(_empty, here))
                timer.start()
                ended = rad(here, *command.arguments)
                timer.join()
                name = f"{command.name}, folder emptied after {moment:.2f} s"
                # It may have written all after that moment, or nothing is there any more.
                lost = command.wrong(here) if ended.code == 0 else None
                yield name, ended, lost
            continue
        try:
            with disk(here, 65536) as change:
                timer = threading.Timer(moment, partial(_read_only, change))
                timer.start()
                ended = rad(here, *command.arguments, seconds=PATIENCE)
                timer.join()
                change("rw")
                name = f"{command.name}, read-only after {moment:.2f} s"
                yield from judged(name, ended, command, here)
        except OSError:
            continue


def _empty(folder: Path) -> None:
    for _ in range(3):
        for inside in folder.glob("*"):
            shutil.rmtree(inside, ignore_errors=True)
        time.sleep(0.01)


def _read_only(change: Callable[[str], None]) -> None:
    for _ in range(100):
        try:
            return change("ro")
        except subprocess.CalledProcessError:  # busy: a file is open to be written
            time.sleep(0.01)
