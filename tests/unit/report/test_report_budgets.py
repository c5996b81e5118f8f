"""The metric over the number of judged images."""

from __future__ import annotations

import pytest

from rad_lightning.report.analysis import analyse
from rad_lightning.report.collect import read_sweep
from rad_lightning.report.files import write
from rad_lightning.report.grids import Grid


def budgets(fake) -> tuple[Grid, ...]:
    return analyse(read_sweep(fake.folder), "image_auroc").budgets


def fill(fake) -> None:
    for seed in (0, 1):
        for ratio in (0.0, 0.3):
            fake.run(0.8, method="plain", ratio=ratio, seed=seed)
            for budget in (0, 5, 20, 100_000):
                value = 0.82 + 0.001 * min(budget, 40) * (ratio > 0) + 0.01 * seed
                fake.run(value, method="robust", ratio=ratio, seed=seed, budget=budget)


def test_a_line_over_budgets_for_each_level_and_level_lines_for_the_others(fake) -> None:
    fill(fake)
    clean, noisy = budgets(fake)
    assert (clean.title, noisy.title) == ("ρ = 0", "ρ = 0.3")
    assert noisy.ticks == ("0", "5", "20", "all") and noisy.axis == "judged images"
    found = {
        row.label: [c.estimate and round(c.estimate.mean, 4) for c in row.cells]
        for row in noisy.rows
    }
    assert found == {"plain": [0.8] * 4, "robust": [0.825, 0.83, 0.845, 0.865]}
    level = noisy.rows[0].cells[1].estimate
    assert level is not None and level.low is None  # no band along a line that is level by nature


def test_without_different_budgets_there_is_nothing_to_draw(fake) -> None:
    fake.run(0.8)
    fake.run(0.9, method="robust")
    assert budgets(fake) == ()
    assert "Over the number of judged images" not in write_page(fake)


def test_the_page_and_the_picture_show_them(fake) -> None:
    fill(fake)
    page = write_page(fake)
    assert "Over the number of judged images" in page and "ρ = 0.3" in page
    assert (fake.folder / "report" / "budgets.png").read_bytes().startswith(b"\x89PNG")


def write_page(fake) -> str:
    sweep = read_sweep(fake.folder)
    return write(sweep, analyse(sweep, "image_auroc")).read_text(encoding="utf-8")


def test_verdicts_do_not_hide_a_methods_partner(fake) -> None:
    for seed in (0, 1):
        fake.run(0.8, method="plain", ratio=0.3, seed=seed)
        fake.run(0.9, method="oracle_clean", ratio=0.3, seed=seed)
        fake.run(0.85, method="robust", ratio=0.3, seed=seed, budget=20)
    gap = analyse(read_sweep(fake.folder), "image_auroc").gap
    closed = {row.label: row.cells[0].estimate for row in gap.rows}
    assert closed["robust closes (% of the gap)"].mean == pytest.approx(0.5)
