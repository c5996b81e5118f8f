"""``index.html`` of an audit: the suspects with the evidence, and the whole ranking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from rad_lightning.audit.evidence import Evidence
from rad_lightning.audit.ranking import Accuracy, Ranking
from rad_lightning.config import DataConfig
from rad_lightning.data.images import ImageArray, load_image
from rad_lightning.data.samples import Sample, SampleTable
from rad_lightning.evaluation.evaluate import pixel_map
from rad_lightning.evaluation.overlays import fitted, jpeg, jpeg_uri, laid_over
from rad_lightning.pages import render

THUMBNAIL = 240  # pixels on the longer side: about 10 kB
LEAST = (THUMBNAIL, THUMBNAIL)
LISTED = 5000  # rows of the table on the page; suspects.csv has all
ROUGH = 0.25  # width of the interval from which the page warns


@dataclass(frozen=True)
class RankedImage:
    """One row of the ranking."""

    rank: int
    path: str
    suspicion: float
    verdict: str
    group: str
    injected: bool


@dataclass(frozen=True)
class SuspectCard:
    """One suspicious image with the evidence, and how many more of its physical part were ranked.
    Pictures are ``data:`` URIs, empty without one."""

    line: RankedImage
    more: int
    picture: str
    overlay: str
    twin: str
    twin_path: str


def page(
    title: str,
    ranking: Ranking,
    lines: Sequence[RankedImage],
    cards: Sequence[SuspectCard],
    found: Accuracy | None,
    **facts: Any,
) -> str:
    """The page as text; equal inputs give equal bytes. ``facts``: ``backbone``, ``untrained``,
    ``ranked_by``, ``asked_count``, ``notes``, ``cleaned``, ``apply_command``, ``train_command``."""
    return render(
        "suspects.html.j2",
        title=title,
        ranking=ranking,
        lines=lines[:LISTED],
        unlisted=max(0, len(lines) - LISTED),
        cards=cards,
        accuracy=found,
        rough=ranking.estimate.high - ranking.estimate.low > ROUGH,
        parts=any(line.group != line.path for line in lines),
        **facts,
    )


def make_cards(
    table: SampleTable,
    samples: Sequence[Sample],
    lines: Sequence[RankedImage],
    images: Sequence[int],
    evidence: Evidence,
    grid: tuple[int, int],
    geometry: DataConfig,
) -> list[SuspectCard]:
    """A card for each of ``lines``.

    Args:
        samples: the N ranked images.
        images: which of them each line is about.
        evidence: about each line.
        grid: height and width of a map.
    """
    alike = Counter(s.group for s in samples)
    found = []
    for line, i, positions, twin in zip(lines, images, evidence.maps, evidence.twins, strict=True):
        image = small(load_image(table.absolute(samples[i]), white=table.white, least=LEAST))
        overlay = ""
        if positions.shape[-1] > 1 and positions.isfinite().any():
            heat = pixel_map(table, samples[i], positions.view(-1, *grid), geometry)
            # Over grey, so that a red stain does not look like a hot spot of the map.
            grey = np.asarray(Image.fromarray(image).convert("L").convert("RGB"))
            shown = laid_over(grey, heat.float().numpy(), evidence.low, evidence.high)
            overlay = jpeg_uri(jpeg(shown))
        other = samples[twin] if twin >= 0 else None
        twin_uri = ""
        if other:
            picture = load_image(table.absolute(other), white=table.white, least=LEAST)
            twin_uri = jpeg_uri(jpeg(small(picture)))
        more = alike[samples[i].group] - 1
        twin_path = other.path if other else ""
        found.append(SuspectCard(line, more, jpeg_uri(jpeg(image)), overlay, twin_uri, twin_path))
    return found


def small(image: ImageArray) -> ImageArray:
    return fitted(image, THUMBNAIL, THUMBNAIL)
