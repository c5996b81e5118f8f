"""What stands in which table: from runs to means, drops, closed gaps and comparisons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rad_lightning.report.collect import Series, Sweep
from rad_lightning.report.statistics import (
    Array,
    Estimate,
    closed_gap,
    estimate,
)

PLAIN, ORACLE = "plain", "oracle_clean"
CLAIMED = "image_auroc"  # the metric that claims are about
LOWER_IS_BETTER = ("image_false_alarm_rate",)  # no gap of which a share could be closed
Category = tuple[str, str]  # dataset, category
Values = dict[tuple[Category, int], float]  # of one series at one level, by category and seed


@dataclass(frozen=True)
class Cell:
    """An estimate or the reason why there is none; ``missing`` categories are not in its mean."""

    estimate: Estimate | None = None
    missing: tuple[str, ...] = ()
    reason: str = "no runs"


@dataclass(frozen=True)
class Row:
    """``series`` is the row's place in ``Sweep.series``; claims and gaps have none."""

    label: str
    cells: tuple[Cell, ...]
    series: int | None = None
    claimed: bool = False


@dataclass(frozen=True)
class Grid:
    """One table: a row per series, a column per noise level ``ρ``."""

    name: str
    title: str
    ratios: tuple[float, ...]
    rows: tuple[Row, ...]
    axis: str = "noise level ρ"
    ticks: tuple[str, ...] = ()  # what stands at ``ratios``, where that is not their value


def levels_of(series: Series, metric: str) -> dict[float, Values]:
    """By noise level: the metric of each category and seed."""
    found: dict[float, Values] = defaultdict(dict)
    for run in series.runs:
        if metric in run.metrics:
            found[run.ratio][(run.dataset, run.category), run.seed] = run.metrics[metric]
    return found


def paired(columns: Sequence[Values]) -> dict[Category, Array]:
    """``(n_c, K)`` per category: the K columns of the seeds that all of them have, by seed."""
    rows: dict[Category, list[list[float]]] = defaultdict(list)
    for key in sorted(set.intersection(*(set(c) for c in columns))):
        rows[key[0]].append([column[key] for column in columns])
    return {category: np.array(values) for category, values in rows.items()}


def missing(sweep: Sweep, present: Iterable[Category]) -> tuple[str, ...]:
    """The categories that a mean over ``present`` ones leaves out."""
    return tuple(sweep.category_name(*c) for c in sweep.categories if c not in set(present))


def mean_of(sweep: Sweep, groups: Mapping[Category, Array]) -> Cell:
    """A mean over categories of ``(n_c, 1)`` values."""
    if not groups:
        return Cell()
    return Cell(estimate([g[:, 0] for g in groups.values()]), missing(sweep, groups))


def ratios_of(sweep: Sweep) -> list[float]:
    return sorted({run.ratio for run in sweep.runs})


def mean_grid(
    sweep: Sweep,
    table: Sequence[Mapping[float, Values]],
    name: str,
    claims: Mapping[str, Mapping[float, float]],
) -> Grid:
    """Series × ρ over all categories, and what others claim, in percent."""
    ratios = tuple(sorted({*ratios_of(sweep), *(r for c in claims.values() for r in c)}))
    rows = [
        Row(series.label, tuple(mean_of(sweep, paired([levels.get(r, {})])) for r in ratios), i)
        for i, (series, levels) in enumerate(zip(sweep.series, table, strict=True))
    ]
    for who, claim in sorted(claims.items()):
        cells = tuple(
            Cell(Estimate(claim[r] / 100, None, None, 0, 0)) if r in claim else Cell(reason="")
            for r in ratios
        )
        rows.append(Row(f"{who} (claimed, not measured)", cells, claimed=True))
    only = sweep.category_name(*sweep.categories[0])
    of = f"mean of {len(sweep.categories)} categories" if len(sweep.categories) > 1 else only
    return Grid("mean", f"{name}, {of}", ratios, tuple(rows))


def category_grid(
    sweep: Sweep, table: Sequence[Mapping[float, Values]], category: Category
) -> Grid:
    """Series × ρ in one category."""
    ratios = tuple(ratios_of(sweep))
    rows = []
    for i, (series, levels) in enumerate(zip(sweep.series, table, strict=True)):
        cells = []
        for ratio in ratios:
            values = [v for (c, _), v in sorted(levels.get(ratio, {}).items()) if c == category]
            cells.append(Cell(estimate([np.array(values)])) if values else Cell())
        rows.append(Row(series.label, tuple(cells), i))
    label = sweep.category_name(*category)
    return Grid(f"category {label}", label, ratios, tuple(rows))


def drop_grid(sweep: Sweep, table: Sequence[Mapping[float, Values]], name: str) -> Grid:
    """``metric(ρ) − metric(0)`` of the same category and seed."""
    ratios = tuple(r for r in ratios_of(sweep) if r > 0)
    rows = []
    for i, (series, levels) in enumerate(zip(sweep.series, table, strict=True)):
        cells = []
        for ratio in ratios:
            both = paired([levels.get(ratio, {}), levels.get(0.0, {})])
            change = {c: g[:, :1] - g[:, 1:] for c, g in both.items()}
            cells.append(mean_of(sweep, change) if change else Cell(reason="no pair with ρ = 0"))
        rows.append(Row(series.label, tuple(cells), i))
    return Grid("drop", f"{name} at ρ − at 0 (points)", ratios, tuple(rows) if ratios else ())


def gap_grid(sweep: Sweep, table: Sequence[Mapping[float, Values]], name: str) -> Grid:
    """``oracle_clean − plain`` at each ρ > 0, and the share of it that each other series closes."""
    ratios = tuple(r for r in ratios_of(sweep) if r > 0)
    gaps: dict[tuple[int, int], Row] = {}
    closed: list[Row] = []
    for i, series in enumerate(sweep.series if table else ()):
        low, high = partner(sweep, series, PLAIN), partner(sweep, series, ORACLE)
        if low is None or high is None:
            continue

        def cells(of: int, share: bool, low: int = low, high: int = high) -> tuple[Cell, ...]:
            return tuple(
                _gap_cell(sweep, [table[k].get(r, {}) for k in (of, low, high)], share)
                for r in ratios
            )

        if (low, high) not in gaps:
            label = f"{sweep.series[high].label} − {sweep.series[low].label} (points)"
            gaps[low, high] = Row(label, cells(low, False))
        if series.method not in (PLAIN, ORACLE):
            closed.append(Row(f"{series.label} closes (% of the gap)", cells(i, True), i))
    title = f"{name}: the gap between noisy and clean training, and the share closed"
    return Grid("gap", title, ratios, (*gaps.values(), *closed) if ratios else ())


def _gap_cell(sweep: Sweep, columns: Sequence[Values], share: bool) -> Cell:
    groups = paired(columns)
    if not groups:
        return Cell(reason="no category and seed in common")
    gap, closed = closed_gap(list(groups.values()))
    found = closed if share else gap
    why = "one seed" if gap.low is None else "the gap is not clearly above zero"
    return Cell(found, missing(sweep, groups), why)


def context(series: Series) -> frozenset[tuple[str, str]]:
    """The settings that two methods share when they are compared: all but the method's own, and
    what a reviewer told it."""
    own = ("method.", "review.")
    return frozenset((k, v) for k, v in series.settings.items() if not k.startswith(own))


def partner(sweep: Sweep, series: Series, method: str) -> int | None:
    """The place of the ``method`` that ``series`` is measured against.

    Of several with the same surroundings the one with the same training settings; else none.
    """
    alike = [
        i
        for i, other in enumerate(sweep.series)
        if other.method == method and context(other) == context(series)
    ]

    def own(s: Series) -> dict[str, str]:
        return {k: v for k, v in s.settings.items() if k != "method.name"}

    same = [i for i in alike if own(sweep.series[i]) == own(series)]
    chosen = same or alike
    return chosen[0] if len(chosen) == 1 else None
