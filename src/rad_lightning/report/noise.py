"""The label noise of a sweep: how it was made, and what each requested level came to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from rad_lightning.report.collect import Sweep
from rad_lightning.report.results import Run


@dataclass(frozen=True)
class Level:
    """What one requested noise level came to, as ``(least, most)`` over runs."""

    protocol: str
    ratio: float
    runs: int
    achieved: tuple[float, float]
    contamination: tuple[float, float]
    injected: tuple[float, float]
    of: tuple[float, float]


def noise_levels(sweep: Sweep) -> tuple[Level, ...]:
    """What each requested level came to, by protocol."""
    groups: dict[tuple[str, float], list[Run]] = defaultdict(list)
    for run in sweep.runs:
        groups[protocol(run), run.ratio].append(run)

    def span(runs: Iterable[Run], key: str) -> tuple[float, float]:
        values = [v for run in runs if isinstance(v := run.noise.get(key, 0), int | float)]
        return (min(values), max(values)) if values else (0.0, 0.0)

    keys = ("achieved", "contamination", "injected", "of")
    return tuple(
        Level(name, ratio, len(runs), *(span(runs, key) for key in keys))
        for (name, ratio), runs in sorted(groups.items())
    )


MEANING = {
    "none": "no label noise was added",
    "replace": "{kind} take the place of normal training images",
    "add": "{kind} come on top of the normal training images",
    "pool_fraction": "a share of all the dataset's {kind} goes into training",
    "manifest": "the training set is the one that a manifest records",
}
KINDS = {"real": "real defective images", "synthetic": "images with synthetic defects"}


def protocol(run: Run) -> str:
    """How the noise was made and what ρ is a share of, in words."""
    mode, source = (str(run.noise.get(key, "")) for key in ("mode", "source"))
    text = f"{mode}: " + MEANING.get(mode, "noise of another version").format(
        kind=KINDS.get(source, f"{source} images")
    )
    denominator = run.noise.get("denominator")
    return (
        text if mode == "none" or not denominator else f"{text}; ρ is a share of the {denominator}"
    )
