"""What surrounds a network: how an image is brought to it, and what its scores mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rad_lightning.common.errors import UserError
from rad_lightning.config import TrainConfig
from rad_lightning.data.images import FULL

LARGEST = 4096  # pixels of a side, as data.size has it


@dataclass(frozen=True)
class DetectorMetadata:
    """The facts of a trained detector that are no weights; plain values, for a JSON file.

    ``median`` and ``spread`` are of the scores of normal images: a robust z is a score's distance
    from the one in units of the other. ``map_range`` are the ends of the colours of its maps, from
    a typical training position to a clear finding; ``None`` for a head that has no maps.
    """

    run: str
    dataset: str
    category: str
    backbone: str
    head: str
    size: tuple[int, int]  # height and width that the network takes
    fit: str  # how an image is brought to them: "stretch" or "pad"
    threshold: float
    median: float
    spread: float
    map_range: tuple[float, float] | None
    white: int = FULL  # of 16-bit images

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def robust_z(self, score: float) -> float:
        return (score - self.median) / self.spread

    @property
    def margin(self) -> float:
        """The threshold as a robust z."""
        return self.robust_z(self.threshold)


def metadata_of_run(result: Mapping[str, Any], cfg: TrainConfig) -> DetectorMetadata:
    """The metadata of a finished run from its ``result.json``.

    Raises:
        UserError: a value is missing or none of its kind.
    """
    limits = result.get("threshold")
    limits = limits if isinstance(limits, Mapping) else {}
    values = {"threshold": limits.get("value"), **{k: limits.get(k) for k in ("median", "spread")}}
    names = ("run", "dataset", "category", "backbone", "head", "map_range")
    return metadata_from_dict(
        {key: result[key] for key in names if key in result}
        | {"size": cfg.data.size, "fit": cfg.data.fit, "white": cfg.data.white or FULL, **values}
    )


@dataclass(frozen=True)
class Recorded:
    """What a finished run says of the files that a detector is loaded from."""

    checkpoint_sha256: str
    backbone_fingerprint: str


def recorded_facts(result: Mapping[str, Any]) -> Recorded:
    """Raises ``UserError`` at a result of a version that did not record them."""
    try:
        return Recorded(str(result["files"]["last.ckpt"]), str(result["backbone_fingerprint"]))
    except (KeyError, TypeError):
        raise UserError(
            "written by an older version, without what prediction needs; run the same training "
            "command with resume=false to write it again"
        ) from None


def metadata_from_dict(content: Mapping[str, Any]) -> DetectorMetadata:
    """The metadata that ``as_dict`` wrote; further keys are left out.

    Raises:
        UserError: a value is missing or none of its kind.
    """
    try:
        height, width = (int(side) for side in content["size"])
        values: dict[str, Any] = {"size": (height, width), "map_range": None}
        values["white"] = int(content.get("white", FULL))
        for key in ("run", "dataset", "category", "backbone", "head", "fit"):
            values[key] = str(content[key])
        for key in ("threshold", "median", "spread"):
            values[key] = float(content[key])
        if content["map_range"] is not None:
            low, high = content["map_range"]
            values["map_range"] = (float(low), float(high))
        metadata = DetectorMetadata(**values)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"not the metadata of a detector ({type(error).__name__}: {error})"
        ) from None
    if wrong := next(_faults(metadata), None):
        raise UserError(f"not the metadata of a detector ({wrong})")
    return metadata


def _faults(metadata: DetectorMetadata) -> Iterator[str]:
    """What no detector has."""
    numbers = (metadata.threshold, metadata.median, metadata.spread, *(metadata.map_range or ()))
    if not all(map(math.isfinite, numbers)):
        yield "a number that is not finite"
    elif metadata.spread <= 0 or not math.isfinite(metadata.margin):
        yield f"spread = {metadata.spread:g}"
    if metadata.fit not in ("stretch", "pad"):
        yield f"fit = {metadata.fit!r}"
    if not 1 <= metadata.white <= FULL:
        yield f"white = {metadata.white}"
    if not 1 <= min(metadata.size) <= max(metadata.size) <= LARGEST:
        yield f"size = {metadata.size}"
