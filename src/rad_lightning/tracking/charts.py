"""Two charts over many runs that W&B has no panel for, as Vega-Lite.

Each reads the one-row table ``cell`` of the runs shown (``tracking.content``); ``${field:...}`` and
``${string:...}`` are filled in by W&B. A chart's name ends in a hash of what it draws: W&B keeps
charts under an account for good, and does not let one be drawn over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rad_lightning.config import digest

COLUMNS = ("category", "method", "noise", "image_auroc")
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
Encoding = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite chart of the table ``cell``."""

    title: str
    spec: dict[str, Any]

    @property
    def name(self) -> str:
        """Its name in an account: other contents, another name."""
        words = "".join(c if c.isalnum() else " " for c in self.title.lower()).split()
        return "-".join(["rad", *words[:5], digest(self.spec)])


def field(name: str, kind: str, title: str, **more: Any) -> Encoding:
    return {"field": f"${{field:{name}}}", "type": kind, "title": title, **more}


def known(name: str) -> dict[str, str]:
    """Keep rows that have a value: without labelled images there is no AUROC."""
    return {"filter": f"isValid(datum['${{field:{name}}}'])"}


NOISE = field("noise", "quantitative", "requested label noise", axis={"format": "%"})
AUROC = field("image_auroc", "quantitative", "image AUROC", scale={"zero": False})
METHOD = field("method", "nominal", "method", legend={"symbolOpacity": 1})

OVER_NOISE = Chart(
    "Image AUROC over label noise by method",
    {
        "$schema": SCHEMA,
        "title": "${string:title}",
        "data": {"name": "wandb"},
        "transform": [known("image_auroc")],
        "encoding": {"x": NOISE, "color": METHOD},
        "layer": [
            {
                "mark": {"type": "errorband", "extent": "ci", "opacity": 0.2},
                "encoding": {"y": AUROC},
            },
            {
                "mark": {"type": "line", "point": True},
                "encoding": {
                    "y": AUROC | {"aggregate": "mean"},
                    "tooltip": [
                        field("method", "nominal", "method"),
                        field("noise", "quantitative", "label noise", format=".3~%"),
                        field(
                            "image_auroc", "quantitative", "mean", aggregate="mean", format=".3f"
                        ),
                        {"aggregate": "count", "title": "runs"},
                    ],
                },
            },
        ],
    },
)

ROWS = {
    "calculate": "datum['${field:category}'] + ', ' + datum['${field:method}']",
    "as": "row",
}
MEAN = {
    "aggregate": [
        {"op": "mean", "field": "${field:image_auroc}", "as": "mean"},
        {"op": "count", "as": "runs"},
    ],
    "groupby": ["row", "${field:noise}"],
}
VALUE = {"text": {"field": "mean", "type": "quantitative", "format": ".2f"}}
LEVELS = {"format": ".3~%", "labelAngle": 0}

CATEGORY_BY_NOISE = Chart(
    "Mean image AUROC by category and label noise",
    {
        "$schema": SCHEMA,
        "title": "${string:title}",
        "data": {"name": "wandb"},
        "transform": [known("image_auroc"), ROWS, MEAN],
        "encoding": {
            "x": field("noise", "ordinal", "requested label noise", axis=LEVELS),
            "y": {"field": "row", "type": "nominal", "title": None, "axis": {"labelLimit": 320}},
        },
        "layer": [
            {
                "mark": "rect",
                "encoding": {
                    "color": {
                        "field": "mean",
                        "type": "quantitative",
                        "title": "image AUROC",
                        "scale": {"scheme": "viridis"},
                    },
                    "tooltip": [
                        {"field": "row", "title": "category, method"},
                        {"field": "mean", "type": "quantitative", "format": ".3f"},
                        {"field": "runs", "type": "quantitative"},
                    ],
                },
            },
            {
                "mark": {
                    "type": "text",
                    "stroke": "white",
                    "strokeWidth": 3,
                    "strokeJoin": "round",
                },
                "encoding": VALUE,
            },
            {
                "mark": {"type": "text", "color": "black"},
                "encoding": VALUE,
            },
        ],
    },
)
CHARTS = (OVER_NOISE, CATEGORY_BY_NOISE)
