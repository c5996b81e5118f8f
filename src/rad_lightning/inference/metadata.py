"""What surrounds a network: how an image is brought to it, and what its scores mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rad_lightning.common.errors import UserError
from rad_lightning.config import TrainConfig


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
        UserError: a result of a version that did not record all of it.
    """
    limits = result["threshold"]
    if "median" not in limits or "map_range" not in result:
        raise UserError(
            f"{result['run']}: written by an older version, without what prediction needs; "
            "run the same training command to write it again"
        )
    return metadata_from_dict(
        {key: result[key] for key in ("run", "dataset", "category", "backbone", "head")}
        | {"size": cfg.data.size, "fit": cfg.data.fit, "threshold": limits["value"]}
        | {"median": limits["median"], "spread": limits["spread"]}
        | {"map_range": result["map_range"]}
    )


def metadata_from_dict(content: Mapping[str, Any]) -> DetectorMetadata:
    """The metadata that ``as_dict`` wrote; further keys are left out.

    Raises:
        UserError: a value is missing or none of its kind.
    """
    try:
        height, width = (int(side) for side in content["size"])
        values: dict[str, Any] = {"size": (height, width), "map_range": None}
        for key in ("run", "dataset", "category", "backbone", "head", "fit"):
            values[key] = str(content[key])
        for key in ("threshold", "median", "spread"):
            values[key] = float(content[key])
        if content["map_range"] is not None:
            low, high = content["map_range"]
            values["map_range"] = (float(low), float(high))
        metadata = DetectorMetadata(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"not the metadata of a detector ({type(error).__name__}: {error})"
        ) from None
    finite = all(map(math.isfinite, (metadata.threshold, metadata.median, metadata.spread)))
    if (
        metadata.fit not in ("stretch", "pad")
        or not finite
        or metadata.spread <= 0
        or min(metadata.size) < 1
    ):
        raise UserError(f"not the metadata of a detector ({metadata})")
    return metadata
