"""What killed processes leave in a folder, and what reaches the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rad_lightning.common import files
from rad_lightning.common.files import FORGOTTEN, atomic, remove_leftovers, write_bytes, write_text
from rad_lightning.common.owners import Owner, this_process
from support import HANG

WRITER = """
import sys, time
from pathlib import Path
from rad_lightning.common.files import atomic
with atomic(Path(sys.argv[1]) / "result.json") as aside:
    aside.write_text("half")
    print("up", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hidden(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.name.startswith(".")]


def test_what_a_killed_process_was_writing_goes_and_what_a_living_one_writes_stays(
    tmp_path: Path,
) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), str(HANG)], stdout=subprocess.PIPE
    )
    try:
        assert writer.stdout and writer.stdout.readline()
        write_text(tmp_path / "first.txt", "")  # looks into the folder
        remove_leftovers(tmp_path)
        (aside,) = hidden(tmp_path)
        os.kill(writer.pid, signal.SIGSTOP)  # a stopped one lives
        remove_leftovers(tmp_path)
        assert hidden(tmp_path) == [aside]
    finally:
        writer.kill()
        writer.communicate()
    files._tidied.clear()  # as in a process that has just started
    write_text(tmp_path / "second.txt", "")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["first.txt", "second.txt"]


def test_a_process_with_the_pid_of_a_killed_one_is_not_taken_for_it(tmp_path: Path) -> None:
    later = replace(this_process(), start=this_process().start + 1)
    (tmp_path / f".aside-{later}-0.csv").touch()
    (tmp_path / f".aside-{this_process()}-0.csv").touch()
    remove_leftovers(tmp_path)
    assert hidden(tmp_path) == [f".aside-{this_process()}-0.csv"]


def test_what_has_no_possible_pid_goes(tmp_path: Path) -> None:
    (tmp_path / f".aside-{replace(this_process(), pid=10**30)}-0").touch()
    remove_leftovers(tmp_path)
    assert not hidden(tmp_path)


def test_of_another_machine_only_what_is_a_day_old_goes(tmp_path: Path) -> None:
    old, young = (tmp_path / f".aside-{Owner('0' * 8, 1, 1)}-{n}" for n in (0, 1))
    old.touch(), young.touch()
    os.utime(old, (0, time.time() - FORGOTTEN - 60))
    remove_leftovers(tmp_path)
    assert hidden(tmp_path) == [young.name]


def test_hidden_files_of_others_stay(tmp_path: Path) -> None:
    for name in (".lock", ".aside", ".aside-x-1-2-3", f"aside-{Owner('0' * 8, 1, 1)}-0"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_two_files_of_one_folder_may_be_written_inside_each_other(tmp_path: Path) -> None:
    with atomic(tmp_path / "a.txt") as outer:
        outer.write_text("a")
        write_text(tmp_path / "b.txt", "b")
    assert [(tmp_path / n).read_text() for n in ("a.txt", "b.txt")] == ["a", "b"]


def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_anybody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def noted(path: Path) -> None:
        done.append((path.is_dir(), (tmp_path / "a").exists()))

    monkeypatch.setattr(files, "to_disk", noted)
    write_bytes(tmp_path / "a", b"1")
    assert done == [(False, False), (True, True)]
    write_bytes(tmp_path / "a", b"2", durable=False)
    assert len(done) == 2
