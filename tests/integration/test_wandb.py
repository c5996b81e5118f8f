"""Offline W&B runs, read back with W&B's own reader: one per cell, finished, with its numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rad_lightning.tracking.wandb import log_curves
from rad_lightning.training import run as training_run
from support import HANG, SMALL_SYNTHETIC, Cli, command, nobody, only_run, result_of

pytestmark = pytest.mark.slow
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
            timeout=HANG,
        )
        if answer.returncode == 0 and '"type":"exit"' in answer.stdout:
            return answer.stdout
        time.sleep(0.5)
    raise AssertionError(f"the run never ended: {answer.stderr or answer.stdout[-500:]}")


def read(run: Path) -> dict[str, Any]:
    """The records of a run's only W&B folder, gathered by kind."""
    (folder,) = (run / "wandb").glob("offline-run-*")
    gathered: dict[str, Any] = {
        "summary": {}, "history": [], "files": [], "artifacts": {}, "exit": None, "folder": folder,
    }  # fmt: skip
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
        elif record["type"] == "artifact":
            gathered["artifacts"].setdefault(content["type"], []).append(content["manifest"])
        elif record["type"] == "exit":
            gathered["exit"] = content.get("exit_code", 0)
    return gathered


def test_every_cell_is_one_finished_run_with_its_numbers(cli: Cli) -> None:
    assert cli("-m", *QUICK, "noise=replace", "noise.ratio=0,0.5", "output=my_sweep") == 0
    runs = sorted(Path("my_sweep").glob("*-seed0-*"))
    assert len(runs) == 2
    names = set()
    for folder in runs:
        result = result_of(folder)
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
        assert found["run"]["job_type"] == "train"
        assert not found["run"].get("host")
        for key in ("category", "method", "head", "seed", "dataset"):
            assert found["summary"][key] == result[key]
        names.add(found["run"]["display_name"])
    assert names == {r.name for r in runs}


def last(found: dict[str, Any], key: str) -> dict[str, Any]:
    """The only history row that has ``key``."""
    (row,) = [h for h in found["history"] if any(k.split(".")[0] == key for k in h)]
    return row


def test_a_run_carries_its_files_its_scores_and_its_row_of_the_sweep(cli: Cli) -> None:
    assert cli(*QUICK, "noise=replace", "noise.ratio=0.3", "evaluation.worst=2") == 0
    run = only_run()
    result = result_of(run)
    found = read(run)
    (files,) = found["artifacts"]["run-files"]
    assert {f["path"]: Path(f["local_path"]).name for f in files["contents"]} == {
        name: name for name in ("config.yaml", "manifest.csv", "scores.csv")
    }
    assert all(Path(f["local_path"]).is_file() for f in files["contents"])
    row = last(found, "cell")
    table = json.loads((found["folder"] / "files" / row["cell.path"]).read_text())
    cell = dict(zip(table["columns"], table["data"][0], strict=True))
    assert cell["image_auroc"] == result["metrics"]["image_auroc"] == row["image_auroc"]
    assert cell["noise"] == 0.3 and cell["method"] == "plain" and cell["category"] == "weave"
    tested = [s for s in (run / "scores.csv").read_text().splitlines() if s.startswith("test,")]
    counted = sum(sum(row[f"scores/{kind}.values"]) for kind in ("normal", "anomalous"))
    assert counted == len(tested) > 0
    shown = {f for f in found["files"] if f.startswith("media/images/")}
    assert len(shown) == 2 and all("pictures/worst" in f for f in shown)
    assert all((found["folder"] / "files" / f).is_file() for f in shown)


def test_pictures_and_suspects_are_there_where_a_run_has_them(cli: Cli) -> None:
    settings = (
        *QUICK, "method=rad_robust", "data.train_images=10", "evaluation.pictures=1",
        "evaluation.worst=1",
    )  # fmt: skip
    assert cli(*settings) == 0
    run = only_run()
    found = read(run)
    shown = {f.removeprefix("media/images/pictures/").split("_")[0] for f in found["files"]}
    assert {"worst", "overlays", "histogram", "curves"} <= shown
    suspects = last(found, "suspects")
    table = json.loads((found["folder"] / "files" / suspects["suspects.path"]).read_text())
    ranked = (run / "suspects.csv").read_text().splitlines()[1:]
    assert [r[0] for r in table["data"]] == [line.split(",")[0] for line in ranked]
    (files,) = found["artifacts"]["run-files"]
    assert "suspects.csv" in {f["path"] for f in files["contents"]}

    assert cli(*settings, "logger.images=false", "resume=false") == 0
    assert not [f for f in read(run)["files"] if f.startswith("media/images/")]


def test_offline_nothing_goes_over_the_network(tmp_path: Path) -> None:
    """Not even what W&B's library tells its makers about itself, which it does by default."""
    asked: list[str] = []

    class Refuse(BaseHTTPRequestHandler):
        def parse_request(self) -> bool:
            asked.append(str(self.raw_requestline))
            return False

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{proxy.server_port}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    for name in ("http_proxy", "https_proxy"):
        kept |= {name: address, name.upper(): address}
    for name in ("no_proxy", "NO_PROXY"):
        kept.pop(name, None)
    try:
        command(tmp_path, *QUICK, env=kept)
        time.sleep(2)  # W&B's service process ends after ours
    finally:
        proxy.shutdown()
        proxy.server_close()
    run = only_run(tmp_path / "outputs" / "runs")
    assert list((run / "wandb").glob("offline-run-*"))
    assert asked == []


def test_a_failed_training_is_a_finished_run_marked_as_failed(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "fit_flow", broken)
        assert cli("-m", *QUICK, "seed=0,1", "output=out") == 1
    runs = sorted(Path("out").glob("*-seed*"))
    assert [read(r)["exit"] for r in runs] == [1, 1]
    assert cli("-m", *QUICK, "seed=0,1", "output=out") == 0
    assert [read(r)["exit"] for r in runs] == [0, 0]  # and the failed ones have made room


def test_an_interrupted_training_is_one_run_with_the_whole_curve(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rad_lightning.training.callbacks import StepBar

    settings = (*QUICK, "trainer.checkpoint_every=2")

    def stop_at_step_4(self: StepBar, trainer: Any, *_: object) -> None:
        if trainer.global_step == 4:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(StepBar, "on_train_batch_end", stop_at_step_4)
        cli(*settings)
    assert cli(*settings) == 0
    run = only_run()
    steps = [h["trainer/global_step"] for h in read(run)["history"] if "train/nll" in h]
    assert sorted(set(steps)) == [0, 1, 2, 3, 4, 5]


def test_online_without_a_login_is_one_line_and_nothing_is_asked(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nobody(monkeypatch, tmp_path)
    assert cli(*QUICK, "logger.mode=online") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "not logged in to W&B" in error


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.long)]
)
def test_a_lost_or_stopped_helper_costs_its_own_run_alone(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    from rad_lightning.tracking import guard
    from rad_lightning.training.callbacks import StepBar

    hit: list[int] = []

    def strike(self: StepBar, trainer: Any, *_: object) -> None:
        if not hit:
            helper = guard.helper()
            hit.append(helper.pid)
            os.kill(helper.pid, how)

    monkeypatch.setattr(guard, "PATIENCE", 5.0)
    monkeypatch.setattr(StepBar, "on_train_batch_end", strike)
    assert cli("-m", *QUICK, "seed=0,1", "output=out") == 0
    results = [result_of(run) for run in sorted(Path("out").glob("*-seed*"))]
    told = [[n for n in r["notes"] if "no complete W&B run" in n] for r in results]
    assert [len(notes) for notes in told] == [1, 0]
    assert read(sorted(Path("out").glob("*-seed1-*"))[0])["exit"] == 0


def test_a_torn_line_of_the_curves_is_left_out(tmp_path: Path) -> None:
    class Logged:
        seen: ClassVar[list[tuple[int, dict[str, float]]]] = []

        def log_metrics(self, values: dict[str, float], step: int) -> None:
            self.seen.append((step, values))

    log = tmp_path / "metrics.csv"
    log.write_text("epoch,step,train/nll\n0,0,1.5\n0,1,\n0,2,-")
    log_curves(Logged(), log)  # type: ignore[arg-type]
    assert Logged.seen == [(0, {"train/nll": 1.5})]
