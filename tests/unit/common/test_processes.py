"""How a process ends, and whose place it takes among several."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from rad_lightning.common.environ import RANKS, forget_ranks
from rad_lightning.common.errors import BusyError
from rad_lightning.common.processes import (
    Terminated,
    end_if_asked,
    lightning_takes_sigterm,
    signals_raise,
    sigterm_left_to_lightning,
)
from rad_lightning.common.runs import RunDirectory
from support import HANG


def test_signals_raise_once_and_is_left_as_it_was() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), signals_raise():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(HANG)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # what tidies up is not disturbed
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_in_an_import_is_raised_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(
        "import signal; signal.raise_signal(signal.SIGTERM); done = True\n"
    )
    code = textwrap.dedent(f"""
        import sys, time
        from rad_lightning.common.processes import Terminated, signals_raise
        sys.path.insert(0, {str(tmp_path)!r})
        with signals_raise():
            try:
                import late
                assert late.done
                time.sleep({HANG})
            except Terminated:
                print("raised")
    """)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG / 2
    )
    assert (done.stdout, done.stderr) == ("raised\n", "")


def test_what_a_shell_has_told_to_ignore_is_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_raise():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_lost_signal_is_raised_once_more_but_in_no_other_thread() -> None:
    raised = []

    def other() -> None:
        end_if_asked()
        raised.append("none")

    with signals_raise():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert raised == ["none"]
        with pytest.raises(KeyboardInterrupt):
            end_if_asked()
    end_if_asked()


def test_lightning_finds_no_handler_while_it_trains() -> None:
    with signals_raise():
        ours = signal.getsignal(signal.SIGTERM)
        lightning_takes_sigterm()  # not while none trains
        with sigterm_left_to_lightning():
            assert signal.getsignal(signal.SIGTERM) is ours
            lightning_takes_sigterm()
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is ours


def test_a_worker_ends_with_its_parent() -> None:
    worker = "from rad_lightning.common.processes import prepare_worker as p; import time; p(); "
    parent = textwrap.dedent(f"""
        import os, subprocess, sys
        code = {worker!r} + "print('up', flush=True); time.sleep({HANG})"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        child.stdout.readline()
        print(child.pid, flush=True)
        os.kill(os.getpid(), 9)
    """)
    ended = subprocess.run(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, timeout=HANG
    )
    child = int(ended.stdout)
    deadline = time.monotonic() + HANG
    while alive(child):
        assert time.monotonic() < deadline, "the worker still runs"
        time.sleep(0.1)


def alive(process: int) -> bool:
    """Whether it runs; one that has ended and waits for its parent does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    except OSError:
        return False


def test_ranks_of_an_outer_launcher_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RANKS:
        monkeypatch.setenv(name, "3")
    for name in ("NODE_RANK", "GROUP_RANK"):
        monkeypatch.setenv(name, "")
    forget_ranks()
    assert not {*RANKS, "NODE_RANK", "GROUP_RANK"} & os.environ.keys()
    monkeypatch.setenv("NODE_RANK", "2")
    forget_ranks()
    assert os.environ["NODE_RANK"] == "2"  # of several nodes, set on purpose


@pytest.mark.parametrize("name", ["NODE_RANK", "GROUP_RANK"])
def test_a_run_of_one_node_is_locked_whatever_an_outer_launcher_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    run = RunDirectory(tmp_path)
    with run.alone():
        with pytest.raises(BusyError), run.alone():
            pass
        with run.alone(nodes=2):  # the second node shares what the first has locked
            pass
