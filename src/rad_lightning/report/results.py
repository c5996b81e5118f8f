"""What one ``result.json`` says; results of older versions,
and incomplete optional parts, are read as far as possible."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from rad_lightning.common.runs import finite_number
from rad_lightning.config import TrainConfig

# Runs that differ in these alone stand in one row of a table.
ACROSS = {"seed", "noise.ratio", "data.category", "data.name"}


@dataclass(frozen=True)
class Picture:
    """A thumbnail of an image that its run scored badly; ``margin`` < 0 is the wrong side."""

    file: Path
    path: str
    label: int
    defect_type: str
    score: float
    flagged: bool
    margin: float


@dataclass(frozen=True)
class Run:
    """One finished cell.

    ``settings`` are those that change numbers, as ``(key, JSON)`` pairs. ``curves`` are columns of
    one length, ``step`` among them, or none. ``uncertainty`` and ``strength`` (λ) are those that
    the training ended with, where its method has them.
    """

    folder: Path
    dataset: str
    category: str
    backbone: str
    head: str
    method: str
    seed: int
    ratio: float
    noise: Mapping[str, Any]
    metrics: Mapping[str, float]
    settings: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    worst: tuple[Picture, ...]
    curves: Mapping[str, tuple[float, ...]]
    uncertainty: float | None
    strength: float | None
    manifest: str
    git_revision: str
    packages: Mapping[str, str]
    modified: float

    @property
    def name(self) -> str:
        return self.folder.name


def parse_run(file: Path, content: Mapping[str, Any]) -> Run:
    """A ``result.json``; fields that older versions lack get a neutral value. Long
    because it names every field.

    Raises:
        ValueError: this is not the result of a run.
    """
    try:
        config = mapping(content.get("config", {}))
        noise = mapping(content.get("noise") or {"mode": "none", "requested": 0.0})
        ratio = round(float(noise.get("requested", 0.0)), 6)
        if not math.isfinite(ratio):
            raise ValueError(f"noise.requested = {ratio}")
        names = {key: str(content[key]) for key in ("dataset", "category", "head", "method")}
        backbone = str(content.get("backbone", "unknown"))
        # No setting that changes numbers, but runs with other weights must not be averaged.
        settings = dict(flatten(config)) | {
            "backbone": json.dumps(backbone, ensure_ascii=False),
            "head.name": json.dumps(names["head"]),
            "method.name": json.dumps(names["method"]),
        }
        packages = mapping(content.get("packages") or {})
        python = {"python": str(content.get("python", "unknown"))}
        return Run(
            folder=file.parent,
            **names,
            backbone=backbone,
            seed=int(content["seed"]),
            ratio=ratio,
            noise=noise,
            metrics={
                str(key): float(value)
                for key, value in mapping(content["metrics"]).items()
                if isinstance(value, int | float) and math.isfinite(value)
            },
            settings=tuple(sorted((k, v) for k, v in settings.items() if k not in ACROSS)),
            notes=tuple(map(str, content.get("notes") or ())),
            worst=tuple(_pictures(file.parent, content.get("worst") or ())),
            curves=_curves(content.get("curves")),
            uncertainty=finite_number(content.get("uncertainty")),
            strength=finite_number(content.get("lambda")),
            manifest=str(content.get("manifest_sha256") or "unknown"),
            git_revision=str(content.get("git_revision") or "unknown"),
            packages=python | {str(k): str(v) for k, v in packages.items() if v},
            modified=file.stat().st_mtime,
        )
    except KeyError as error:
        raise ValueError(f"not the result of a run: {error} is missing") from error
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not the result of a run: {error}") from error


def mapping(value: Any) -> Mapping[str, Any]:
    """``value``; ``TypeError`` where it is none."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{type(value).__name__} where an object is expected")
    return value


def _pictures(folder: Path, entries: Any) -> Iterator[Picture]:
    """Thumbnails that can be used; an incomplete entry is left out."""
    for entry in entries:
        try:
            name = str(entry["file"])
            if (
                not name or Path(name).name != name
            ):  # a result file must not reach outside its folder
                continue
            margin, score = float(entry["margin"]), float(entry["score"])
            kind = str(entry.get("defect_type") or "")
            path, label, flagged = str(entry["path"]), int(entry["label"]), bool(entry["flagged"])
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
        if math.isfinite(margin) and math.isfinite(score):
            yield Picture(folder / name, path, label, kind, score, flagged, margin)


def _curves(entry: Any) -> Mapping[str, tuple[float, ...]]:
    """Columns that can be drawn; none if a column is incomplete."""
    try:
        columns = {str(name): tuple(map(float, values)) for name, values in entry.items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        return {}
    steps = columns.get("step", ())
    finite = all(math.isfinite(value) for column in columns.values() for value in column)
    rising = all(a < b for a, b in itertools.pairwise(steps))
    alike = {len(column) for column in columns.values()} == {len(steps)}
    return columns if steps and finite and rising and alike else {}


@functools.cache
def silent_keys(node: type = TrainConfig, prefix: str = "") -> frozenset[str]:
    """Dotted keys of the settings that change no number, as ``config.number_fields`` sees them."""
    hints = get_type_hints(node)
    found: set[str] = set()
    for f in dataclasses.fields(node):
        if dataclasses.is_dataclass(hints[f.name]):
            found |= silent_keys(hints[f.name], f"{prefix}{f.name}.")
        elif not f.metadata.get("numbers", True):
            found.add(prefix + f.name)
    return frozenset(found)


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """``(dotted key, JSON)`` of every setting that changes numbers; an unknown one may."""
    for name, value in config.items():
        key = f"{prefix}{name}"
        if key in silent_keys():
            continue
        if isinstance(value, Mapping):
            yield from flatten(value, f"{key}.")
        else:
            yield key, json.dumps(value, sort_keys=True, ensure_ascii=False)
