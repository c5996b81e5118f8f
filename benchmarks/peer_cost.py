"""What a part of a program costs: seconds of all its CPU threads, and the most memory it held."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rad_lightning.common.runs import peak_memory_mib

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """``cpu``: seconds, user and system, of all threads of this process; ``wall``: seconds."""

    cpu: float = 0.0
    wall: float = 0.0


@contextmanager
def measured() -> Iterator[Cost]:
    """The cost of what is inside, complete once it has been left."""
    cost, cpu, wall = Cost(), time.process_time(), time.perf_counter()
    try:
        yield cost
    finally:
        cost.cpu, cost.wall = time.process_time() - cpu, time.perf_counter() - wall


def forget_peak() -> None:
    """Start to measure the peak anew: one process runs many cells. Only Linux can."""
    with suppress(OSError):
        CLEAR.write_text("5")


def peak_mib() -> float:
    """The most resident memory since ``forget_peak``, MiB; since the start of the process where
    the system cannot forget."""
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text()):
            return round(int(found[1]) / 1024, 1)
    return peak_memory_mib()
