"""The contact sheet: which images it shows, its histogram, and that a page survives any name."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rad_lightning.common.histograms import HISTOGRAM_END
from rad_lightning.data.images import BadImage
from rad_lightning.inference.detector import Prediction
from rad_lightning.inference.metadata import DetectorMetadata
from rad_lightning.inference.page import PredictionPage, bars

METADATA = DetectorMetadata(
    run="run", dataset="folder", category="k", backbone="resnet18 (UNTRAINED demo weights)",
    head="patch", size=(16, 24), fit="stretch", threshold=5.0, median=2.0, spread=1.0,
    map_range=(0.0, 9.0),
)  # fmt: skip


def found(score: float, name: str = "a.png", maps: bool = True) -> Prediction:
    heat = np.full((16, 24), score, np.float32) if maps else None
    image = np.full((20, 30, 3), 90, np.uint8)
    return Prediction(
        name, score, score > METADATA.threshold, METADATA.robust_z(score), heat, image
    )


def page(scores: list[float], limit: int = 100) -> str:
    sheet = PredictionPage(METADATA, limit)
    for i, score in enumerate(scores):
        sheet.add(found(score), Path(f"{i}.png"), None)
    return sheet.page("photos", [])


def shown(text: str) -> list[str]:
    return re.findall(r'data-name="([^"]+)"', text)


def test_the_highest_scores_come_first() -> None:
    assert shown(page([3.0, 9.0, 1.0, 6.0])) == ["1.png", "3.png", "0.png", "2.png"]


def test_of_many_images_those_of_the_highest_scores_are_shown_and_all_are_counted() -> None:
    scores = np.random.default_rng(0).permutation(50).astype(float).tolist()
    text = page(scores, limit=7)
    wanted = sorted(range(50), key=lambda i: -scores[i])[:7]
    assert shown(text) == [f"{i}.png" for i in wanted]
    assert "44 of 50 images flagged" in text  # 6 to 49 are above 5
    assert "7 highest scores of 50" in text


def test_equal_scores_keep_the_order_of_the_input() -> None:
    assert shown(page([7.0] * 5, limit=3)) == ["0.png", "1.png", "2.png"]


def test_no_thumbnail_asked_for_still_gives_a_page() -> None:
    text = page([1.0, 9.0], limit=0)
    assert shown(text) == [] and "1 of 2 images flagged" in text


def test_a_sheet_keeps_no_more_than_it_shows() -> None:
    sheet = PredictionPage(METADATA, 3)
    for i in range(40):
        sheet.add(found(float(i)), Path(f"{i}.png"), None)
    assert len(sheet.shown) == 3
    assert max(len(item.picture) for item in sheet.shown) < 20_000


def test_the_page_loads_nothing_and_escapes_names() -> None:
    sheet = PredictionPage(METADATA, 9)
    name = Path('<img src=x onerror="alert(1)">&.png')
    sheet.add(found(9.0), name, Path("overlays") / f"{name}.jpg")
    text = sheet.page("<b>in</b>", [BadImage(Path("<i>"), "too <small>")])
    assert "<img src=x" not in text and "<b>in</b>" not in text and "<i>" not in text

    class Links(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.sources: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.sources += [str(v) for k, v in attrs if k in ("src", "srcset", "data")]

    parser = Links()
    parser.feed(text)
    assert parser.sources and all(s.startswith("data:image/jpeg;base64,") for s in parser.sources)
    assert "http://" not in text and "https://" not in text
    assert 'href="overlays/%3Cimg%20src%3Dx%20onerror%3D%22alert%281%29%22%3E%26.png.jpg"' in text


def test_an_untrained_backbone_is_called_so() -> None:
    assert "untrained" in page([1.0])


@pytest.mark.parametrize(
    "scores",
    [
        [1.0, 2.0, 2.5, 4.9, 5.0, 5.1, 9.0],
        [2.0],
        [7.0],
        [-500.0, 2.0, 1e9, float("inf")],
        [5.0, 5.0],
        list(np.random.default_rng(1).normal(3, 2, 500)),
    ],
    ids=["mixed", "one normal", "one anomaly", "far out", "at the threshold", "many"],
)
def test_the_histogram_holds_every_image_on_its_side_of_the_threshold(scores: list[float]) -> None:
    chart = bars(scores, METADATA)
    above = [b for b in chart.bars if b[3]]
    below = [b for b in chart.bars if not b[3]]
    assert bool(above) == any(s > 5 for s in scores)
    assert bool(below) == any(s <= 5 for s in scores)
    assert all(left >= chart.threshold - 1e-9 for left, *_ in above)
    assert all(left + width <= chart.threshold + 1e-9 for left, width, *_ in below)
    assert max(height for _, _, height, _ in chart.bars) == 100
    assert all(b[0] >= 0 and b[0] + b[1] <= 100 + 1e-9 for b in chart.bars)
    assert chart.low < METADATA.margin < chart.high


def test_the_histogram_cuts_what_lies_far_beyond_and_says_how_many() -> None:
    chart = bars([2.0, 3.0, 6.0, 900.0, 901.0], METADATA)
    assert chart.cut == 2
    assert chart.high == METADATA.margin + HISTOGRAM_END * (METADATA.margin - chart.low)


def test_a_head_without_maps_shows_the_image_alone() -> None:
    sheet = PredictionPage(METADATA, 9)
    sheet.add(found(9.0, maps=False), Path("a.png"), None)
    assert "a.png" in sheet.page("photos", [])
