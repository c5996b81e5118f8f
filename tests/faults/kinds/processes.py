"""Trainings of several processes of which one is lost, stopped or told to end."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from faults.base import photos, settings, well
from faults.kinds.kills import unlike
from faults.outcomes import Ended
from faults.processes import Fresh, fresh, rad

START = 180  # seconds until several processes train
END = 60  # seconds that all have to end when one is lost
DDP = ("trainer.accelerator=cpu", "trainer.devices=2", "method.steps=1000000")


def ddp(folder: Path, count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """Two ranks train; one is killed, told to end or stopped, or the main process is."""
    data = photos(folder / "photos")
    arguments = settings(data, "trainer=ddp", *DDP, "trainer.checkpoint_every=5")
    sent = [
        ("rank 1", signal.SIGKILL),
        ("rank 1", signal.SIGTERM),
        ("rank 1", signal.SIGSTOP),
        ("main", signal.SIGINT),
        ("main", signal.SIGTERM),
        ("rank 0", signal.SIGKILL),
    ]
    for whom, number in sent[: max(0, count - 2)] or sent[:count]:
        here = folder / "try"
        shutil.rmtree(here, ignore_errors=True)
        with fresh(here, *arguments) as process:
            if not _trains(process, here):
                yield f"{number.name} to {whom}", process.wait(1), "it did not begin to train"
                continue
            ranks = _ranks(process)
            pid = process.pid if whom == "main" else ranks[int(whom[-1])]
            os.kill(pid, number)
            yield f"{number.name} to {whom}", _nonzero(process.wait(END)), None
    if count > len(sent):
        short = settings(data, *DDP[:2])
        with fresh(folder / "no spawn", *short) as process:
            ended = process.wait(START)
            done = list((folder / "no spawn").glob("outputs/runs/*/result.json"))
            yield "devices=2 without trainer=ddp", ended, None if done else "no result"
        with fresh(folder / "sweep", "-m", *short, "seed=0,1") as process:
            ended = process.wait(START)
            done = list((folder / "sweep").glob("outputs/runs/*/result.json"))
            yield "a sweep of them", ended, None if len(done) == 2 else f"{len(done)} of 2 results"


def _nonzero(ended: Ended) -> Ended:
    """A training of a million steps that says that all is well has not done them. Of its errors the
    last line counts, unless there is a traceback: Lightning and torch tell of each process."""
    if ended.code == 0:
        return Ended(99, ended.out, "")
    return ended if "Traceback" in ended.err else Ended(ended.code, ended.out, ended.last)


def _trains(process: Fresh, folder: Path) -> bool:
    late = time.monotonic() + START
    while process.running() and time.monotonic() < late:
        if list(folder.glob("outputs/runs/*/last.ckpt")) and len(_ranks(process)) >= 2:
            return True
        time.sleep(0.1)
    return False


def _ranks(process: Fresh) -> list[int]:
    """The spawned trainings, rank 0 first: the children that have torch open and compute."""
    found = []
    for pid in sorted(process.others()):
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"spawn_main" in line:
                found.append(pid)
    return found


def workers(folder: Path, count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """A joblib sweep whose worker or main process is killed or told to end.

    All cells have results or reasons, and no process stays behind.
    """
    data = photos(folder / "photos")
    cells = settings(data, "method.steps=60", "seed=0,1,2,3")
    sweep = ("-m", *cells, "output=cells", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    well(rad(folder / "whole", "-m", *cells, "output=cells"))
    sent: list[tuple[str, signal.Signals]] = [
        ("a worker", signal.SIGTERM),
        ("main", signal.SIGTERM),
        ("a worker", signal.SIGKILL),
        ("main", signal.SIGKILL),
        ("main", signal.SIGINT),
        ("a worker", signal.SIGINT),
    ]
    for whom, number in sent[:count]:
        here = folder / "try"
        shutil.rmtree(here, ignore_errors=True)
        with fresh(here, *sweep) as process:
            began = _wait(process, lambda here=here: bool(list(here.glob("cells/*/config.yaml"))))
            if not began:
                yield f"{number.name} to {whom}", process.wait(1), "no worker began"
                continue
            pids = [process.pid] if whom == "main" else _workers(process)
            with suppress(ProcessLookupError, IndexError):
                os.kill(pids[0], number)
            ended = process.wait(END)
        if ended.code == 137 and (whom, number) == ("main", signal.SIGKILL):
            ended = Ended(137, "", "interrupted: killed")  # nothing can be said
        wrong = None
        if ended.code == 0:
            wrong = unlike(here / "cells", folder / "whole" / "cells")
        elif ended.code is not None:
            again = rad(here, "-m", *cells, "output=cells")
            if found := again.err or unlike(here / "cells", folder / "whole" / "cells"):
                ended, wrong = Ended(0, "", ""), f"again: {found}"
        yield f"{number.name} to {whom}", ended, wrong


def _wait(process: Fresh, there: Callable[[], bool]) -> bool:
    late = time.monotonic() + START
    while process.running() and time.monotonic() < late:
        if there():
            return True
        time.sleep(0.05)
    return False


def _workers(process: Fresh) -> list[int]:
    found = []
    for pid in process.others():
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"loky" in line and b"resource_tracker" not in line:
                found.append(pid)
    return found
