"""Range and bins of histograms of scores: the same in pictures, pages and W&B."""

from __future__ import annotations

import numpy as np

HISTOGRAM_END = 4.0  # distances between the lowest score and the threshold, above the threshold


def histogram_end(lowest: float, limit: float) -> float:
    """Where a histogram of scores ends: scores far above the threshold have no natural scale."""
    return limit + HISTOGRAM_END * max(limit - lowest, 1e-6)


def bin_edges(values: np.ndarray, bins: int) -> np.ndarray:
    """Edges of ``bins`` equal bins over ``values (n,)``, ``(bins + 1,)`` in rising order; wider
    than the values reach where these are so nearly equal that no number fits between two edges."""
    try:
        edges: np.ndarray = np.histogram_bin_edges(values, bins)
    except ValueError:  # NumPy's word for it
        low, high = float(values.min()), float(values.max())
        around = 1e-3 * max(1.0, abs(low), abs(high))
        edges = np.linspace(low - around, high + around, bins + 1)
    return edges
