"""``index.html`` of an audit: the suspects with the evidence, and the whole ranking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from rad_lightning.audit.evidence import Evidence
from rad_lightning.audit.ranking import Accuracy, Ranking
from rad_lightning.config import DataConfig, digest
from rad_lightning.data.images import ImageArray, load_image
from rad_lightning.data.samples import Sample, SampleTable
from rad_lightning.data.verdicts import HEADER, Review, Verdict
from rad_lightning.evaluation.evaluate import pixel_map
from rad_lightning.evaluation.overlays import fitted, heat_png, jpeg, jpeg_uri, png_uri
from rad_lightning.pages import render

LARGE = 640  # pixels on the longer side: a photo has about 40 kB
MAP = 112  # pixels on the longer side of a map, which is smooth: about 4 kB
LEAST = (LARGE, LARGE)
LISTED = 5000  # rows of the table on the page; suspects.csv has all
ROUGH = 0.25  # width of the interval from which the page warns


@dataclass(frozen=True)
class RankedImage:
    """One row of the ranking."""

    rank: int
    path: str
    sha256: str
    suspicion: float
    verdict: str
    group: str
    injected: bool


@dataclass(frozen=True)
class SuspectCard:
    """One suspicious image with the evidence, and how many more of its physical part were ranked.
    Pictures are ``data:`` URIs, empty without one; ``heat`` is laid over ``picture`` by the page,
    which shows ``picture`` in three places and holds it once."""

    line: RankedImage
    more: int
    picture: str
    heat: str
    twin: str
    twin_line: RankedImage | None


def page(
    title: str,
    ranking: Ranking,
    lines: Sequence[RankedImage],
    cards: Sequence[SuspectCard],
    found: Accuracy | None,
    reviews: Iterable[Review] = (),
    **facts: Any,
) -> str:
    """The page as text; equal inputs give equal bytes.

    Args:
        reviews: what a person has said before. What they say on the page is kept in the browser,
            by the ranked images.
        facts: ``backbone``, ``untrained``, ``ranked_by``, ``asked_count``, ``notes``, ``cleaned``,
            ``apply_command``, ``train_command``, ``review_command``.
    """
    given = [asdict(review) for review in reviews]
    return render(
        "suspects.html.j2",
        title=title,
        ranking=ranking,
        lines=lines[:LISTED],
        unlisted=max(0, len(lines) - LISTED),
        cards=cards,
        accuracy=found,
        given=given,
        given_key=digest(given),
        columns=HEADER,
        images=digest(sorted(line.sha256 for line in lines)),
        verdicts=tuple(Verdict),
        rough=ranking.estimate.high - ranking.estimate.low > ROUGH,
        parts=any(line.group != line.path for line in lines),
        **facts,
    )


def make_cards(
    table: SampleTable,
    samples: Sequence[Sample],
    lines: Mapping[int, RankedImage],
    images: Sequence[int],
    evidence: Evidence,
    grid: tuple[int, int],
    geometry: DataConfig,
) -> list[SuspectCard]:
    """A card for each of ``images``.

    Args:
        samples: the N ranked images.
        lines: the line of each of them.
        images: those to show.
        evidence: about those.
        grid: height and width of a map.
    """
    alike = Counter(s.group for s in samples)
    found = []
    for i, positions, twin in zip(images, evidence.maps, evidence.twins, strict=True):
        image = small(load_image(table.absolute(samples[i]), white=table.white, least=LEAST))
        heat = ""
        if positions.shape[-1] > 1 and positions.isfinite().any():
            pixels = pixel_map(table, samples[i], positions.view(-1, *grid), geometry)
            heat = heat_uri(pixels.float().numpy(), image.shape[:2], evidence.low, evidence.high)
        twin_uri = ""
        if twin >= 0:
            other = load_image(table.absolute(samples[twin]), white=table.white, least=LEAST)
            twin_uri = jpeg_uri(jpeg(small(other)))
        more = alike[samples[i].group] - 1
        shown = (jpeg_uri(jpeg(image)), heat, twin_uri, lines.get(twin))
        found.append(SuspectCard(lines[i], more, *shown))
    return found


def small(image: ImageArray) -> ImageArray:
    return fitted(image, LARGE, LARGE)


def heat_uri(heat: np.ndarray, shape: tuple[int, ...], low: float, high: float) -> str:
    """The map in the proportions of an image of ``shape`` (H, W, ...)."""
    scale = MAP / max(shape[:2])
    height, width = (max(1, round(scale * side)) for side in shape[:2])
    resized = Image.fromarray(np.float32(heat)).resize((width, height), Image.Resampling.BILINEAR)
    return png_uri(heat_png(np.asarray(resized), low, high))
