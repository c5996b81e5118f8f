"""A sample of ``make faults``: nothing is silently wrong, no traceback, nothing left hanging."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from faults.kinds import KINDS
from faults.outcomes import FAULTS, Tried
from support import HANG

pytestmark = pytest.mark.slow
# Tests of their own have these: tests/distributed, test_signals, test_kill, test_full_disk.
ELSEWHERE = (
    "ddp",
    "sweep workers",
    "signal",
    "kill",
    "disk full at each file",
    "disk full by size",
)
SAMPLED = [kind for kind in KINDS if kind not in ELSEWHERE]
TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Tried]]:
    """A few tries of each kind, in a process of their own: it forks."""
    folder = tmp_path_factory.mktemp("faults")
    line = ("-m", "faults", "--share", "0.001", "--folder", str(folder), "--only", *SAMPLED)
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *line],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    found = defaultdict(list)
    if (folder / "tried.jsonl").is_file():
        for text in (folder / "tried.jsonl").read_text().splitlines():
            one = Tried(**json.loads(text))
            found[one.kind].append(one)
    assert set(found) == set(SAMPLED), done.stdout + done.stderr
    return found


@pytest.mark.timeout(HANG)
@pytest.mark.parametrize("kind", SAMPLED)
def test_a_fault_leaves_a_right_result_or_one_line(
    tried: dict[str, list[Tried]], kind: str
) -> None:
    assert len(tried[kind]) >= 2
    assert not [str(one) for one in tried[kind] if one.outcome in FAULTS]
