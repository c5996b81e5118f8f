"""The contact sheet of a prediction: one page of thumbnails, the highest scores first."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np

from rad_lightning.common.histograms import histogram_end
from rad_lightning.data.images import BadImage
from rad_lightning.evaluation.overlays import jpeg_uri, side_by_side, thumbnail
from rad_lightning.inference.detector import Prediction
from rad_lightning.inference.metadata import DetectorMetadata
from rad_lightning.pages import render

BINS = 48
LISTED = 50  # unreadable files on the page


@dataclass(frozen=True, order=True)
class Shown:
    """An image of the sheet; ordered by its score."""

    score: float
    number: int  # the negative place in the input: of equal scores the first one wins
    name: str = field(compare=False)
    verdict: str = field(compare=False)
    robust_z: float = field(compare=False)
    picture: bytes = field(compare=False)
    link: str = field(compare=False)  # to the overlay beside the page, or empty

    @property
    def source(self) -> str:
        return jpeg_uri(self.picture)


class PredictionPage:
    """Collects predictions; of any number, ``limit`` thumbnails of the highest scores are kept."""

    def __init__(self, metadata: DetectorMetadata, limit: int) -> None:
        self.metadata, self.limit = metadata, limit
        self.scores: list[float] = []
        self.shown: list[Shown] = []  # a heap, the lowest score first

    def add(self, found: Prediction, name: Path, overlay: Path | None) -> None:
        """``name`` is what the page calls the image, ``overlay`` the larger picture, relative to
        the page."""
        self.scores.append(found.score)
        full = len(self.shown) >= self.limit
        if not self.limit or (full and found.score <= self.shown[0].score):
            return
        pixels = found.image
        if found.map is not None and self.metadata.map_range is not None:
            pixels = side_by_side(pixels, found.map, *self.metadata.map_range)
        link = quote(overlay.as_posix()) if overlay else ""
        item = Shown(
            found.score, -len(self.scores), name.as_posix(), found.verdict, found.robust_z,
            thumbnail(pixels), link,
        )  # fmt: skip
        if full:
            heapq.heapreplace(self.shown, item)
        else:
            heapq.heappush(self.shown, item)

    def page(self, source: str, unreadable: Sequence[BadImage]) -> str:
        """The page as text; ``source`` is the input as the user gave it."""
        flagged = sum(score > self.metadata.threshold for score in self.scores)
        return render(
            "predictions.html.j2",
            metadata=self.metadata,
            source=source,
            count=len(self.scores),
            flagged=flagged,
            shown=sorted(self.shown, reverse=True),
            shown_flagged=sum(item.score > self.metadata.threshold for item in self.shown),
            bars=bars(self.scores, self.metadata),
            unreadable=unreadable[:LISTED],
            unread=len(unreadable),
            untrained="untrained" in self.metadata.backbone.lower(),
        )


@dataclass(frozen=True)
class Bars:
    """A histogram on a canvas of 100 x 100: ``(left, width, height, flagged)`` of each bar that is
    not empty, where the threshold lies, and the robust z at both ends."""

    bars: list[tuple[float, float, float, bool]]
    threshold: float
    low: float
    high: float
    cut: int  # images beyond the right end, which the last bar holds


def bars(scores: Sequence[float], metadata: DetectorMetadata) -> Bars:
    """The histogram of ``scores`` as robust z; the threshold is an edge between two bars."""
    z = np.array([metadata.robust_z(score) for score in scores])
    low, margin = min(0.0, float(z.min())), metadata.margin
    last = histogram_end(low, margin)
    high = max(min(float(z.max()), last), margin + (margin - low) / 4)
    share = (margin - low) / (high - low)
    below = min(max(1, round(BINS * share)), BINS - 1)
    edges = np.concatenate(
        (np.linspace(low, margin, below + 1), np.linspace(margin, high, BINS - below + 1)[1:])
    )
    # An image is flagged above the threshold, not at it: (a, b] instead of numpy's [a, b).
    place = np.clip(np.searchsorted(edges, np.minimum(z, high), side="left") - 1, 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    at = 100 * (edges - low) / (high - low)
    drawn = [
        (at[i], at[i + 1] - at[i], 100 * counts[i] / counts.max(), i >= below)
        for i in np.flatnonzero(counts).tolist()
    ]
    return Bars(drawn, float(at[below]), low, high, int((z > high).sum()))
