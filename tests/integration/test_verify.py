"""``report verify=DIR``: finished runs against what they have recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import SMALL_SYNTHETIC, Cli, one_error, only_run, result_of, rewrite

pytestmark = pytest.mark.slow


def test_runs_are_checked_against_their_hashes_and_scores(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*SMALL_SYNTHETIC) == 0
    run = only_run()
    capsys.readouterr()
    for folder in (run, run.parent):
        assert cli("report", f"verify={folder}") == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "all as recorded" in out and "verified: 1 runs" in out

    scores = (run / "scores.csv").read_text()
    (run / "scores.csv").write_text(scores.replace("test,", "pool,", 1))
    assert cli("report", f"verify={run}") == 2
    line = one_error(capsys)
    assert "scores.csv: its sha256 is not the recorded one" in line and "resume=false" in line
    (run / "scores.csv").write_text(scores)

    result = result_of(run)
    changed = result["metrics"] | {"image_auroc": result["metrics"]["image_auroc"] - 0.01}
    rewrite(run / "result.json", result | {"metrics": changed})
    assert cli("report", f"verify={run}") == 2
    assert "image_auroc is" in one_error(capsys)
    rewrite(run / "result.json", result)

    (run / "manifest.csv").unlink()
    assert cli("report", f"verify={run}") == 2
    assert "manifest.csv: missing" in one_error(capsys)
    (run / "result.json").write_text("null")
    assert cli("report", f"verify={run}") == 2
    assert "result.json: it is not a JSON object" in one_error(capsys)


@pytest.mark.parametrize("settings", [(), ("sweep=a", "verify=b")])
def test_a_report_is_of_a_sweep_or_a_check(
    cli: Cli, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...]
) -> None:
    assert cli("report", *settings) == 2
    assert one_error(capsys) == "report needs either sweep=DIR or verify=DIR"


def test_a_folder_without_runs_is_one_line(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    for folder, line in (("empty", "no result.json there"), ("nowhere", "no such folder")):
        assert cli("report", f"verify={folder}") == 2
        assert line in one_error(capsys)
