"""Bins of a histogram."""

from __future__ import annotations

import numpy as np


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
