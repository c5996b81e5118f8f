import csv
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faults.stored import Damages, damages, object_damages, tries
from rad_lightning.common.runs import (
    RESULT,
    SCHEMA_VERSION,
    RunDirectory,
    environment,
    peak_memory_mib,
)

RESULTS = {
    "schema_version": SCHEMA_VERSION, "dataset": "d", "category": None, "head": "patch",
    "method": "plain", "seed": 0, "metrics": {"image_auroc": 0.875}, "notes": ["größer ✓"],
}  # fmt: skip


def read(run: RunDirectory) -> dict[str, Any]:
    """The result without its checksums."""
    found = run.read_result()
    return {key: value for key, value in found.items() if key not in ("files", "content_sha256")}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "runs" / "one")


def test_a_result_comes_back_as_written_and_marks_the_run_done(run: RunDirectory) -> None:
    assert not run.done
    run.write_result(RESULTS)
    assert run.done and read(run) == RESULTS


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_result_that_is_no_number_is_refused_and_the_old_one_kept(
    run: RunDirectory, bad: float
) -> None:
    run.write_result(RESULTS)
    with pytest.raises(ValueError, match="JSON"):
        run.write_result(RESULTS | {"metrics": {"image_auroc": bad}})
    assert read(run) == RESULTS


def test_a_refused_first_result_marks_nothing_done(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match="JSON"):
        run.write_result({"x": math.nan})
    assert not run.done


def test_the_result_names_the_sha256_of_every_file_of_the_run(run: RunDirectory) -> None:
    run.write_text("scores.csv", "abc")
    run.write_text(".hidden", "x")
    run.write_text("failure.json", "x")
    run.write_result(RESULTS)
    assert run.read_result()["files"] == {"scores.csv": hashlib.sha256(b"abc").hexdigest()}


@pytest.mark.parametrize("kind", [damages, object_damages])
def test_a_damaged_result_does_not_mark_the_run_done(run: RunDirectory, kind: Damages) -> None:
    file = run.write_result(RESULTS)
    whole, wanted = file.read_bytes(), run.read_result()
    for seed in range(tries()):
        name, content = kind(whole, np.random.default_rng(seed))
        file.write_bytes(content)
        # A byte between two values changes nothing.
        assert not run.done or run.read_result() == wanted, (seed, name)


def test_a_pipe_in_place_of_a_result_does_not_hang(run: RunDirectory) -> None:
    run.path.mkdir(parents=True)
    os.mkfifo(run.path / RESULT)
    assert not run.done


@pytest.mark.parametrize("key", ["dataset", "metrics", "seed"])
def test_an_older_result_that_lacks_what_every_version_had_does_not_count(
    run: RunDirectory, key: str
) -> None:
    older = RESULTS | {"schema_version": 2}
    run.write_text(RESULT, json.dumps(older))
    assert run.done
    run.write_text(RESULT, json.dumps({k: v for k, v in older.items() if k != key}))
    assert not run.done


def test_the_result_is_strict_json_ending_in_a_newline(run: RunDirectory) -> None:
    text = run.write_result(RESULTS).read_text(encoding="utf-8")
    assert text.endswith("}\n") and json.loads(text).items() >= RESULTS.items()


def test_writing_leaves_nothing_but_the_file(run: RunDirectory) -> None:
    run.write_text("a.txt", "one")
    run.write_text("a.txt", "two")
    assert [p.name for p in run.path.iterdir()] == ["a.txt"]
    assert (run.path / "a.txt").read_bytes() == b"two"


def test_a_write_that_fails_midway_keeps_the_old_file(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write_text("a.txt", "old")
    write = Path.write_text

    def dies(path: Path, text: str, **options: str) -> int:
        write(path, text[: len(text) // 2], **options)
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", dies)
    with pytest.raises(OSError, match="no space"):
        run.write_text("a.txt", "new and longer")
    assert (run.path / "a.txt").read_text() == "old"


def test_a_reader_never_sees_a_half_written_file(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, replace = [], Path.replace

    def watched(path: Path, target: Path) -> Path:
        seen.append((path.read_text(), target.exists()))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    run.write_text("a.txt", "whole")
    assert seen == [("whole", False)]  # whole beside the target before the target appears


def test_line_ends_are_the_same_on_every_system(run: RunDirectory) -> None:
    assert run.write_text("a.txt", "a\nb\n").read_bytes() == b"a\nb\n"


def test_files_may_lie_in_folders(run: RunDirectory) -> None:
    assert run.write_text("maps/a.txt", "x") == run.path / "maps" / "a.txt"


def test_restart_takes_the_marks_away_and_nothing_else(run: RunDirectory) -> None:
    run.write_result(RESULTS)
    run.write_text("last.ckpt", "x")
    run.write_text("scores.csv", "x")
    run.restart()
    assert not run.done and not run.checkpoint.exists()
    assert [p.name for p in run.path.iterdir()] == ["scores.csv"]
    run.restart()  # again, with nothing there


def test_restart_takes_the_result_first(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, unlink = [], Path.unlink
    run.write_result(RESULTS)
    run.write_text("last.ckpt", "x")

    def watched(path: Path, missing_ok: bool = False) -> None:
        taken.append(path.name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", watched)
    run.restart()
    assert taken == [RESULT, "last.ckpt"]


def test_csv_rows_come_back_through_a_csv_reader(run: RunDirectory) -> None:
    rows = [("a,b.png", 1, 'say "x"'), ("ü\n.png", -0.5, "")]
    path = run.write_csv("scores.csv", ("path", "score", "note"), rows)
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.reader(file))
    assert found[0] == ["path", "score", "note"]
    assert found[1:] == [["a,b.png", "1", 'say "x"'], ["ü\n.png", "-0.5", ""]]


def test_the_environment_is_json_with_versions(run: RunDirectory) -> None:
    about = environment()
    run.write_result(RESULTS | about)
    assert read(run) == RESULTS | about
    assert about["packages"]["torch"] and about["packages"]["numpy"]


def test_the_environment_needs_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(Path, "exists", lambda _: True)  # as in a checkout
    assert environment()["git_revision"] is None


def test_peak_memory_is_in_mebibytes() -> None:
    block = bytearray(os.urandom(1)) * (64 * 2**20)
    assert len(block) / 2**20 < peak_memory_mib() < 64 * 1024
