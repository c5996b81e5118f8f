"""What can be said about a mean of few seeds: bootstrap intervals and paired tests. Pure numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rad_lightning.common.randomness import stream_seed

Array = NDArray[np.float64]
RESAMPLES = 10_000
COVERED = (2.5, 97.5)  # percentiles of the 95 % interval
FEW_SEEDS = 5  # below, a percentile bootstrap is clearly too narrow


@dataclass(frozen=True)
class Estimate:
    """A mean, its interval (``None`` where one seed says nothing of its spread), and on what it
    rests: ``n`` values, at least ``fewest`` per category."""

    mean: float
    low: float | None
    high: float | None
    n: int
    fewest: int


def category_means(groups: Sequence[Array]) -> Array:
    """``(K,)``: over categories, the mean of the means over seeds. ``groups``: ``(n_c, K)`` each.

    Every category weighs the same, however many seeds it has.
    """
    means: Array = np.mean([g.mean(axis=0) for g in groups], axis=0)
    return means


def resampled_means(groups: Sequence[Array], resamples: int = RESAMPLES) -> Array:
    """``(resamples, K)``: ``category_means`` of bootstrap samples.

    Seeds are drawn with replacement within each category; the categories are those that there are.
    The K columns of a seed stay together, so that differences and ratios of them are paired.
    """
    rng = np.random.default_rng(stream_seed("report/bootstrap"))
    total = np.zeros((resamples, groups[0].shape[1]))
    for values in groups:
        total += values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    return total / len(groups)


def estimate(groups: Sequence[Array]) -> Estimate:
    """Mean of category means with its percentile interval. ``groups``: ``(n_c,)`` per category."""
    return _bootstrapped([np.asarray(g, dtype=float)[:, None] for g in groups], _first)


def closed_gap(groups: Sequence[Array]) -> tuple[Estimate, Estimate | None]:
    """The gap ``oracle − plain``, and the share of it that a method closes.

    Args:
        groups: ``(n_c, 3)`` per category: method, plain, oracle of each seed.

    Returns:
        The gap, and ``(method − plain) / (oracle − plain)`` of the means; ``None`` where the
        interval of the gap is unknown or touches zero: a share of it would be arbitrary.
    """
    gap = estimate([g[:, 2] - g[:, 1] for g in groups])
    clear = gap.low is not None and gap.low > 0
    return gap, _bootstrapped(groups, _share) if clear else None


def _bootstrapped(groups: Sequence[Array], statistic: Callable[[Array], Array]) -> Estimate:
    fewest = min(len(g) for g in groups)
    low = high = None
    if fewest > 1:
        drawn = statistic(resampled_means(groups))
        low, high = (float(q) for q in np.nanpercentile(drawn, COVERED))
    mean = float(statistic(category_means(groups)))
    return Estimate(mean, low, high, sum(len(g) for g in groups), fewest)


def _first(means: Array) -> Array:
    first: Array = means[..., 0]
    return first


def _share(means: Array) -> Array:
    method, plain, oracle = (means[..., k] for k in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may have no gap
        share: Array = (method - plain) / (oracle - plain)
    return share


def wilcoxon_p(differences: Array) -> float:
    """Two-sided p of the Wilcoxon signed-rank test of ``(n,)`` paired differences.

    Exact, ties or not: the rank sums of all ``2^n`` sign patterns are counted. Zeros are left out,
    as in ``scipy.stats.wilcoxon``, which is exact without ties only; nothing but zeros gives 1.
    """
    # 0.9 - 0.8 and 0.5 - 0.4 must be the tie that they are.
    rounded = np.round(differences, 12)
    rounded = rounded[rounded != 0]
    ranks = (2 * stats.rankdata(np.abs(rounded))).astype(int)  # doubled, so that ties are whole
    chance = np.zeros(ranks.sum() + 1)  # of each sum of the positive ranks
    chance[0] = 1.0
    for rank in ranks:
        chance /= 2
        chance[rank:] += chance[:-rank].copy()
    positive = ranks[rounded > 0].sum()
    tail = chance[: min(positive, ranks.sum() - positive) + 1].sum()
    return min(1.0, 2 * float(tail))


def smallest_p(pairs: int) -> float:
    """The least p that ``wilcoxon_p`` can give for so many pairs: all of one sign."""
    return min(1.0, 2.0 ** (1 - pairs))


def holm(p: Sequence[float]) -> Array:
    """``(m,)`` p-values corrected for m tests (Holm 1979): steps down from the smallest."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of ``n`` pairs and its two-sided p; ``None`` where one side does
    not vary."""

    value: float | None
    p: float | None
    n: int


def spearman(x: Array, y: Array, resamples: int = RESAMPLES) -> Correlation:
    """Rank correlation of ``(n,)`` and ``(n,)``; p by permutation.

    The p-values of ``scipy.stats.spearmanr`` are asymptotic: three pairs in order give it 0.
    """
    if len(x) < 2:
        return Correlation(None, None, len(x))
    ranks = [stats.rankdata(np.round(values, 12)) for values in (x, y)]
    a, b = (r - r.mean() for r in ranks)
    scale = float(np.sqrt((a @ a) * (b @ b)))
    if scale == 0:
        return Correlation(None, None, len(x))
    rng = np.random.default_rng(stream_seed("report/spearman"))
    chance = np.array([abs(rng.permutation(a) @ b) for _ in range(resamples)])
    found = float(a @ b)
    # A permutation that only rounding tells from the data is as extreme as they are.
    p = (1 + int((chance >= abs(found) * (1 - 1e-9)).sum())) / (1 + resamples)
    return Correlation(max(-1.0, min(1.0, found / scale)), p, len(x))
