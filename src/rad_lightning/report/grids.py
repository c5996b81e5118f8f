"""What stands in which table: from runs to means, drops, closed gaps and comparisons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from rad_lightning.common.errors import UserError
from rad_lightning.evaluation.summary import SHOWN
from rad_lightning.report.collect import Series, Sweep
from rad_lightning.report.noise import Level, noise_levels
from rad_lightning.report.statistics import (
    FEW_SEEDS,
    Array,
    Estimate,
    closed_gap,
    estimate,
    holm,
    smallest_p,
    wilcoxon_p,
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


@dataclass(frozen=True)
class Comparison:
    """Two series of one head over common categories and seeds; ``ratio=None``: all ρ > 0."""

    first: str
    second: str
    ratio: float | None
    difference: Estimate  # first − second
    missing: tuple[str, ...]
    p: float
    p_holm: float


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
        metric, name, mean, categories, drop, gap, comparisons, noise_levels(sweep), tuple(notes)
    )


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
    """The settings that two methods share when they are compared: all but the method's own."""
    return frozenset((k, v) for k, v in series.settings.items() if not k.startswith("method."))


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


def compare(sweep: Sweep, table: Sequence[Mapping[float, Values]]) -> tuple[Comparison, ...]:
    """Every two series of one head and setting, at each ρ and over all ρ > 0; one Holm family."""
    found = []
    for low, high in combinations(range(len(sweep.series)), 2):
        if context(sweep.series[low]) != context(sweep.series[high]):
            continue
        shared = sorted(set(table[low]) & set(table[high]))
        columns = [(r, (table[high][r], table[low][r])) for r in shared]
        tests: list[tuple[float | None, tuple[Values, Values]]] = [*columns]
        noisy = [pair for ratio, pair in columns if ratio > 0]
        if len(noisy) > 1:
            tests.append((None, _over_levels(noisy)))
        for ratio, pair in tests:
            change = {c: g[:, 0] - g[:, 1] for c, g in paired(pair).items()}
            if change:
                p = wilcoxon_p(np.concatenate(list(change.values())))
                difference = estimate(list(change.values()))
                labels = sweep.series[high].label, sweep.series[low].label
                found.append((labels, ratio, difference, missing(sweep, change), p))
    corrected = holm([p for *_, p in found])
    return tuple(
        Comparison(*labels, ratio, difference, without, p, float(p_holm))
        for (labels, ratio, difference, without, p), p_holm in zip(found, corrected, strict=True)
    )


def _over_levels(pairs: Sequence[tuple[Values, Values]]) -> tuple[Values, Values]:
    """Both columns averaged over levels, within category and seed: levels are nested, no repeats.

    Only seeds that have every level of their category count, so that all averages are alike.
    """
    levels: dict[Category, int] = defaultdict(int)
    common = [set(a) & set(b) for a, b in pairs]
    for keys in common:
        for category in {c for c, _ in keys}:
            levels[category] += 1
    full = [
        key for key in set().union(*common) if sum(key in keys for keys in common) == levels[key[0]]
    ]

    def averaged(column: int) -> Values:
        return {
            key: float(np.mean([pair[column][key] for pair, has in zip(pairs, common, strict=True)
                                if key in has]))
            for key in full
        }  # fmt: skip

    return averaged(0), averaged(1)


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
