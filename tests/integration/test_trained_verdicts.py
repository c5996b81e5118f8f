"""A training that follows a person's verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rad_lightning.data.verdicts import Review, Verdict, write_verdicts
from support import SMALL, SMALL_SYNTHETIC, Cli, one_error, only_run, result_of, rows_of

NOISY = (
    *SMALL_SYNTHETIC,
    "data.test_images_per_defect=4",
    "noise=add",
    "noise.ratio=0.5",
    "method.trust.steps=4",
)


def run_of(cli: Cli, output: str, *settings: str) -> Path:
    assert cli(*NOISY, f"output={output}", *settings) == 0
    return only_run(output)


def trained(run: Path) -> dict[str, dict[str, str]]:
    """The rows of the manifest that are trained on, by path."""
    rows = {row["path"]: row for row in rows_of(run / "manifest.csv")}
    kinds = ("train", "injected", "reviewed_anomaly", "reviewed_good")
    return {path: row for path, row in rows.items() if row["role"] in kinds}


def about(run: Path, path: str, verdict: Verdict) -> Review:
    rows = {row["path"]: row for row in rows_of(run / "manifest.csv")}
    return Review(path, rows[path]["sha256"], verdict, 1, 0.9, "")


@pytest.fixture
def noisy(cli: Cli) -> Path:
    return run_of(cli, "before", "method=plain")


def chosen(run: Path) -> tuple[list[str], list[str]]:
    rows = trained(run)
    return tuple(
        sorted(p for p, row in rows.items() if row["role"] == role)
        for role in ("injected", "train")
    )  # type: ignore[return-value]


@pytest.mark.parametrize("method", ["plain", "robust", "rad", "trimmed"])
def test_confirmed_anomalies_are_not_learned_as_normal(cli: Cli, noisy: Path, method: str) -> None:
    injected, normal = chosen(noisy)
    bad = [about(noisy, path, Verdict.MISLABELLED) for path in injected]
    write_verdicts(Path("v.csv"), [*bad, about(noisy, normal[0], Verdict.GOOD)])
    run = run_of(cli, "after", f"method={method}", "verdicts=v.csv")
    roles = {path: row["role"] for path, row in trained(run).items()}
    assert [p for p, r in roles.items() if r == "reviewed_anomaly"] == injected
    assert [p for p, r in roles.items() if r == "reviewed_good"] == [normal[0]]
    result = result_of(run)
    counts = {"good": 1, "mislabelled": len(injected), "left_out_with_their_part": 0}
    assert result["reviewed"] == counts
    assert result["trust"]["contamination"]["low"] >= len(injected) / len(roles) - 1e-9 or (
        method in ("rad", "trimmed")  # left out before the estimate is made
    )
    held = {r["path"] for r in rows_of(run / "scores.csv") if r["held_out"] == "1"}
    assert not held & set(injected)
    ranked = run / "suspects.csv"
    assert ranked.is_file() == (method == "robust") and "nan" not in (
        ranked.read_text() if ranked.is_file() else ""
    )
    curves = (run / "metrics.csv").read_text()
    assert ("train/exposure" in curves) == (method in ("plain", "robust"))


def test_the_other_photos_of_a_mislabelled_part_are_left_out(
    cli: Cli, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"good/{i}.png,normal,part{i // 2},train" for i in range(6)]
    rows += [f"bad/{i}.png,defect,bad{i},test" for i in range(3)]
    (photos / "parts.csv").write_text("\n".join(["path,label,group,split", *rows]) + "\n")
    settings = (
        "data=csv", f"data.csv={photos / 'parts.csv'}", "backbone.weights=untrained",
        "method.trust.steps=4", *SMALL,
    )  # fmt: skip
    assert cli(*settings, "output=before") == 0
    said = about(only_run("before"), "good/2.png", Verdict.MISLABELLED)
    write_verdicts(Path("v.csv"), [said])
    assert cli(*settings, "output=after", "verdicts=v.csv", "method=robust") == 0
    assert "1 other image of mislabelled parts: left out" in capsys.readouterr().out
    counts = {"good": 0, "mislabelled": 1, "left_out_with_their_part": 1}
    assert result_of(only_run("after"))["reviewed"] == counts
    held = {r["path"] for r in rows_of(only_run("after") / "scores.csv") if r["held_out"] == "1"}
    assert not held & {"good/2.png", "good/3.png"}


def test_the_manifest_repeats_a_training_with_verdicts(cli: Cli, noisy: Path) -> None:
    injected, normal = chosen(noisy)
    verdicts = [
        about(noisy, injected[0], Verdict.MISLABELLED),
        about(noisy, normal[0], Verdict.GOOD),
        about(noisy, normal[1], Verdict.UNSURE),
    ]
    write_verdicts(Path("v.csv"), verdicts)
    run = run_of(cli, "after", "verdicts=v.csv", "method=robust")
    again = ("noise=manifest", f"noise.manifest={run / 'manifest.csv'}", "noise.ratio=0")
    assert cli(*NOISY, *again, "output=again", "method=robust") == 0
    repeated = only_run("again")
    assert (repeated / "manifest.csv").read_bytes() == (run / "manifest.csv").read_bytes()
    assert (repeated / "scores.csv").read_bytes() == (run / "scores.csv").read_bytes()
    # A person may change their mind: the file counts.
    write_verdicts(Path("v.csv"), [about(run, injected[0], Verdict.UNSURE)])
    assert cli(*NOISY, *again, "output=changed", "method=robust", "verdicts=v.csv") == 0
    roles = {path: row["role"] for path, row in trained(only_run("changed")).items()}
    assert roles[injected[0]] == "injected" and roles[normal[0]] == "reviewed_good"


def test_test_images_are_never_trained_on(cli: Cli, noisy: Path) -> None:
    tested = [r["path"] for r in rows_of(noisy / "manifest.csv") if r["role"] == "test"]
    write_verdicts(Path("v.csv"), [about(noisy, p, Verdict.GOOD) for p in tested[:2]])
    run = run_of(cli, "after", "method=plain", "verdicts=v.csv")
    assert (run / "manifest.csv").read_bytes() == (noisy / "manifest.csv").read_bytes()
    assert (run / "scores.csv").read_bytes() == (noisy / "scores.csv").read_bytes()
    assert any("2 verdicts are about images not trained on" in n for n in result_of(run)["notes"])


def test_a_test_image_called_mislabelled_is_not_tested_on_as_normal(cli: Cli, noisy: Path) -> None:
    tested = [r for r in rows_of(noisy / "manifest.csv") if r["role"] == "test"]
    normal = [r["path"] for r in tested if r["label"] == "0"]
    defect = next(r["path"] for r in tested if r["label"] == "1")
    said = [about(noisy, path, Verdict.MISLABELLED) for path in (normal[0], defect)]
    write_verdicts(Path("v.csv"), said)
    # Into the same folder: it is another run.
    assert cli(*NOISY, "output=before", "method=plain", "verdicts=v.csv") == 0
    (run,) = set(Path("before").glob("*-seed0-*")) - {noisy}
    roles = {r["path"]: r["role"] for r in rows_of(run / "manifest.csv")}
    assert roles[normal[0]] == "unused" and roles[defect] == roles[normal[1]] == "test"
    assert normal[0] not in {r["path"] for r in rows_of(run / "scores.csv")}
    notes = result_of(run)["notes"]
    assert "1 test image is mislabelled by the verdicts: not tested on" in notes
    assert "1 verdict is about images not trained on: not used" in notes


def test_verdicts_on_other_images_are_refused(
    cli: Cli, noisy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_verdicts(Path("v.csv"), [Review("gone.png", "ab" * 32, Verdict.GOOD, 1, 0.9, "")])
    capsys.readouterr()
    assert cli(*NOISY, "verdicts=v.csv") != 0
    message = one_error(capsys)
    assert "v.csv: gone.png is not in" in message and "remove the line" in message


def test_nothing_left_to_learn_from_is_one_line(
    cli: Cli, noisy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = trained(noisy)
    write_verdicts(Path("v.csv"), [about(noisy, p, Verdict.MISLABELLED) for p in rows])
    capsys.readouterr()
    assert cli(*NOISY, "verdicts=v.csv") != 0
    assert "nothing is left to learn from" in one_error(capsys)


def test_a_simulated_reviewer_judges_as_many_as_told(cli: Cli) -> None:
    run = run_of(cli, "some", "method=robust", "review.budget=3")
    rows = trained(run)
    judged = {p: row for p, row in rows.items() if row["role"].startswith("reviewed")}
    assert len(judged) == 3
    assert all(
        (row["role"] == "reviewed_anomaly") == (row["label"] == "1") for row in judged.values()
    )
    wrong = trained(run_of(cli, "wrong", "method=robust", "review.budget=3", "review.error=1"))
    said = {p: row["role"] for p, row in wrong.items() if row["role"].startswith("reviewed")}
    assert said.keys() == judged.keys()
    assert all(said[p] != row["role"] for p, row in judged.items())


def test_a_reviewer_needs_a_ranking(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(*SMALL_SYNTHETIC, "method=plain", "review.budget=3") != 0
    assert "ranks nothing" in one_error(capsys)
    assert cli(*SMALL_SYNTHETIC, "method=robust", "review.error=0.1") != 0
    assert "needs review.budget" in one_error(capsys)
