"""What a sweep is going to do: its cells, which are done, what cannot be done, and how long."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rad_lightning.common.errors import UserError
from rad_lightning.common.files import write_text
from rad_lightning.common.progress import Progress, duration
from rad_lightning.common.runs import PLAN, RESULT, RunDirectory, finite_number
from rad_lightning.common.sealed import sealed
from rad_lightning.common.threads import flow_threads, limited, torch_threads
from rad_lightning.config import TrainConfig, digest, number_fields
from rad_lightning.flows.coupling import nll
from rad_lightning.methods.registry import plain_steps
from rad_lightning.training.head import build_head
from rad_lightning.training.job import Job, Shared, open_job
from rad_lightning.training.size import step_bytes

PLAN_VERSION = 1
TIMED_STEPS = 5
TIMED_BYTES = 2**30  # of a flow and its batch: larger ones are not timed
OVERHEAD = 3.0  # seconds of a job besides its training steps, where none was measured
SHOWN = 5


@dataclass
class Planned:
    """One cell: its overrides and either what it will be, or why it cannot be."""

    overrides: tuple[str, ...]
    cfg: TrainConfig | None = None
    job: Job | None = None
    problem: str | None = None
    was: int | None = None  # mtime of a result that was there before

    @property
    def run(self) -> RunDirectory:
        if self.job is None:
            raise ValueError(f"no run directory: {self.problem}")
        return self.job.run

    @property
    def to_go(self) -> bool:
        return self.job is not None and not self.done

    @property
    def done(self) -> bool:
        """Whether there is a result that this sweep need not make, or has made."""
        return self.job is not None and stamp(self.job.run) not in (None, self.was)


def stamp(run: RunDirectory) -> int | None:
    """When the result was written, in nanoseconds; ``None`` without a whole one."""
    return (run.path / RESULT).stat().st_mtime_ns if run.done else None


def make_plan(
    composed: Sequence[tuple[Sequence[str], TrainConfig | UserError]],
    shared: Shared,
    progress: Progress,
) -> list[Planned]:
    """Open every cell's data, so that impossible ones are known before anything is trained.

    Raises:
        UserError: no job is possible, or the cells have several output folders.
    """
    planned = []
    with progress.bar("planning", len(composed)) as bar:
        for overrides, cfg in composed:
            item = Planned(tuple(overrides))
            try:
                if isinstance(cfg, UserError):
                    raise cfg
                item.cfg, item.job = cfg, open_job(cfg, shared)
                if not cfg.resume:
                    item.was = stamp(item.run)
            except UserError as error:
                item.problem = " ".join(str(error).split())
            planned.append(item)
            bar.advance()
    possible = [p for p in planned if p.job]
    if not possible:
        raise UserError(planned[0].problem or "nothing to run")
    if len({p.run.path.parent.resolve() for p in possible}) > 1:
        raise UserError("output differs between the cells of a sweep: use the same folder for all")
    refuse_twins(possible)
    return planned


def refuse_twins(planned: Sequence[Planned]) -> None:
    """Raise ``UserError`` at two cells that no table could tell apart."""
    known: dict[str, Planned] = {}
    for item in planned:
        assert item.cfg is not None and item.job is not None
        table = item.job.data.table
        other = known.setdefault(
            digest([number_fields(item.cfg), table.name, table.category], 32), item
        )
        if other is not item:
            pair = [
                " ".join(o for o in p.overrides if o not in q.overrides)
                for p, q in ((other, item), (item, other))
            ]
            raise UserError(
                f"two cells are the same to a report: {pair[0] or 'one'} and {pair[1] or 'another'}"
                "; run them as two sweeps, each with an output of its own"
            )


def announce(planned: Sequence[Planned], progress: Progress) -> None:
    """Print the plan: cells, done, to go, achieved noise, estimated time."""
    to_go = [p for p in planned if p.to_go]
    problems = [p for p in planned if p.problem]
    done = sum(p.done for p in planned)
    impossible = f", {len(problems)} impossible" if problems else ""
    progress.say(f"        plan  {len(planned)} cells: {done} done, {len(to_go)} to go{impossible}")
    for line in noise_lines(planned):
        progress.say(f"       noise  {line}")
    tables = (item.job.data.table for item in planned if item.job is not None)
    notes = [f"{t.name}/{t.category}: {note}" for t in tables for note in t.notes]
    for line in dict.fromkeys(notes):
        progress.say(f"        note  {line}")
    common = set.intersection(*(set(p.overrides) for p in planned))
    for item in problems[:SHOWN]:
        own = [o for o in item.overrides if o not in common] or item.overrides
        progress.say(f"  impossible  {' '.join(own)}: {item.problem}")
    if len(problems) > SHOWN:
        progress.say(f"              and {len(problems) - SHOWN} more")
    if to_go:
        seconds, measured, unknown = estimate(planned)
        how = "as the finished cells took" if measured else "after timing a few steps"
        besides = "features not yet in the cache"
        if unknown:
            besides += f" and {unknown} cells that are too large to time"
        progress.say(
            f"        time  about {duration(seconds)} one cell after another ({how}), besides "
            f"{besides}"
        )


def noise_lines(planned: Sequence[Planned]) -> list[str]:
    """A line per category: each requested level and what the data give."""
    by_category: dict[str, dict[float, set[str]]] = {}
    for item in planned:
        if item.job is None:
            continue
        noise = item.job.data.contamination
        if noise.mode == "none":
            continue
        table = item.job.data.table
        name = f"{table.name}/{table.category}, {noise.mode}, share of {noise.denominator}"
        achieved = f"{100 * noise.achieved:.3g} % ({noise.injected} of {noise.of})"
        by_category.setdefault(name, {}).setdefault(noise.requested, set()).add(achieved)
    return [
        f"{name}: "
        + "; ".join(
            f"{100 * level:.3g} % -> {' or '.join(sorted(found))}"
            for level, found in sorted(levels.items())
        )
        for name, levels in sorted(by_category.items())
    ]


def estimate(planned: Sequence[Planned]) -> tuple[float, bool, int]:
    """Seconds for all cells to go, whether finished cells tell or a few timed steps, and how many
    cells are left out, as nobody can tell."""
    taken: dict[str, list[float]] = {}
    for item in planned:
        seconds = finite_number(item.run.read_result().get("wall_seconds")) if item.done else None
        if seconds is not None:
            taken.setdefault(_kind(item), []).append(seconds)
    measured, total, unknown = True, 0.0, 0
    timed: dict[str, float | None] = {}
    for item in planned:
        if not item.to_go:
            continue
        kind = _kind(item)
        if kind in taken:
            total += median(taken[kind])
            continue
        measured = False
        if kind not in timed:
            timed[kind] = _timed(item)
        total += timed[kind] or 0.0
        unknown += timed[kind] is None
    return total, measured, unknown


def _kind(item: Planned) -> str:
    """Cells of one kind take about the same time."""
    assert item.cfg is not None
    return repr((item.cfg.head, item.cfg.method))


def _timed(item: Planned) -> float | None:
    """Seconds of a cell, from a few steps of its flow on random samples; ``None`` for a cell that
    would take long or much memory, or cannot be: a plan is made in seconds, and always."""
    assert item.cfg is not None
    if step_bytes(item.cfg) > TIMED_BYTES:
        return None
    try:
        return _steps(item.cfg)
    except Exception:  # of torch, of memory: the cell itself will say it
        return None


def _steps(cfg: TrainConfig) -> float:
    head = build_head(cfg.head, (1, cfg.head.channels, 8, 8), 0)
    samples = torch.randn(cfg.method.batch_size, cfg.head.channels)
    positions = torch.zeros(len(samples), dtype=torch.long)
    params = dict(head.flow.named_parameters())
    seconds = []
    with limited(cfg.trainer.threads), torch_threads(flow_threads(len(samples), cfg.head.hidden)):
        for _ in range(TIMED_STEPS):
            started = time.perf_counter()
            loss = nll(head.flow, params, samples, head.condition(positions)).mean()
            torch.autograd.grad(loss, list(params.values()))
            seconds.append(time.perf_counter() - started)
    return min(seconds) * plain_steps(cfg.method) + OVERHEAD  # the first one warms up


def write_plan(
    folder: Path, planned: Sequence[Planned], command: str, title: str, claims: dict[str, Any]
) -> Path:
    """``sweep.json``: what the report counts finished cells against."""
    cells = []
    for item in planned:
        about: dict[str, Any] = {"run": None, "overrides": list(item.overrides)}
        if item.job is not None:
            facts = item.job.facts()
            about |= {k: facts[k] for k in ("dataset", "category", "head", "method", "seed")}
            about |= {k: facts["noise"][k] for k in ("achieved", "contamination")}
            about |= {"run": item.run.path.name, "ratio": facts["noise"]["requested"]}
        cells.append({**about, "problem": item.problem})
    content = {
        "schema_version": PLAN_VERSION,
        "command": command,
        "title": title,
        "claims": claims,
        "cells": cells,
    }
    return write_text(folder / PLAN, sealed(content))
