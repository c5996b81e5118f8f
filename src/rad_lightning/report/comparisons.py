"""Pairs of methods on equal categories and seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rad_lightning.report.collect import Sweep
from rad_lightning.report.grids import Category, Values, context, missing, paired
from rad_lightning.report.statistics import (
    Estimate,
    estimate,
    holm,
    wilcoxon_p,
)


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
