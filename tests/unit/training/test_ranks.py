"""A stopped process of a training ends all of them; whatever else they do does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from rad_lightning.training import ranks
from rad_lightning.training.ranks import ended_when_stopped
from support import HANG


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes that wait."""
    monkeypatch.setattr(ranks, "LOOK", 0.01)
    sleep = [sys.executable, "-S", "-c", f"import time; time.sleep({HANG})"]
    started = [subprocess.Popen(sleep) for _ in range(2)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_all_end_with_a_stopped_one(two: list[subprocess.Popen[bytes]]) -> None:
    with ended_when_stopped(lambda: two) as reasons:
        os.kill(two[1].pid, signal.SIGSTOP)
        assert [process.wait(HANG) for process in two] == [-signal.SIGKILL] * 2
    assert reasons == [f"process 1 (pid {two[1].pid}) was stopped (SIGSTOP)"]


def test_those_that_run_or_have_ended_are_left_alone(two: list[subprocess.Popen[bytes]]) -> None:
    two[0].kill()
    two[0].wait()
    with ended_when_stopped(lambda: two) as reasons:
        time.sleep(0.3)
        assert two[1].poll() is None
    assert not reasons


def test_one_that_goes_on_in_time_is_left_alone(
    two: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def look(pid: int) -> tuple[str, int]:
        """The first is always stopped but for every ``PATIENCE``th look."""
        looks.append("T" if len(looks) % (2 * ranks.PATIENCE) else "R")
        return (looks[-1], 0) if pid == two[0].pid else ("S", 0)

    monkeypatch.setattr(ranks, "state_and_start", look)
    with ended_when_stopped(lambda: two) as reasons:
        while len(looks) < 5 * ranks.PATIENCE:
            time.sleep(0.01)
    assert not reasons
