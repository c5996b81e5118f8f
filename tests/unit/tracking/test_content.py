"""What goes into a W&B run, worked out from a result and the files beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rad_lightning.common.histograms import HISTOGRAM_END
from rad_lightning.tracking import content

Result = dict[str, Any]


def rows(*scores: tuple[str, str, float]) -> list[dict[str, str]]:
    return [{"role": role, "label": label, "score": repr(s)} for role, label, s in scores]


def test_the_summary_is_flat_and_has_what_a_dashboard_sorts_by(result: Result) -> None:
    found = content.summary(result)
    assert not [key for key, value in found.items() if isinstance(value, dict | list)]
    expected = {
        "image_auroc": 0.875,
        "image_auroc/blob": 1.0,
        "noise/requested": 0.3,
        "noise/achieved": 0.25,
        "category": "gear",
        "method": "robust",
        "head": "patch",
        "seed": 3,
        "trust/suspects": 2,
        "uncertainty": 0.25,
        "threshold": 2.0,
        "seconds/training": 1.5,
    }
    assert {key: found[key] for key in expected} == expected


def test_histograms_count_test_scores_by_label_in_common_bins() -> None:
    found = content.score_histograms(
        rows(
            ("test", "0", 0.0), ("test", "0", 1.0), ("test", "1", 4.0), ("train", "0", 3.0),
            ("injected", "1", 3.0),
        ),
        threshold=2.0,
    )  # fmt: skip
    assert set(found) == {"scores/normal", "scores/anomalous"}
    normal, anomalous = found["scores/normal"], found["scores/anomalous"]
    assert normal.bins == anomalous.bins == np.linspace(0, 4, content.BINS + 1).tolist()
    assert sum(normal.histogram) == 2 and sum(anomalous.histogram) == 1
    assert normal.histogram[0] == 1 and anomalous.histogram[-1] == 1


def test_a_score_far_beyond_the_threshold_does_not_stretch_the_bins() -> None:
    found = content.score_histograms(
        rows(("test", "0", 0.0), ("test", "0", 1.0), ("test", "1", 1e9)), threshold=2.0
    )
    end = 2.0 + HISTOGRAM_END * 2.0
    assert found["scores/anomalous"].bins[-1] == end
    assert found["scores/anomalous"].histogram[-1] == 1


def test_without_tested_images_there_is_no_histogram() -> None:
    assert content.score_histograms(rows(("train", "0", 1.0)), threshold=2.0) == {}


def test_a_run_without_labels_is_no_point_of_a_curve_but_still_a_row(result: Result) -> None:
    unlabelled = result | {"metrics": {}}
    assert content.point(unlabelled) == {}
    assert content.point(result) == {"image_auroc": 0.875, "noise/requested": 0.3}
    table = content.tables(Path("nowhere"), unlabelled)["cell"]
    assert dict(zip(table.columns, table.data[0], strict=True))["image_auroc"] is None


def test_pictures_that_a_run_did_not_draw_are_not_there(tmp_path: Path) -> None:
    assert content.pictures(tmp_path, []) == {}
    for name in ("overlays_worst.png", "overlays_best.png", "worst_0.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    shown = {
        "file": "worst_0.jpg", "path": "bad/3.png", "label": 1, "defect_type": "scratch",
        "score": 1.0, "flagged": False, "margin": -1.25,
    }  # fmt: skip
    found = content.pictures(tmp_path, [shown])
    assert set(found) == {"pictures/worst", "pictures/overlays"}
    captions = [image._caption for image in found["pictures/overlays"]]
    assert captions == ["overlays_worst", "overlays_best"]
    assert content.caption(shown) == "bad/3.png (scratch): passed, margin -1.25"


def test_the_artifact_holds_the_files_that_there_are(tmp_path: Path) -> None:
    for name in ("config.yaml", "scores.csv"):
        (tmp_path / name).write_text(name)
    (tmp_path / "last.ckpt").write_text("weights")
    found = content.artifact(tmp_path)
    assert found.type == "run-files"
    assert set(found.manifest.entries) == {"config.yaml", "scores.csv"}
    entry = found.manifest.entries["scores.csv"]
    assert entry.local_path == str(tmp_path / "scores.csv")  # not copied


@pytest.mark.parametrize("count", [3, 2 * content.SUSPECTS])
def test_the_table_of_suspects_starts_with_the_most_suspicious(
    tmp_path: Path, result: Result, count: int
) -> None:
    lines = [f"good/{i}.png,{1 - i / 1000},{int(i < 2)},train,{i}" for i in range(count)]
    (tmp_path / "suspects.csv").write_text(
        "\n".join(["path,suspicion,suspect,role,group", *lines]) + "\n"
    )
    table = content.tables(tmp_path, result)["suspects"]
    assert len(table.data) == min(count, content.SUSPECTS)
    assert table.data[0] == ["good/0.png", 1.0, True, "train"]
    assert [row[2] for row in table.data[:3]] == [True, True, False]
    json.dumps(table.data)
