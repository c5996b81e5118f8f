"""Whoever waits for a lock says whom it waits for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import Timeout

from rad_lightning.common import locks
from rad_lightning.common.errors import BusyError
from rad_lightning.common.locks import held, holder
from rad_lightning.common.owners import Owner, this_process
from rad_lightning.common.runs import RunDirectory
from support import HANG

HOLDER = """
import sys
from pathlib import Path
from rad_lightning.common.locks import held
with held(Path(sys.argv[1])):
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Holds ``tmp_path/.lock`` until its standard input is closed."""
    started = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert started.stdout and started.stdout.readline()
        yield started
    finally:
        started.kill()
        started.communicate()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop it, and wait until it is."""
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


def test_a_run_in_use_names_the_process_and_that_it_is_stopped(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    for how in ("", f"; it is stopped: `kill -CONT {process.pid}` continues it"):
        with pytest.raises(BusyError) as error, RunDirectory(tmp_path).alone():
            pass
        begins = f"{tmp_path}: another process (pid {process.pid}) is working on this run{how}"
        assert str(error.value).startswith(begins) and ("stopped" in str(error.value)) == bool(how)
        stop(process)


@pytest.mark.timeout(HANG)
def test_who_waits_says_once_for_whom_and_once_that_it_is_stopped(
    tmp_path: Path,
    process: subprocess.Popen[bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.01)
    monkeypatch.setattr(locks, "LOOK", 0.01)
    looks: list[None] = []

    def looked(file: Path) -> tuple[str, str]:
        looks.append(None)
        if len(looks) == 3:
            stop(process)
        found = holder(file)
        if len(looks) == 6:
            process.kill()
        return found

    monkeypatch.setattr(locks, "holder", looked)
    with held(tmp_path / ".lock"):
        assert holder(tmp_path / ".lock")[0] == f" (pid {os.getpid()})"
    first, second = capsys.readouterr().err.splitlines()
    assert first == (f"waiting for another process (pid {process.pid}) that holds {tmp_path}")
    assert second.startswith(f"{first}; it is stopped: `kill -CONT {process.pid}`")
    assert not list(tmp_path.glob("*holder*"))


def test_the_holder_on_another_machine_is_named_with_it(tmp_path: Path) -> None:
    (tmp_path / ".lock-holder").write_text(f"{Owner('0' * 8, 7, 1)} node3\n")
    assert holder(tmp_path / ".lock") == (" (pid 7 on node3)", "")
    (tmp_path / ".lock-holder").write_text(f"{Owner('0' * 8, 7, 1)} \x1b[2Jnode3\n")
    assert holder(tmp_path / ".lock") == (" (pid 7)", "")  # nothing for the terminal to obey


@pytest.mark.parametrize("written", ["", "x", "a-b-c node3", "1-2-3"])
def test_a_torn_note_names_nobody(tmp_path: Path, written: str) -> None:
    (tmp_path / ".lock-holder").write_text(written)
    assert holder(tmp_path / ".lock") == ("", "")


@pytest.mark.timeout(HANG)
def test_a_pipe_in_place_of_the_note_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock-holder")
    assert holder(tmp_path / ".lock") == ("", "")


def test_a_lock_is_free_whatever_happens_inside(tmp_path: Path) -> None:
    with pytest.raises(KeyError), held(tmp_path / ".lock"):
        with pytest.raises(Timeout), held(tmp_path / ".lock", wait=False):
            pass
        raise KeyError
    with held(tmp_path / ".lock", wait=False):
        pass


def test_an_owner_comes_back_from_its_text_and_lives() -> None:
    owner = this_process()
    assert Owner.parse(str(owner)) == owner and re.fullmatch(r"[0-9a-f]{8}-\d+-\d+", str(owner))
    assert owner.here and not owner.dead and not owner.stopped
