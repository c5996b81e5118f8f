"""The uncertainty U of the methods that have one: over the training, at its end, and whether it
follows the true contamination."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rad_lightning.common.tables import to_csv
from rad_lightning.report.collect import Series, Sweep
from rad_lightning.report.grids import Category, Cell, Values, mean_of, paired
from rad_lightning.report.results import Run
from rad_lightning.report.statistics import Array, Correlation, category_means, spearman
from rad_lightning.report.tables import decimal, escaped, level, p_value, pipes, text

MEANING = (
    "U is what a method reads from its own losses, without any label, while it trains: 0 means "
    "that the training images can be trusted, 1 that they cannot.",
    "λ(U) is the strength of the weight penalty that follows it: the higher U, the more the flow "
    "is kept from memorising the training images.",
)
FINAL = "Final U, the mean over the last quarter of the training"
CORRELATION = (
    "rₛ is Spearman's rank correlation between a run's achieved noise ratio and its final U over "
    "all runs of a series, with its p by permutation. A U that differs between categories of "
    "equal noise lowers it."
)
COLUMNS = ("rₛ", "p", "runs")


@dataclass(frozen=True)
class MeanCurves:
    """Means over seeds and categories at one level ρ, of the runs that have curves; ``(K,)``
    each."""

    ratio: float
    steps: Sequence[float]
    uncertainty: Sequence[float]
    strength: Sequence[float]


@dataclass(frozen=True)
class Reading:
    """What one series says: the final U at each level, and its rank correlation with the achieved
    noise over all runs. ``series`` is the place in ``Sweep.series``."""

    series: int
    label: str
    cells: tuple[Cell, ...]
    lines: tuple[MeanCurves, ...]
    correlation: Correlation


@dataclass(frozen=True)
class Uncertainty:
    """All series that have a U; ``ratios`` are the levels of their runs."""

    ratios: tuple[float, ...]
    readings: tuple[Reading, ...]


def uncertainty_of(sweep: Sweep) -> Uncertainty:
    """What the runs of a sweep say of their uncertainty; empty where no run has one."""
    having = [(i, s) for i, s in enumerate(sweep.series) if known(s)]
    ratios = tuple(sorted({run.ratio for _, s in having for run in known(s)}))
    return Uncertainty(ratios, tuple(reading(sweep, i, s, ratios) for i, s in having))


def known(series: Series) -> list[Run]:
    """Its runs that have a U."""
    return [run for run in series.runs if run.uncertainty is not None]


def reading(sweep: Sweep, place: int, series: Series, ratios: Sequence[float]) -> Reading:
    levels: dict[float, Values] = defaultdict(dict)
    pairs = []
    for run in known(series):
        assert run.uncertainty is not None
        levels[run.ratio][(run.dataset, run.category), run.seed] = run.uncertainty
        if (noise := achieved(run)) is not None:
            pairs.append((noise, run.uncertainty))
    cells = tuple(mean_of(sweep, paired([levels.get(ratio, {})])) for ratio in ratios)
    lines = (line(ratio, [r for r in known(series) if r.ratio == ratio]) for ratio in ratios)
    x, y = np.array(pairs, dtype=float).reshape(-1, 2).T
    return Reading(place, series.label, cells, tuple(filter(None, lines)), spearman(x, y))


def achieved(run: Run) -> float | None:
    """The noise ratio that a run really has."""
    value = run.noise.get("achieved")
    return float(value) if isinstance(value, int | float) else None


def line(ratio: float, runs: Iterable[Run]) -> MeanCurves | None:
    """The mean curves of ``runs``; ``None`` where none has any."""
    drawn = [run for run in runs if {"uncertainty", "lambda"} <= set(run.curves)]
    if not drawn:
        return None
    # The steps of all are the same, but for runs whose log a crash left with holes.
    steps = max((run.curves["step"] for run in drawn), key=len)

    def mean(name: str) -> tuple[float, ...]:
        groups: dict[Category, list[Array]] = defaultdict(list)
        for run in drawn:
            values = np.interp(steps, run.curves["step"], run.curves[name])
            groups[run.dataset, run.category].append(values)
        return tuple(map(float, category_means([np.stack(g) for _, g in sorted(groups.items())])))

    return MeanCurves(ratio, steps, mean("uncertainty"), mean("lambda"))


def section(found: Uncertainty) -> list[str]:
    """The final U as a part of ``table.md``; none without any."""
    if not found.readings:
        return []
    header = ["", *map(level, found.ratios), *COLUMNS]
    rows = [
        [escaped(r.label), *(text(cell, decimal) for cell in r.cells), *correlation_cells(r)]
        for r in found.readings
    ]
    words = " ".join((*MEANING, CORRELATION))
    return ["## Uncertainty", f"{FINAL}. {words}", pipes(header, rows)]


def correlation_cells(r: Reading) -> list[str]:
    """As text, under ``COLUMNS``."""
    c = r.correlation
    return [decimal(c.value), p_value(c.p), str(c.n)]


def runs_csv(sweep: Sweep) -> str:
    """``uncertainty.csv``: how U and λ ended in each run that has them, in full precision."""
    header = ("series", "category", "seed", "ratio", "achieved", "uncertainty", "lambda")
    rows = (
        (s.label, sweep.category_name(run.dataset, run.category), run.seed, run.ratio,
         achieved(run), run.uncertainty, run.strength)
        for s in sweep.series
        for run in known(s)
    )  # fmt: skip
    return to_csv(header, rows)
