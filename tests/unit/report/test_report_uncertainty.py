import csv
import json
from io import StringIO
from typing import Any

import numpy as np
import pytest

from rad_lightning.report.collect import read_sweep
from rad_lightning.report.files import load, texts
from rad_lightning.report.page import page
from rad_lightning.report.plots import RAMP, shade, trajectories
from rad_lightning.report.uncertainty import uncertainty_of

STEPS = [0, 10, 20, 30]


def rad(fake, end: float, strength: float = 0.5, **at: Any) -> None:
    """A run whose U rises to ``end``, with λ at ``strength``."""
    rising = np.linspace(0, end, len(STEPS)).tolist()
    curves = {"step": STEPS, "nll": [1.0] * 4, "uncertainty": rising, "lambda": [strength] * 4}
    ended = {"uncertainty": end, "lambda": strength}
    fake.run(**{"method": "rad", "curves": curves} | ended | at)


def found(fake):
    return uncertainty_of(read_sweep(fake.folder))


def test_results_without_uncertainty_are_read_and_have_no_section(full) -> None:
    sweep, analysis = load(full.folder, "image_auroc")
    assert found(full).readings == () and trajectories(found(full)) == []
    files = texts(sweep, analysis)
    assert "Uncertainty" not in files["table.md"]
    assert files["uncertainty.csv"].count("\n") == 1
    assert 'id="uncertainty"' not in page(sweep, analysis)
    assert 'href="#uncertainty"' not in page(sweep, analysis)


def test_means_weigh_categories_alike(fake) -> None:
    rad(fake, 0.2, seed=0)
    rad(fake, 0.4, seed=1)
    rad(fake, 0.9, category="mesh")
    fake.run(method="plain")
    (reading,) = found(fake).readings
    assert reading.label == "rad" and reading.series == 1
    (cell,) = reading.cells
    assert cell.estimate.mean == pytest.approx((0.3 + 0.9) / 2)
    assert cell.estimate.n == 3 and cell.estimate.low is None  # one seed in a category
    (line,) = reading.lines
    assert line.steps == tuple(STEPS)
    assert line.uncertainty == pytest.approx(np.linspace(0, 0.6, 4))
    assert line.strength == pytest.approx([0.5] * 4)


def test_a_level_that_lacks_a_category_says_so(fake) -> None:
    for seed in (0, 1):
        rad(fake, 0.2, seed=seed, ratio=0.0)
        rad(fake, 0.2, seed=seed, ratio=0.0, category="mesh")
        rad(fake, 0.5 + seed / 10, seed=seed, ratio=0.4)
    (reading,) = found(fake).readings
    assert [cell.missing for cell in reading.cells] == [(), ("mesh",)]
    content = texts(*load(fake.folder, "image_auroc"))["table.md"]
    assert "| rad | 0.20 [0.20, 0.20] | 0.55* [0.50, 0.60] | 0.98 | 0.0" in content


def test_the_correlation_is_with_the_noise_that_was_achieved(fake) -> None:
    noise = {"mode": "replace", "source": "real", "requested": 0.3, "denominator": "x", "of": 9}
    for seed in range(12):
        rad(fake, 0.1 + 0.05 * seed, seed=seed, noise=noise | {"achieved": 0.3 - 0.01 * seed})
    rad(fake, 0.9, seed=99, noise=noise)  # nobody knows its contamination
    (reading,) = found(fake).readings
    assert reading.correlation.value == pytest.approx(-1)
    assert reading.correlation.p < 0.001 and reading.correlation.n == 12
    assert "−1.00" in page(*load(fake.folder, "image_auroc"))


def test_equal_noise_has_no_correlation(fake) -> None:
    for seed in range(3):
        rad(fake, 0.1 * seed, seed=seed)
    sweep, analysis = load(fake.folder, "image_auroc")
    assert found(fake).readings[0].correlation.value is None
    assert texts(sweep, analysis)["table.md"].count("| – | – | 3 |") == 1
    assert 'id="uncertainty"' in page(sweep, analysis)


TORN = [
    "text", 3, [1, 2], {"step": [0, 1]}, {"step": [1, 0], "uncertainty": [0, 1], "lambda": [1, 1]},
    {"step": [0, 1], "uncertainty": [0], "lambda": [1]}, {"uncertainty": [0], "lambda": [1]},
    {"step": [0], "uncertainty": [None], "lambda": [1]},
    {"step": [0], "uncertainty": ["inf"], "lambda": [1]}, {"step": 3}, {},
]  # fmt: skip


@pytest.mark.parametrize("curves", TORN, ids=json.dumps)
def test_torn_curves_cost_the_curves_and_not_the_run(fake, curves: object) -> None:
    rad(fake, 0.4, curves=curves)
    (reading,) = found(fake).readings
    assert reading.lines == () and reading.cells[0].estimate.mean == 0.4
    assert 'id="uncertainty"' in page(*load(fake.folder, "image_auroc"))


@pytest.mark.parametrize("value", ["0.4", None, [1], float("nan")])
def test_a_torn_uncertainty_is_none(fake, value: object) -> None:
    rad(fake, 0.4, uncertainty=value)
    assert found(fake).readings == ()


def test_a_log_with_holes_is_averaged_with_the_whole_ones(fake) -> None:
    rad(fake, 0.6, seed=0)
    holes = {"step": [0, 30], "uncertainty": [0.0, 0.3], "lambda": [1.0, 1.0]}
    rad(fake, 0.3, seed=1, curves=holes)
    (line,) = found(fake).readings[0].lines
    assert line.steps == tuple(STEPS)
    assert line.uncertainty == pytest.approx(np.linspace(0, 0.45, 4))


def test_every_run_with_uncertainty_is_in_the_csv(fake) -> None:
    rad(fake, 0.25, strength=0.125, ratio=0.2, seed=3)
    fake.run(method="plain")
    content = texts(*load(fake.folder, "image_auroc"))["uncertainty.csv"]
    assert list(csv.DictReader(StringIO(content))) == [
        {"series": "rad", "category": "gear", "seed": "3", "ratio": "0.2", "achieved": "0.2",
         "uncertainty": "0.25", "lambda": "0.125"}
    ]  # fmt: skip


@pytest.mark.parametrize(("most", "logarithmic"), [(0.9, False), (50.0, True)])
def test_strength_is_drawn_to_one_scale_that_shows_the_small(
    fake, most: float, logarithmic: bool
) -> None:
    rad(fake, 0.3, strength=0.5)
    rad(fake, 0.3, strength=most, method="adaptive_l2")
    (_, first), (_, second) = trajectories(found(fake))
    ticks = [drawing.count("<!-- $\\mathdefault{10^{") for drawing in (first, second)]
    assert ticks[0] == ticks[1] and (ticks[0] > 0) == logarithmic


def test_lines_and_legend_share_the_colours_of_a_page(fake) -> None:
    ratios = (0.0, 0.1, 0.2, 0.4)
    for ratio in ratios:
        rad(fake, 0.3 + ratio, ratio=ratio)
    ((of_u, of_strength),) = trajectories(found(fake))
    shades = [shade(ratios, ratio).split("var(--")[1][:2] for ratio in ratios]
    assert shades == ["r0", "r2", "r4", "r6"]
    for drawing in (of_u, of_strength):
        assert all(f"var(--{name})" in drawing for name in shades)
        assert not any(colour in drawing for colour in RAMP)


def test_more_levels_than_colours_are_still_drawn() -> None:
    levels = [i / 30 for i in range(30)]
    places = [int(shade(levels, r).split("var(--r")[1][0]) for r in levels]
    assert places == sorted(places) and set(places) == set(range(len(RAMP)))
    assert "--r0" in shade([0.3], 0.3)
