"""kill -9 at random moments of a sweep: nothing computed is lost, and no number changes.

RAD_KILLS sets how often (once in the suite; `make kill` 10).
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from support import HANG, SMALL_SYNTHETIC, command, started

KILLS = int(os.environ.get("RAD_KILLS", "1"))
SWEEP = (
    *("-m", *SMALL_SYNTHETIC, "method.steps=60", "trainer.checkpoint_every=5", "noise=replace"),
    *("data.test_images_per_defect=2", "evaluation.pixel=false"),
    *("noise.ratio=0,0.5", "method=plain"),
)


@pytest.mark.slow
@pytest.mark.timeout(HANG * (1 + KILLS))
def test_kill_9_loses_nothing_and_changes_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    command(tmp_path, *SWEEP, "output=whole")
    lasted = time.monotonic() - began
    moments = random.Random(os.environ.get("RAD_KILL_SEED", "0"))
    partial = []
    for _ in range(KILLS):
        with started(tmp_path, *SWEEP, "output=cut"):  # killed at its end
            # From the first cell to the end: a start alone takes some seconds.
            time.sleep(moments.uniform(0.3, 1.0) * lasted)
        partial.append(len(list((tmp_path / "cut").glob("*/result.json"))))
    command(tmp_path, *SWEEP, "output=cut")
    assert partial == sorted(partial)  # a finished cell stays finished
    names = [
        sorted(p.parent.name for p in (tmp_path / folder).glob("*/result.json"))
        for folder in ("whole", "cut")
    ]
    assert len(names[0]) == 2 and names[0] == names[1]
    for name in ("table.md", "table.csv", "table.tex", "cells.csv"):
        tables = [(tmp_path / f / "report" / name).read_bytes() for f in ("whole", "cut")]
        assert tables[0] == tables[1], name
    for run in names[0]:
        for name in ("scores.csv", "manifest.csv"):
            files = [(tmp_path / f / run / name).read_bytes() for f in ("whole", "cut")]
            assert files[0] == files[1], (run, name)
