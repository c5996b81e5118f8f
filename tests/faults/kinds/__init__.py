"""The kinds of faults. Each is a function ``(folder, count, seed)`` that gives its tries."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.kinds import disk, images, kills, processes, runs, signals, stored, tables
from faults.outcomes import Tried, outcome_of
from faults.processes import Ended

# A try without its kind: its name, how its command ended, what is wrong with what it left behind.
Try = tuple[str, Ended, str | None] | tuple[str, str, str]
Kind = Callable[[Path, int, int], Iterator[Try]]

# With how many tries each has. The long ones first, so that two processes end at about one time.
KINDS: dict[str, tuple[Kind, int]] = {
    "cache": (stored.cache, 200),
    "checkpoint, resumed": (stored.resumed, 120),
    "ddp": (processes.ddp, 8),
    "sweep workers": (processes.workers, 6),
    "kill": (kills.kills, 50),
    "signal": (signals.signals, 80),
    "checkpoint, read": (stored.read, 120),
    "result": (stored.results, 90),
    "disk full at each file": (disk.each_file, 80),
    "disk full by size": (disk.by_size, 40),
    "disk gone or read-only": (disk.gone, 16),
    "mask": (images.masks, 60),
    "table of images": (tables.images, 130),
    "manifest": (tables.manifests, 130),
    "image": (images.images, 520),
    "hostile run": (runs.hostile, 60),
}


def tried(kind: str, folder: Path, share: float, seed: int) -> Iterator[Tried]:
    """The tries of a kind, ``share`` of them, each with its outcome."""
    function, count = KINDS[kind]
    folder = folder.with_name(re.sub(r"\W+", "_", kind))  # no comma: it stands in settings
    folder.mkdir(parents=True, exist_ok=True)
    for name, ended, wrong in function(folder.resolve(), max(2, math.ceil(share * count)), seed):
        if isinstance(ended, str):  # the kind knows its outcome itself
            yield Tried(kind, name, ended, wrong or "")
        else:
            yield Tried(kind, name, *outcome_of(ended, wrong))
