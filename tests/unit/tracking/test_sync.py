"""``make wandb-sync``: which runs it sends, and that it says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rad_lightning.tracking import sync
from support import nobody


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Two offline runs of two cells, the older one sent before, and an online one."""
    for cell, run, synced in (
        ("a", "offline-run-20260102_000000-x", False),
        ("b", "offline-run-20260101_000000-y", True),
        ("c", "run-20260103_000000-z", False),
    ):
        folder = tmp_path / "sweep" / cell / "wandb" / run
        folder.mkdir(parents=True)
        (folder / "run.wandb").touch()
        if synced:
            (folder / "run.wandb.synced").touch()
    return tmp_path


def test_only_offline_runs_that_were_not_sent_are_sent(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(sync, "login_problem", lambda: None)
    monkeypatch.setattr(sync, "default_entity", lambda: "someone")
    monkeypatch.setattr(subprocess, "call", lambda words: calls.append(words) or 7)
    assert sync.main([str(outputs)]) == 7
    told = capsys.readouterr().out
    assert "2 offline W&B runs below" in told and "1 sent before" in told
    assert "sending 1 to http" in told and "account someone" in told
    (words,) = calls
    new = outputs / "sweep" / "a" / "wandb" / "offline-run-20260102_000000-x"
    assert words == [sys.executable, "-m", "wandb", "sync", str(new)]


def test_nobody_logged_in_is_one_line_and_nothing_is_sent(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody(monkeypatch, outputs)
    monkeypatch.setattr(subprocess, "call", lambda _: pytest.fail("sent"))
    assert sync.main([str(outputs)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: wandb-sync: not logged in to W&B; run `wandb login`")


def test_nothing_to_send_needs_no_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sync, "login_problem", lambda: pytest.fail("asked"))
    assert sync.main([str(tmp_path)]) == 0
    assert "0 offline W&B runs" in capsys.readouterr().out
    assert sync.main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a folder; give the folder" in capsys.readouterr().err
