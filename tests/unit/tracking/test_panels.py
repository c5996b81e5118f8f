"""The panels of the dashboards show what runs log: another key would be an empty panel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import wandb_workspaces.reports.v2 as wr
from PIL import Image

from rad_lightning.evaluation.curves import COLUMNS
from rad_lightning.tracking import content
from rad_lightning.tracking.dashboards import TABLE, build, sections


def panels(kind: type) -> list[Any]:
    return [p for s in sections("me") for p in s.panels.values() if isinstance(p, kind)]


def test_curves_and_points_are_logged(result: dict[str, Any]) -> None:
    point = content.point(result)
    for plot in panels(wr.LinePlot):
        known = set(point) if plot.x in point else set(COLUMNS.values())
        assert set(plot.y) <= known
    drawn = {key for plot in panels(wr.LinePlot) for key in plot.y}
    assert {"train/nll", "train/uncertainty", "train/lambda", "image_auroc"} <= drawn


def test_pictures_are_logged(tmp_path: Path) -> None:
    for name in ("overlays_worst.png", "histogram.png", "curves.png", "worst_0.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    shown = {"file": "worst_0.jpg", "path": "x", "defect_type": "y", "flagged": True, "margin": 1.0}
    logged = set(content.pictures(tmp_path, [shown]))
    asked = {key for browser in panels(wr.MediaBrowser) for key in browser.media_keys}
    assert asked and asked <= logged


def test_the_runs_table_and_the_parallel_axes_are_in_the_summary(result: dict[str, Any]) -> None:
    summary = content.summary(result)
    assert set(TABLE) <= set(summary)
    for plot in panels(wr.ParallelCoordinatesPlot):
        assert {column.metric.name for column in plot.columns} <= set(summary)


def test_without_a_sweep_all_trainings_are_shown() -> None:
    settings = {sweep: build("me", "p", sweep).workspace.runset_settings for sweep in (None, "s")}
    assert "Group" not in settings[None].filters
    assert "JobType" in settings[None].filters and "Group" in settings["s"].filters
