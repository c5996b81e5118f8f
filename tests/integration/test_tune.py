"""A study as its user meets it: trials, going on, interruptions, refusals, what it finds."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from faults.stored import damages, tries
from rad_lightning.commands import tune
from rad_lightning.common.errors import UserError
from rad_lightning.training.job import Job
from support import SMALL, SMALL_SYNTHETIC, Cli, one_error, only_run, result_of, rows_of

pytestmark = pytest.mark.slow
STUDY = Path("outputs/tune")
FAST = ("method.steps=2", "method.meta.tasks=2", "method.meta.images=2")
TUNE = ("tune", *SMALL_SYNTHETIC, *FAST)
DIVERGES = ("space.lr.low=1e29", "space.lr.high=1e30")


def table(study: Path = STUDY) -> list[dict[str, str]]:
    return rows_of(study / "study.csv")


def numbers(study: Path = STUDY) -> list[dict[str, str]]:
    """The finished trials without what differs from call to call."""
    rows = [row for row in table(study) if row["state"] in ("complete", "pruned")]
    return [{k: v for k, v in row.items() if k not in ("trial", "seconds")} for row in rows]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that were trained."""
    names: list[str] = []
    really = tune.run_job

    def counted(job: Job, progress: Any) -> Any:
        names.append(job.run.path.name)
        return really(job, progress)

    monkeypatch.setattr(tune, "run_job", counted)
    return names


def test_a_study_goes_on_and_is_the_same_in_one_go(
    cli: Cli, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*TUNE, "trials=3") == 0
    out = capsys.readouterr().out
    assert len(trained) == 3
    assert out.count("held-out NLL") == 4 and "trial 2  held-out NLL" in out  # one line per trial
    assert cli(*TUNE, "trials=3") == 0
    assert len(trained) == 3 and "best  trial" in capsys.readouterr().out
    assert cli(*TUNE, "trials=5", "progress=false") == 0
    assert len(trained) == 5 and capsys.readouterr().out == ""
    rows = table()
    assert [row["state"] for row in rows] == ["complete"] * 5
    for row in rows:
        result = result_of(STUDY / "runs" / row["run"])
        assert float(row["value"]) == result["held_out_nll"]
        l2, meta = result["config"]["method"]["l2"], result["config"]["method"]["meta"]
        assert float(row["method.l2.gamma"]) == l2["gamma"] and l2["form"] == "affine"
        assert int(row["method.meta.inner_steps"]) == meta["inner_steps"] in (1, 2, 3)
        assert 0.001 <= meta["inner_lr"] <= 1
    # No pickle in it: JSON lines, text, and the runs.
    for line in (STUDY / "journal.jsonl").read_text().splitlines():
        json.loads(line)
    names = {path.name for path in STUDY.iterdir()}
    assert names <= {"journal.jsonl", "study.csv", "best.yaml", "runs", ".lock"}
    # Done trainings are read again where the journal is lost.
    (STUDY / "journal.jsonl").unlink()
    before = numbers()
    assert cli(*TUNE, "trials=5") == 0
    assert len(trained) == 5 and numbers() == before


def test_an_interrupted_trial_is_done_again(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*TUNE, "trials=3", "study=outputs/whole") == 0
    assert cli(*TUNE, "trials=1") == 0

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tune, "run_job", interrupted)
        assert cli(*TUNE, "trials=3") == 130
    assert "run the same command again" in capsys.readouterr().err
    # And one that a kill -9 left behind, in the middle of a record.
    study = tune.open_study(STUDY / "journal.jsonl", FileLock(STUDY / ".lock"))
    study.ask()
    with (STUDY / "journal.jsonl").open("a") as journal:
        journal.write('{"op_code":4,"wor')
    assert cli(*TUNE, "trials=3") == 0
    states = ["complete", "fail", "fail", "complete", "complete"]
    assert [row["state"] for row in table()] == states
    assert numbers() == numbers(Path("outputs/whole"))


def test_a_trial_of_another_process_counts(
    cli: Cli, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*TUNE, "trials=1") == 0
    study = tune.open_study(STUDY / "journal.jsonl", FileLock(STUDY / ".lock"))
    number = study.ask().number
    with FileLock(STUDY / f".trial{number}.lock"):
        assert cli(*TUNE, "trials=2") == 0
    assert len(trained) == 1 and "1 trials in other processes" in capsys.readouterr().out
    assert [row["state"] for row in table()] == ["complete", "running"]


def test_settings_that_fail_are_a_pruned_trial(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*TUNE, *DIVERGES, "trials=2", "study=outputs/none") == 2
    assert "no trial has a value, the last one: training diverged" in capsys.readouterr().err
    assert [row["state"] for row in table(Path("outputs/none"))] == ["pruned"] * 2
    # Settings that each may be, but not together, are no end either.
    crossed = (
        *("method.l2.form=log_linear", "method.l2.lambda_max=1000", "~space.lambda_0"),
        *("space.gamma.key=method.l2.lambda_min", "space.gamma.low=100", "space.gamma.high=1000"),
        "+space={top: {key: method.l2.lambda_max, low: 200, high: 1100}}",
    )
    assert cli(*TUNE, *crossed, "trials=6") == 0
    states = [row["state"] for row in table()]
    assert {"complete", "pruned"} == set(states) and len(states) == 6
    assert "pruned: method.l2.lambda_min" in capsys.readouterr().out


def test_what_is_wrong_with_every_trial_ends_the_study(
    cli: Cli, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("data=folder", f"data.root={photos}", "backbone.weights=untrained")
    command = ("tune", *SMALL, *FAST, *data, "trials=1")
    whole = (photos / "good" / "0.png").read_bytes()
    (photos / "good" / "0.png").write_bytes(b"no image")
    assert cli(*command) == 2
    assert "0.png" in capsys.readouterr().err
    (photos / "good" / "0.png").write_bytes(whole)
    shutil.rmtree(STUDY)  # the images are others now
    assert cli(*command) == 0


def test_the_settings_found_can_be_passed_on(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(*TUNE, "trials=2", "method.grad_clip=0.5") == 0
    lines = capsys.readouterr().out.splitlines()
    (settings,) = [
        shlex.split(line.split("-m rad_lightning ")[1]) for line in lines if "-m rad_" in line
    ]
    assert settings[-1] == "+tune=best"
    best = min(float(row["value"]) for row in table())
    data = (*SMALL_SYNTHETIC[:3], *(s for s in SMALL if not s.startswith("method.")))
    assert cli(*settings, *data, "output=outputs/best") == 0
    result = result_of(only_run("outputs/best"))
    assert result["held_out_nll"] == best and result["config"]["method"]["grad_clip"] == 0.5


def test_no_label_and_no_test_image_has_a_say(cli: Cli, photos: Path) -> None:
    good = [f"good/{i}.png" for i in range(6)]
    tests = {
        "as_is": {"good/5.png": 0, "bad/0.png": 1},
        "permuted": {"good/5.png": 1, "bad/0.png": 0},
        "others": {"bad/1.png": 0, "bad/2.png": 1},
    }
    for name, labels in tests.items():
        rows = [(path, 0, "train") for path in good[:5]]
        rows += [(path, label, "test") for path, label in labels.items()]
        lines = ["path,label,split", *(",".join(map(str, row)) for row in rows)]
        (photos / "set.csv").write_text("\n".join(lines) + "\n")
        data = ("data=csv", f"data.csv={photos / 'set.csv'}", "backbone.weights=untrained")
        assert cli("tune", *SMALL, *FAST, *data, "trials=2", f"study=outputs/{name}") == 0
    found = {}
    for name in tests:
        rows = table(Path("outputs") / name)
        found[name] = [{k: v for k, v in r.items() if k not in ("seconds", "run")} for r in rows]
    assert found["as_is"] == found["permuted"] == found["others"]
    runs = [{row["run"] for row in table(Path("outputs") / name)} for name in tests]
    assert len(set.union(*runs)) == 6  # they were other runs, and so another study


def test_a_folder_of_another_study_is_refused(
    cli: Cli, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*TUNE, "trials=1") == 0
    for other in ("seed=1", "space.lr.high=1e-1"):
        assert cli(*TUNE, "trials=2", other) == 2
        assert "outputs/tune: holds a study of other settings" in capsys.readouterr().err
    assert len(trained) == 1
    assert cli(*TUNE, "trials=1", "trainer.accelerator=cpu") == 0  # of the same numbers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("trials=0",), "trials = 0: use a value >= 1"),
        (
            ("method.holdout=0", "method.l2.uncertainty=tail_weight"),
            "method.holdout = 0: trials are",
        ),
        (("space.lr.key=method.lrr",), "space.lr: 'method.lrr' cannot be tuned: choose one of "),
        (("space.lr.key=head.channels",), "space.lr: 'head.channels' cannot be tuned"),
        (("space.lr.key=method.weight_decay", "space.lr.low=-1", "space.lr.log=false"), "space.lr"),
        (("space.lr.low=1",), "space.lr: low = 1: use a value < high = 0.01"),
        (("space.lr.low=0",), "space.lr: low = 0 with log=true: use a value > 0"),
        (("space.gamma.low=-1",), "space.gamma: method.l2.gamma = -1.0: use a value >= 0"),
        (("space.inner_steps.high=2.5",), "high = 2.5: use whole numbers"),
        (("space.inner_steps.int=false",), "method.meta.inner_steps takes whole numbers"),
        (("space.gamma.key=method.lr",), "space.gamma: method.lr is the key of space.lr too"),
        (("method.l2.form=log_linear",), "method.l2.lambda_0 does nothing with method.l2.form=log"),
        (("method=plain",), "method.meta.inner_lr does nothing with"),
        (("+space={x: {low: 1, high: 2}}",), "space.x.key: a value is needed"),
        (("+space={x: {key: head.hidden, lo: 1}}",), "unknown key 'space.x.lo'"),
        (("~space",), "space = {}: give at least one"),
        (("trial=3",), "'trial'"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(
    cli: Cli, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...], message: str
) -> None:
    assert cli(*TUNE, *settings) == 2
    assert message in one_error(capsys)
    assert not STUDY.exists()


def test_a_file_that_is_no_study_is_one_line(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    STUDY.mkdir(parents=True)
    (STUDY / "journal.jsonl").write_text("no study\nat all\n")
    assert cli(*TUNE) == 2
    assert "journal.jsonl: not a study that can be read" in capsys.readouterr().err


def test_a_damaged_journal_is_one_line_or_the_same_study(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*TUNE, "trials=2") == 0
    journal = STUDY / "journal.jsonl"
    whole, wanted = journal.read_bytes(), {row["value"] for row in table()}
    for seed in range(tries()):
        name, content = damages(whole, np.random.default_rng(seed))
        journal.write_bytes(content)
        try:
            study = tune.open_study(journal, FileLock(STUDY / ".lock"))
        except UserError as error:
            assert "\n" not in str(error) and "journal.jsonl" in str(error), (seed, name)
            continue
        values = {repr(t.value) for t in study.get_trials() if t.value is not None}
        assert values <= wanted, (seed, name)


def test_without_optuna_it_says_what_to_install(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "rad_lightning.commands.tune")
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert cli(*TUNE) == 2
    assert capsys.readouterr().err.strip() == (
        "error: tune needs Optuna: pip install 'rad-lightning[hpo]'"
    )
