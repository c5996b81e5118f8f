"""Read a sweep's folder: finished runs, failed cells and the plan. A file that cannot be read
is noted and skipped."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rad_lightning.common.errors import UserError
from rad_lightning.common.runs import FAILURE, PLAN, RESULT, RunDirectory
from rad_lightning.common.sealed import read_object
from rad_lightning.report.results import Run, mapping, parse_run

UNABLE = "cannot run"  # the kind of a cell that the plan itself refuses
# Lower end first, upper end last: a table then reads from worst to best.
RANK = {"plain": -1, "oracle_clean": 1}


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
            return f"{len(self.runs)} runs; without {PLAN} the number of planned runs is unknown"
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
        raise UserError(f"sweep={folder}: no such folder; give the output folder of a sweep")
    notes: list[str] = []
    runs: list[Run] = []
    for file in sorted(folder.glob(f"*/{RESULT}")):
        try:
            runs.append(parse_run(file, RunDirectory(file.parent).read_result()))
        except (OSError, ValueError) as error:
            notes.append(f"{file.parent.name}/{file.name} was skipped: {reason(error)}")
    if not runs:
        raise UserError(f"sweep={folder}: no readable */{RESULT} there ({len(notes)} unreadable)")
    plan = None
    if (folder / PLAN).exists():
        try:
            plan = parse_plan(read_object(folder / PLAN), folder.name)
        except (OSError, ValueError) as error:
            notes.append(f"{PLAN} was skipped: {reason(error)}")
    planned = {str(cell.get("run")) for cell in plan.cells} if plan else set()
    runs, superseded = newest(runs, planned)
    if plan and (others := {run.name for run in runs} - {cell.get("run") for cell in plan.cells}):
        notes.append(f"{len(others)} of the runs are not in the latest plan ({PLAN}); they count")
    failures, unread = read_failures(folder, plan, {run.name for run in runs})
    return Sweep(folder, group(runs), plan, failures, (*notes, *superseded, *unread))


def parse_plan(content: Mapping[str, Any], title: str) -> Plan:
    """A ``sweep.json``; raises ``ValueError`` where it is none."""
    try:
        cells = tuple(
            {**mapping(cell), "run": None if cell.get("run") is None else str(cell["run"])}
            for cell in content["cells"]
        )
        claims = {
            str(name): {round(float(ratio), 6): float(value) for ratio, value in levels.items()}
            for name, levels in mapping(content.get("claims") or {}).items()
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
            content = read_object(file)
        except (OSError, ValueError) as error:
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
