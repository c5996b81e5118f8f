"""kill -9 at random moments of a sweep; then it is run to its end."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults.base import drawn, photos, settings, well
from faults.outcomes import RIGHT, WRONG
from faults.processes import begun, rad

CELLS = ("method.steps=40", "trainer.checkpoint_every=5", "method=plain,lof_memory", "seed=0,1")
EACH = 5  # kills until a sweep may end
TABLES = ("table.md", "table.csv", "table.tex", "cells.csv")
FILES = ("scores.csv", "manifest.csv")
LOCKS = (".lock", ".lock-holder")  # they hold nothing once their process is gone


def kills(folder: Path, count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """``EACH`` kills of one sweep; they are right if its end is as an undisturbed one's."""
    sweep = ("-m", *settings(photos(folder / "photos"), *CELLS), "output=cells")
    began = time.monotonic()
    well(rad(folder / "whole", *sweep))
    lasted = time.monotonic() - began
    for first in range(0, count, EACH):
        here, told = folder / "cut", []
        shutil.rmtree(here, ignore_errors=True)
        for number in range(first, min(count, first + EACH)):
            moment = float(drawn(seed, "kills", number).uniform(0.02, 0.9)) * lasted
            process = begun(here, *sweep)
            time.sleep(moment)
            process.tell(signal.SIGKILL)
            process.end()
            told.append(f"after {moment:.2f} s")
        ended = rad(here, *sweep)
        wrong = ended.err if ended.code else unlike(here / "cells", folder / "whole" / "cells")
        for name in told:
            yield name, WRONG if wrong else RIGHT, wrong or ""


def unlike(cut: Path, whole: Path) -> str | None:
    """How two sweeps differ; ``None`` where all cells are there once, with the same numbers."""
    runs = [sorted(p.parent.name for p in f.glob("*/result.json")) for f in (cut, whole)]
    if runs[0] != runs[1]:
        return f"{len(runs[0])} cells, not {len(runs[1])}"
    places = [Path("report", name) for name in TABLES]
    places += [Path(run, name) for run in runs[1] for name in FILES]
    places += [
        Path(run, "metrics.csv") for run in runs[1] if (whole / run / "metrics.csv").exists()
    ]
    for place in places:
        if (cut / place).read_bytes() != (whole / place).read_bytes():
            return f"other {place.name}"
    left = [p.name for p in cut.rglob(".*") if p.is_file() and p.name not in LOCKS]
    return f"left behind: {left[0]}" if left else None
