"""How far histograms of scores go: pictures, pages and W&B show the same range."""

from __future__ import annotations

HISTOGRAM_END = 4.0  # distances between the lowest score and the threshold, above the threshold


def histogram_end(lowest: float, limit: float) -> float:
    """Where a histogram of scores ends: scores far above the threshold have no natural scale."""
    return limit + HISTOGRAM_END * max(limit - lowest, 1e-6)
