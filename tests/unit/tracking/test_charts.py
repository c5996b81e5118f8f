"""The Vega-Lite charts: they read columns that every run logs, and say which version they are."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rad_lightning.tracking.charts import CHARTS, COLUMNS, Chart
from rad_lightning.tracking.content import tables


@pytest.mark.parametrize("chart", CHARTS)
def test_a_chart_reads_columns_of_the_table_that_every_run_logs(
    chart: Chart, result: dict[str, Any]
) -> None:
    text = json.dumps(chart.spec)
    read = set(re.findall(r"\$\{field:(\w+)\}", text))
    assert {"noise", "method", "image_auroc"} <= read <= set(COLUMNS)
    assert read <= set(tables(Path("nowhere"), result)["cell"].columns)
    assert set(re.findall(r"\$\{(\w+):", text)) == {"field", "string"}


def test_another_drawing_has_another_name() -> None:
    first = CHARTS[0]
    other = replace(first, spec=first.spec | {"height": 3})
    assert other.name != first.name == Chart(first.title, dict(first.spec)).name
    assert all(re.fullmatch(r"[a-z0-9-]{1,64}", chart.name) for chart in CHARTS)
