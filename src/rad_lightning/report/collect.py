"""Read a sweep's folder: finished runs, failed cells and the plan. What is no such file is noted,
never fatal."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from rad_lightning.config import TrainConfig
from rad_lightning.errors import UserError
from rad_lightning.runs import FAILURE, PLAN, RESULT

UNABLE = "cannot run"  # the kind of a cell that the plan itself refuses
READABLE = (1, 2)  # schema versions of result.json
# Runs that differ in these alone stand in one row of a table.
ACROSS = {"seed", "noise.ratio", "data.category", "data.name"}
# Lower end first, upper end last: a table then reads from worst to best.
RANK = {"plain": -1, "oracle_clean": 1}


@dataclass(frozen=True)
class Picture:
    """A thumbnail of an image that its run judged badly; ``margin`` < 0 is the wrong side."""

    file: Path
    path: str
    label: int
    defect_type: str
    score: float
    flagged: bool
    margin: float


@dataclass(frozen=True)
class Run:
    """One finished cell. ``settings`` are those that change numbers, as ``(key, JSON)`` pairs."""

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
    manifest: str
    git_revision: str
    packages: Mapping[str, str]
    modified: float

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True)
class Failure:
    """A cell without a result: it failed, or the plan says that it cannot run."""

    run: str
    cell: str
    kind: str
    reason: str
    traceback: str = ""


@dataclass(frozen=True)
class Plan:
    """The latest ``sweep.json``; ``claims`` are ``{name: {ratio: percent}}``."""

    command: str
    title: str
    claims: Mapping[str, Mapping[float, float]]
    cells: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Series:
    """A row of a table: runs that differ in seed, noise level and category alone."""

    label: str
    head: str
    method: str
    settings: Mapping[str, str]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Sweep:
    """Everything that a folder says. ``categories`` are those of the plan and of the runs."""

    folder: Path
    series: tuple[Series, ...]
    plan: Plan | None
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]

    @property
    def runs(self) -> list[Run]:
        return [run for series in self.series for run in series.runs]

    @functools.cached_property
    def categories(self) -> list[tuple[str, str]]:
        found = {(run.dataset, run.category) for run in self.runs}
        for cell in self.plan.cells if self.plan else ():
            if not cell.get("problem") and cell.get("dataset") and cell.get("category"):
                found.add((str(cell["dataset"]), str(cell["category"])))
        return sorted(found)

    def category_name(self, dataset: str, category: str) -> str:
        """Without its dataset where there is only one."""
        several = len({name for name, _ in self.categories}) > 1
        return f"{dataset}/{category}" if several else category

    @property
    def counts(self) -> dict[str, int]:
        """Cells of the plan: all, done, failed, unable to run, and still to go."""
        cells = self.plan.cells if self.plan else ()
        done_names = {run.name for run in self.runs}
        done = sum(cell.get("run") in done_names for cell in cells)
        failed = sum(f.kind != UNABLE for f in self.failures)
        unable = len(self.failures) - failed
        to_go = len(cells) - done - failed - unable
        return {
            "cells": len(cells), "done": done, "failed": failed, "unable": unable, "to_go": to_go
        }  # fmt: skip

    @property
    def partial(self) -> bool:
        return self.plan is None or self.counts["done"] < self.counts["cells"]

    @property
    def completeness(self) -> str:
        """``37 of 108 cells finished, 1 failed, 70 to go``"""
        if self.plan is None:
            return f"{len(self.runs)} runs; without {PLAN} nobody can say how many were planned"
        c = self.counts
        more = (("failed", c["failed"]), ("cannot run", c["unable"]), ("to go", c["to_go"]))
        parts = [f"{count} {name}" for name, count in more if count]
        return ", ".join([f"{c['done']} of {c['cells']} cells finished", *parts])


def read_sweep(folder: Path) -> Sweep:
    """All results of ``folder/*/result.json`` with the plan beside them.

    Raises:
        UserError: no folder, or not one readable result in it.
    """
    if not folder.is_dir():
        raise UserError(f"sweep={folder}: no such folder; accepted is the output folder of a sweep")
    notes: list[str] = []
    runs: list[Run] = []
    for file in sorted(folder.glob(f"*/{RESULT}")):
        try:
            runs.append(parse_run(file, read_json(file)))
        except (OSError, ValueError, RecursionError) as error:
            notes.append(f"{file.parent.name}/{file.name} was skipped: {reason(error)}")
    if not runs:
        raise UserError(f"sweep={folder}: no readable */{RESULT} there ({len(notes)} unreadable)")
    plan = None
    if (folder / PLAN).is_file():
        try:
            plan = parse_plan(read_json(folder / PLAN), folder.name)
        except (OSError, ValueError, RecursionError) as error:
            notes.append(f"{PLAN} was skipped: {reason(error)}")
    planned = {str(cell.get("run")) for cell in plan.cells} if plan else set()
    runs, superseded = newest(runs, planned)
    if plan and (others := {run.name for run in runs} - {cell.get("run") for cell in plan.cells}):
        notes.append(f"{len(others)} of the runs are not in the latest plan ({PLAN}); they count")
    failures, unread = read_failures(folder, plan, {run.name for run in runs})
    return Sweep(folder, group(runs), plan, failures, (*notes, *superseded, *unread))


def read_json(file: Path) -> dict[str, Any]:
    """An object out of a JSON file; ``ValueError`` where there is none."""
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    return content


def parse_run(file: Path, content: Mapping[str, Any]) -> Run:
    """A ``result.json``; fields that older versions lack get a neutral value.

    Raises:
        ValueError: this is not the result of a run.
    """
    version = content.get("schema_version")
    if version not in READABLE:
        raise ValueError(f"schema_version {version!r}; accepted are {READABLE}")
    try:
        config = _mapping(content.get("config", {}))
        noise = _mapping(content.get("noise") or {"mode": "none", "requested": 0.0})
        ratio = round(float(noise.get("requested", 0.0)), 6)
        if not math.isfinite(ratio):
            raise ValueError(f"noise.requested = {ratio}")
        names = {key: str(content[key]) for key in ("dataset", "category", "head", "method")}
        backbone = str(content.get("backbone", "unknown"))
        # Which weights were loaded is no setting that changes numbers, but a reason not to average.
        settings = dict(flatten(config)) | {
            "backbone": json.dumps(backbone, ensure_ascii=False),
            "head.name": json.dumps(names["head"]),
            "method.name": json.dumps(names["method"]),
        }
        packages = _mapping(content.get("packages") or {})
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
                for key, value in _mapping(content["metrics"]).items()
                if isinstance(value, int | float) and math.isfinite(value)
            },
            settings=tuple(sorted((k, v) for k, v in settings.items() if k not in ACROSS)),
            notes=tuple(map(str, content.get("notes") or ())),
            worst=tuple(_pictures(file.parent, content.get("worst") or ())),
            manifest=str(content.get("manifest_sha256") or "unknown"),
            git_revision=str(content.get("git_revision") or "unknown"),
            packages=python | {str(k): str(v) for k, v in packages.items() if v},
            modified=file.stat().st_mtime,
        )
    except KeyError as error:
        raise ValueError(f"not the result of a run: {error} is missing") from error
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not the result of a run: {error}") from error


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{type(value).__name__} where an object is due")
    return value


def _pictures(folder: Path, entries: Any) -> Iterator[Picture]:
    """Thumbnails that can be used; a torn entry costs its picture, not the run."""
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


def parse_plan(content: Mapping[str, Any], title: str) -> Plan:
    """A ``sweep.json``; raises ``ValueError`` where it is none."""
    try:
        cells = tuple(
            {**_mapping(cell), "run": None if cell.get("run") is None else str(cell["run"])}
            for cell in content["cells"]
        )
        claims = {
            str(name): {round(float(ratio), 6): float(value) for ratio, value in levels.items()}
            for name, levels in _mapping(content.get("claims") or {}).items()
        }
        if not all(math.isfinite(v) for c in claims.values() for pair in c.items() for v in pair):
            raise ValueError("a claim is not finite")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the plan of a sweep: {error}") from error
    return Plan(
        str(content.get("command") or ""), str(content.get("title") or title), claims, cells
    )


def read_failures(
    folder: Path, plan: Plan | None, done: set[str]
) -> tuple[tuple[Failure, ...], list[str]]:
    """Cells without a result and why; of the latest plan where there is one. And notes."""
    cells = plan.cells if plan else ()
    failures, notes = [], []
    for cell in cells:
        if cell.get("problem") and cell.get("run") not in done:
            name = str(cell.get("run") or "")
            failures.append(Failure(name, describe(cell), UNABLE, str(cell["problem"])))
    planned = {cell.get("run") for cell in cells if not cell.get("problem")}
    older = 0
    for file in sorted(folder.glob(f"*/{FAILURE}")):
        name = file.parent.name
        if name in done:
            continue
        if plan and name not in planned:
            older += 1
            continue
        content: Mapping[str, Any] = {}
        try:
            content = read_json(file)
        except (OSError, ValueError, RecursionError) as error:
            notes.append(f"{name}/{FAILURE} is not readable: {reason(error)}")
        known = content.get("cell")
        failures.append(
            Failure(
                run=name,
                cell=describe(known if isinstance(known, Mapping) else {}),
                kind=str(content.get("kind") or "unknown"),
                reason=str(content.get("reason") or "unknown"),
                traceback=str(content.get("traceback") or ""),
            )
        )
    if older:
        notes.append(f"{older} cells that failed are not in the latest plan; they are not listed")
    return tuple(failures), notes


def describe(cell: Mapping[str, Any]) -> str:
    """A planned cell in words; by its settings where the plan could not even read its data."""
    ratio = cell.get("ratio")
    named = [cell.get("dataset"), cell.get("category"), cell.get("method"), cell.get("head")]
    words = [str(name) for name in named if name is not None]
    words += [f"ρ = {ratio:g}"] if isinstance(ratio, int | float) else []
    words += [f"seed {cell['seed']}"] if "seed" in cell else []
    overrides = cell.get("overrides")
    settings = " ".join(map(str, overrides)) if isinstance(overrides, list) else ""
    return " · ".join(words) or settings or "unknown cell"


def reason(error: BaseException) -> str:
    """One line out of an exception."""
    return " ".join(str(error).split()) or type(error).__name__


def newest(runs: list[Run], planned: Collection[str]) -> tuple[list[Run], list[str]]:
    """One run per series, category, level and seed, where data changed in between.

    The latest plan's run counts, or the newest where the plan has none of them.
    """
    cells: dict[Any, list[Run]] = defaultdict(list)
    for run in runs:
        key = (run.settings, run.dataset, run.category, run.ratio, run.seed)
        cells[key].append(run)
    kept, notes = [], []
    for same in cells.values():
        *older, last = sorted(same, key=lambda r: (r.name in planned, r.modified, r.name))
        kept.append(last)
        notes += [
            f"{run.name} has the settings of {last.name} but other images, labels or weights: "
            "the latter counts"
            for run in older
        ]
    return kept, sorted(notes)


def group(runs: list[Run]) -> tuple[Series, ...]:
    """Runs by series, each with the shortest label that tells it from the others."""
    by_settings: dict[Any, list[Run]] = defaultdict(list)
    for run in runs:
        by_settings[run.settings].append(run)
    several_heads = len({run.head for run in runs}) > 1
    alike: dict[str, list[Any]] = defaultdict(list)
    for settings, members in by_settings.items():
        run = members[0]
        alike[f"{run.method} · {run.head}" if several_heads else run.method].append(settings)
    found = []
    for label, variants in alike.items():
        tables = [dict(settings) for settings in variants]
        keys = sorted({key for table in tables for key in table})
        differing = [key for key in keys if len({table.get(key) for table in tables}) > 1]
        for settings, table in zip(variants, tables, strict=True):
            own = [f"{key}={table.get(key, 'absent')}".replace('"', "") for key in differing]
            members = sorted(
                by_settings[settings], key=lambda r: (r.dataset, r.category, r.ratio, r.seed)
            )
            first = members[0]
            found.append(
                Series(" · ".join([label, *own]), first.head, first.method, table, tuple(members))
            )
    return tuple(sorted(found, key=lambda s: (RANK.get(s.method, 0), s.method, s.head, s.label)))
