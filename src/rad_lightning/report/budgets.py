"""The metric over the number of judged images: one panel per noise level."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from rad_lightning.report.collect import Series, Sweep
from rad_lightning.report.grids import Cell, Grid, Row

BUDGET = "review.budget"
ALL = 10_000  # and more: written as "all"
Variant = frozenset[tuple[str, str]]  # the settings of a series but its budget


def budget_grids(sweep: Sweep, mean: Grid) -> tuple[Grid, ...]:
    """``mean`` by budget instead of by noise level, a grid for each of its levels; none where no
    series differ in their budget alone. What knows no budget is a level line.

    The columns are the budgets' places from 0: they are spaced evenly.
    """
    variants = variants_of(sweep, mean)
    budgets = sorted({b for rows in variants.values() if len(rows) > 1 for b in rows})
    if not budgets:
        return ()
    ticks = tuple("all" if b >= ALL else str(b) for b in budgets)
    places = tuple(map(float, range(len(budgets))))
    return tuple(
        Grid(
            f"budget {ratio:g}",
            f"ρ = {ratio:g}",
            places,
            tuple(row_of(rows, budgets, at) for rows in variants.values()),
            axis="judged images",
            ticks=ticks,
        )
        for at, ratio in enumerate(mean.ratios)
    )


def variants_of(sweep: Sweep, mean: Grid) -> dict[Variant, dict[int, Row]]:
    """The measured rows of ``mean`` by what their series share, and then by their budget."""
    found: dict[Variant, dict[int, Row]] = defaultdict(dict)
    for row in mean.rows:
        if row.series is not None:
            series = sweep.series[row.series]
            rest = frozenset((k, v) for k, v in series.settings.items() if k != BUDGET)
            found[rest][budget_of(series)] = row
    return found


def budget_of(series: Series) -> int:
    """How many images were judged; 0 where nothing says so."""
    value = str(series.settings.get(BUDGET, "0"))
    return int(value) if value.isdigit() else 0


def row_of(rows: dict[int, Row], budgets: list[int], at: int) -> Row:
    """One variant at one level, over the budgets."""
    label = " · ".join(
        part for part in next(iter(rows.values())).label.split(" · ") if BUDGET not in part
    )
    if len(rows) == 1:
        (row,) = rows.values()
        level = row.cells[at].estimate
        cells = tuple(
            replace(row.cells[at], estimate=level and replace(level, low=None, high=None))
            for _ in budgets
        )
        return Row(label, cells, row.series)
    first = rows[min(rows)]
    cells = tuple(rows[b].cells[at] if b in rows else Cell() for b in budgets)
    return Row(label, cells, first.series)
