"""A sweep as its user meets it: the plan, cells done once, failures, interruptions, the report."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from PIL import Image

from rad_lightning.common.errors import UserError
from rad_lightning.training import job
from rad_lightning.training import run as training_run
from support import HANG, SMALL, SMALL_SYNTHETIC, Cli, rows_of, started

pytestmark = pytest.mark.slow
QUICK = (
    *SMALL_SYNTHETIC,
    "data.test_images_per_defect=2",
    "evaluation.pixel=false",
)
SWEEP = ("-m", *QUICK, "noise=replace", "output=sweep")
GRID = ("noise.ratio=0,0.5", "method=plain,oracle_clean")


def results(folder: str = "sweep") -> dict[str, dict[str, Any]]:
    return {p.parent.name: json.loads(p.read_text()) for p in Path(folder).glob("*/result.json")}


def stamps() -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in Path("sweep").glob("*/result.json")}


def test_a_sweep_plans_runs_and_reports_then_has_nothing_to_do(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*SWEEP, *GRID) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "plan 4 cells: 0 done, 4 to go" in out
    assert "synthetic/weave, replace, share of training images: 0 % -> 0 % (0 of 6); " in out
    assert "50 % -> 50 % (3 of 6)" in out
    assert "4/4 synthetic/weave patch" in out
    found = results()
    assert {(r["method"], r["noise"]["requested"]) for r in found.values()} == {
        (method, ratio) for method in ("plain", "oracle_clean") for ratio in (0.0, 0.5)
    }
    # Clean images give the oracle nothing to remove.
    clean = [r["metrics"]["image_auroc"] for r in found.values() if not r["noise"]["injected"]]
    assert clean[0] == clean[1]
    # Of the ten anomalies five are tested on; of the five others, three are injected.
    assert sum(r["features"]["computed"] for r in found.values()) == 6 + 3 + 5 + 3
    plan = json.loads(Path("sweep/sweep.json").read_text())
    assert sorted(c["run"] for c in plan["cells"]) == sorted(found)
    assert "-m" in plan["command"] and "output=sweep" in plan["command"]
    assert Path("sweep/report/index.html").is_file()
    assert len(rows_of(Path("sweep/report/cells.csv"))) == 4

    before = stamps()
    assert cli(*SWEEP, *GRID) == 0
    assert "plan 4 cells: 4 done, 0 to go" in " ".join(capsys.readouterr().out.split())
    assert stamps() == before
    assert cli(*SWEEP, *GRID, "resume=false") == 0
    assert not set(stamps().values()) & set(before.values())


def test_a_sweep_shows_how_uncertain_its_methods_were(cli: Cli) -> None:
    assert cli(*SWEEP, "noise.ratio=0,0.5", "method=plain,rad", "evaluation.pictures=1") == 0
    for run, result in results().items():
        adaptive = result["method"] == "rad"
        curves = result["curves"]
        names = {"uncertainty", "lambda", "weight_penalty"} if adaptive else set()
        assert set(curves) == {"step", "nll"} | names
        assert ("uncertainty" in result) == adaptive
        assert not adaptive or curves["step"] == list(range(6))
        assert not adaptive or 0 <= result["uncertainty"] <= 1
        with Image.open(Path("sweep") / run / "curves.png") as picture:
            assert (picture.height > picture.width) == adaptive
    page = Path("sweep/report/index.html").read_text()
    assert 'id="uncertainty"' in page and 'href="#uncertainty"' in page
    ends = {
        row["ratio"]: float(row["uncertainty"])
        for row in rows_of(Path("sweep/report/uncertainty.csv"))
    }
    assert sorted(ends.values()) == sorted(
        r["uncertainty"] for r in results().values() if r["method"] == "rad"
    )
    assert set(ends) == {"0.0", "0.5"}


def test_a_changed_setting_is_a_new_cell(cli: Cli) -> None:
    assert cli(*SWEEP, "noise.ratio=0.5") == 0
    assert cli(*SWEEP, "noise.ratio=0.5", "method.lr=0.001") == 0
    assert cli(*SWEEP, "noise.ratio=0.5", "progress=false", "evaluation.worst=1") == 0
    assert len(results()) == 2


def test_a_failing_cell_is_recorded_and_the_others_go_on(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = training_run.fit_flow

    def breaks_on_noise(head: Any, samples: Any, held: Any, cfg: Any, *rest: Any) -> Any:
        if cfg.noise.ratio and cfg.method.name == "plain":
            raise RuntimeError("no memory\nleft")
        return whole(head, samples, held, cfg, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "fit_flow", breaks_on_noise)
        assert cli(*SWEEP, *GRID) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "1 of 4 cells have no result: RuntimeError: no memory left" in captured.err
    assert "FAILED: RuntimeError: no memory left" in captured.out
    assert len(results()) == 3
    (failure,) = Path("sweep").glob("*/failure.json")
    content = json.loads(failure.read_text())
    assert content["cell"]["ratio"] == 0.5 and content["cell"]["method"] == "plain"
    assert "breaks_on_noise" in content["traceback"]
    assert "no memory left" in Path("sweep/report/index.html").read_text()

    assert cli(*SWEEP, *GRID) == 0
    assert len(results()) == 4 and not failure.exists()
    assert "no memory left" not in Path("sweep/report/index.html").read_text()


def test_an_impossible_level_is_named_before_the_others_run(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*SWEEP, "noise.ratio=0,0.6") == 1
    captured = capsys.readouterr()
    assert "plan 2 cells: 0 done, 1 to go, 1 impossible" in " ".join(captured.out.split())
    assert "largest feasible one is noise.max_ratio = 0.5" in captured.err
    assert len(results()) == 1
    assert "tries them again" not in captured.err
    assert cli(*SWEEP, "noise.ratio=0.6,0.7") == 2  # nothing to run: an ordinary mistake


def test_an_interrupted_sweep_goes_on_where_it_stopped(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = training_run.fit_flow

    def stops_at_the_oracle(head: Any, samples: Any, held: Any, cfg: Any, *rest: Any) -> Any:
        if cfg.method.name == "oracle_clean":
            raise KeyboardInterrupt
        return whole(head, samples, held, cfg, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "fit_flow", stops_at_the_oracle)
        assert cli(*SWEEP, "noise.ratio=0.5", "method=plain,oracle_clean") == 130
    assert "interrupted with 1 cells to go" in capsys.readouterr().out
    before = stamps()
    assert len(before) == 1
    assert cli(*SWEEP, "noise.ratio=0.5", "method=plain,oracle_clean") == 0
    assert before.items() < stamps().items() and len(stamps()) == 2


def test_a_cell_that_another_sweep_is_at_is_left_to_it(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*SWEEP, "noise.ratio=0.5") == 0
    (run,) = (p.parent for p in Path("sweep").glob("*/result.json"))
    (run / "result.json").unlink()
    with FileLock(run / ".lock"):
        assert cli(*SWEEP, "noise.ratio=0,0.5") == 1
    assert "is being run by another process, or was killed" in capsys.readouterr().err
    assert not (run / "failure.json").exists()


def test_two_outputs_in_one_sweep_are_refused(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(*SWEEP, "output=a,b") == 2
    assert "use the same folder for all" in capsys.readouterr().err


def test_every_launch_of_a_sweep_gives_the_same_manifest(cli: Cli) -> None:
    assert cli(*SWEEP, "noise.ratio=0.5", "seed=0,1") == 0
    first = {p: p.read_bytes() for p in Path("sweep").glob("*/manifest.csv")}
    assert len(set(first.values())) == 2
    assert cli(*SWEEP, "noise.ratio=0.5", "seed=0,1", "resume=false") == 0
    assert {p: p.read_bytes() for p in Path("sweep").glob("*/manifest.csv")} == first


def test_ctrl_c_in_a_training_ends_the_sweep_and_says_so(tmp_path: Path) -> None:
    with started(tmp_path, *SWEEP, "seed=0,1", "method.steps=100000") as sweep:
        deadline = time.monotonic() + HANG
        while not list(tmp_path.glob("sweep/*/metrics.csv")) and time.monotonic() < deadline:
            assert sweep.poll() is None
            time.sleep(0.2)  # its first line is written once the training runs
        sweep.send_signal(signal.SIGINT)
        out, err = sweep.communicate(timeout=HANG)
    assert sweep.returncode == 130, out + err
    assert "interrupted with 2 cells to go" in out
    assert "run the same command again" in err and "Traceback" not in err


def test_a_cut_result_is_no_result(cli: Cli) -> None:
    assert cli(*SWEEP, "noise.ratio=0,0.5") == 0
    path = next(Path("sweep").glob("*/result.json"))
    whole = json.loads(path.read_text())
    path.write_text(path.read_text()[:100])
    assert cli(*SWEEP, "noise.ratio=0,0.5") == 0
    assert json.loads(path.read_text())["metrics"] == whole["metrics"]


def test_cells_that_no_table_could_tell_apart_are_refused(
    cli: Cli, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(photos, tmp_path / "other" / "photos")
    (other / "good" / "0.png").unlink()
    roots = f"data.root={photos},{other}"
    assert cli("-m", "data=folder", roots, *SMALL, "backbone.weights=untrained") == 2
    assert "two cells are the same to a report: data.root=" in capsys.readouterr().err


def test_a_sweep_of_unlabelled_images_scores_them(
    cli: Cli, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ("data=folder", f"data.root={photos / 'good'}", "backbone.weights=untrained")
    assert cli("-m", *folder, *SMALL, "seed=0,1", "data.test_fraction=0.4") == 0
    assert "no report" in capsys.readouterr().out
    assert len(list(Path("outputs/runs").glob("*/scores.csv"))) == 2


def test_odd_category_names_are_found(cli: Cli, tmp_path: Path) -> None:
    names = ["a, b", "it's", "back\\slash", "x${seed}"]
    for number, name in enumerate(names):
        for split, count in (("train/good", 4), ("test/good", 2), ("test/hole", 2)):
            for i in range(count):
                file = tmp_path / "tree" / name / split / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (64, 64), (i, number, len(split))).save(file)
    data = ("data=mvtec", f"data.root={tmp_path / 'tree'}", "data.category=all")
    assert cli("-m", *data, *SMALL, "backbone.weights=untrained", "method.steps=1") == 0
    assert {r["category"] for r in results("outputs/runs").values()} == set(names)


def test_weights_that_cannot_be_had_are_asked_for_once(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def no_network(*arguments: object) -> None:
        asked.append(arguments)
        raise UserError("the hub does not answer")

    monkeypatch.setattr(job, "FrozenBackbone", no_network)
    assert cli(*SWEEP, "seed=0,1,2") == 2
    assert len(asked) == 1
    assert capsys.readouterr().err == "error: the hub does not answer\n"
