"""Offline W&B runs, read back with W&B's own reader: one per cell, finished, with its numbers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rad_lightning import train
from rad_lightning.tracking.wandb import log_curves
from support import SMALL_SYNTHETIC

Cli = Callable[..., int]
QUICK = (
    *SMALL_SYNTHETIC,
    "logger=wandb",
    "data.test_images_per_defect=2",
    "evaluation.pixel=false",
    "evaluation.pictures=0",
)


def inspected(folder: Path) -> str:
    """What W&B's reader says, once its service process has written the run to its end."""
    for _ in range(20):
        answer = subprocess.run(
            [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if answer.returncode == 0 and '"type":"exit"' in answer.stdout:
            return answer.stdout
        time.sleep(0.5)
    raise AssertionError(f"the run never ended: {answer.stderr or answer.stdout[-500:]}")


def read(run: Path) -> dict[str, Any]:
    """The records of a run's only W&B folder, gathered by kind."""
    (folder,) = (run / "wandb").glob("offline-run-*")
    gathered: dict[str, Any] = {"summary": {}, "history": [], "files": [], "exit": None}
    for line in inspected(folder).splitlines():
        record = json.loads(line)
        content = record.get(record["type"], {})
        if record["type"] == "run":
            gathered["run"] = content
        elif record["type"] == "summary":
            gathered["summary"] |= content.get("update", {})
        elif record["type"] == "history":
            gathered["history"].append(content["item"])
        elif record["type"] == "files":
            gathered["files"] += [f["path"] for f in content["files"]]
        elif record["type"] == "exit":
            gathered["exit"] = content.get("exit_code", 0)
    return gathered


def test_every_cell_is_one_finished_run_with_its_numbers(cli: Cli) -> None:
    assert cli("-m", *QUICK, "noise=replace", "noise.ratio=0,0.5", "output=my_sweep") == 0
    runs = sorted(Path("my_sweep").glob("*-seed0-*"))
    assert len(runs) == 2
    names = set()
    for folder in runs:
        result = json.loads((folder / "result.json").read_text())
        found = read(folder)
        assert found["exit"] == 0
        assert found["summary"]["image_auroc"] == result["metrics"]["image_auroc"]
        assert found["summary"]["noise/achieved"] == result["noise"]["achieved"]
        assert found["run"]["run_group"] == "my_sweep"
        config = found["run"]["config"]["update"]
        assert config["noise"]["ratio"] == result["noise"]["requested"]
        level = f"replace={result['noise']['requested']:g}"
        assert {"synthetic", "weave", "patch", "plain", level} <= set(found["run"]["tags"])
        assert "manifest.csv" in found["files"]
        losses = [h["train/nll"] for h in found["history"] if "train/nll" in h]
        held = [h for h in found["history"] if "holdout/nll" in h]
        assert len(losses) == 6 and len(held) == 6
        names.add(found["run"]["display_name"])
    assert names == {r.name for r in runs}


def test_a_failed_training_is_a_finished_run_marked_as_failed(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", broken)
        assert cli("-m", *QUICK, "seed=0,1", "output=out") == 1
    runs = sorted(Path("out").glob("*-seed*"))
    assert [read(r)["exit"] for r in runs] == [1, 1]
    assert cli("-m", *QUICK, "seed=0,1", "output=out") == 0
    assert [read(r)["exit"] for r in runs] == [0, 0]  # and the failed ones have made room


def test_an_interrupted_training_is_one_run_with_the_whole_curve(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rad_lightning import fit

    settings = (*QUICK, "trainer.checkpoint_every=2")

    def stop_at_step_4(self: fit.StepBar, trainer: Any, *_: object) -> None:
        if trainer.global_step == 4:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(fit.StepBar, "on_train_batch_end", stop_at_step_4)
        cli(*settings)
    assert cli(*settings) == 0
    (run,) = Path("outputs/runs").iterdir()
    steps = [h["trainer/global_step"] for h in read(run)["history"] if "train/nll" in h]
    assert sorted(set(steps)) == [0, 1, 2, 3, 4, 5]


def test_online_without_a_login_is_one_line_and_nothing_is_asked(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli(*QUICK, "logger.mode=online") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nobody is logged in" in error


def test_a_torn_line_of_the_curves_is_left_out(tmp_path: Path) -> None:
    class Logged:
        seen: ClassVar[list[tuple[int, dict[str, float]]]] = []

        def log_metrics(self, values: dict[str, float], step: int) -> None:
            self.seen.append((step, values))

    log = tmp_path / "metrics.csv"
    log.write_text("epoch,step,train/nll\n0,0,1.5\n0,1,\n0,2,-")
    log_curves(Logged(), log)  # type: ignore[arg-type]
    assert Logged.seen == [(0, {"train/nll": 1.5})]
