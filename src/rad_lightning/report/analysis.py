"""All that the tables, plots and pages of a report show, from one sweep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from rad_lightning.common.errors import UserError
from rad_lightning.evaluation.summary import SHOWN
from rad_lightning.report.budgets import budget_grids
from rad_lightning.report.collect import Sweep
from rad_lightning.report.comparisons import Comparison, compare
from rad_lightning.report.grids import (
    CLAIMED,
    LOWER_IS_BETTER,
    Grid,
    category_grid,
    drop_grid,
    gap_grid,
    levels_of,
    mean_grid,
)
from rad_lightning.report.noise import Level, noise_levels
from rad_lightning.report.statistics import (
    FEW_SEEDS,
    smallest_p,
)


@dataclass(frozen=True)
class Analysis:
    """All tables of a sweep for one metric, and what must be said beside them."""

    metric: str
    metric_name: str
    mean: Grid
    categories: tuple[Grid, ...]
    drop: Grid
    gap: Grid
    comparisons: tuple[Comparison, ...]
    levels: tuple[Level, ...]
    notes: tuple[str, ...] = field(default=())
    budgets: tuple[Grid, ...] = field(default=())  # by judged images, one per noise level

    @property
    def panels(self) -> tuple[Grid, ...]:
        """One per category, where a mean over them says less than they do."""
        return self.categories if len(self.categories) > 1 else ()

    @property
    def grids(self) -> list[Grid]:
        """Those that have something in them."""
        return [g for g in (self.mean, *self.panels, self.drop, self.gap) if g.rows]


def analyse(sweep: Sweep, metric: str) -> Analysis:
    """Everything that the tables show.

    Raises:
        UserError: no run has the metric, or it is no share between 0 and 1.
    """
    check_metric(sweep, metric)
    table = [levels_of(series, metric) for series in sweep.series]
    name = SHOWN.get(metric, metric)
    name = name[0].upper() + name[1:]
    claims = sweep.plan.claims if sweep.plan and metric == CLAIMED else {}
    mean = mean_grid(sweep, table, name, claims)
    categories = tuple(category_grid(sweep, table, key) for key in sweep.categories)
    drop = drop_grid(sweep, table, name)
    gap = gap_grid(sweep, table if metric not in LOWER_IS_BETTER else [], name)
    comparisons = compare(sweep, table)
    notes = [
        *_metric_notes(sweep, metric),
        *_seed_notes(mean),
        *_missing_notes(mean, drop),
        *_comparison_notes(comparisons),
    ]
    return Analysis(
        metric, name, mean, categories, drop, gap, comparisons, noise_levels(sweep), tuple(notes),
        budget_grids(sweep, mean),
    )  # fmt: skip


def check_metric(sweep: Sweep, metric: str) -> None:
    """Refuse what cannot be shown in percent, with what can."""
    found: dict[str, list[float]] = defaultdict(list)
    for run in sweep.runs:
        for key, value in run.metrics.items():
            if not key.endswith("_threshold"):
                found[key].append(value)
    shares = sorted(key for key, values in found.items() if 0 <= min(values) <= max(values) <= 1)
    if metric not in shares:
        accepted = f"choose one of {', '.join(shares)}" if shares else "no run has any metric"
        raise UserError(
            f"metric={metric}: not a metric from 0 to 1 of the runs in {sweep.folder}; {accepted}"
        )


def _metric_notes(sweep: Sweep, metric: str) -> list[str]:
    without = sum(metric not in run.metrics for run in sweep.runs)
    return [f"{without} runs have no {metric} and are in no table"] if without else []


def _seed_notes(grid: Grid) -> list[str]:
    fewest = [c.estimate.fewest for row in grid.rows if not row.claimed for c in row.cells
              if c.estimate]  # fmt: skip
    if not fewest or min(fewest) >= FEW_SEEDS:
        return []
    if max(fewest) == 1:
        return ["One seed per cell: there are no intervals, and any difference may be chance"]
    return [
        f"Intervals on fewer than {FEW_SEEDS} seeds per category (here as few as {min(fewest)}) "
        "are rough: a bootstrap of so few values is too narrow, and one value has none"
    ]


def _missing_notes(*grids: Grid) -> list[str]:
    """One line per set of missing categories, with the means that it concerns."""
    where: dict[tuple[str, ...], dict[str, set[float]]] = defaultdict(lambda: defaultdict(set))
    for grid in grids:
        for row in grid.rows:
            for ratio, cell in zip(grid.ratios, row.cells, strict=True):
                if cell.estimate and cell.missing:
                    where[cell.missing][row.label].add(ratio)
    return [
        f"* and hollow points are means without {', '.join(names)}: "
        + "; ".join(f"{label} at {', '.join(f'{r:g}' for r in sorted(at))}" for label, at in rows)
        for names, found in where.items()
        if (rows := found.items())
    ]


def _comparison_notes(comparisons: Sequence[Comparison]) -> list[str]:
    if not comparisons:
        return []
    notes = [
        "Pairs are seeds and categories: the p-values are about other seeds on the same data, not "
        "about other data"
    ]
    most = max(c.difference.n for c in comparisons)
    first = 0.05 / len(comparisons)
    if smallest_p(most) > 0.05:
        notes.append(
            f"With {most} pairs the smallest p is {smallest_p(most):.3g}: no difference, however "
            "clear, can fall below 0.05"
        )
    elif smallest_p(most) > first:
        notes.append(
            f"With {most} pairs the smallest p is {smallest_p(most):.2g}, and the first of "
            f"{len(comparisons)} tests by Holm needs {first:.2g}: read the intervals, and add seeds"
        )
    return notes
