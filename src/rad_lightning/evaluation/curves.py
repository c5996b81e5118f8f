"""The curves of a training out of its ``metrics.csv``: read, thinned, and where they ended."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

THINNED = {
    "nll": "train/nll",
    "uncertainty": "train/uncertainty",
    "lambda": "train/lambda",
    "weight_penalty": "train/weight_penalty",
}
COLUMNS = THINNED | {"held_out_nll": "holdout/nll"}
FINAL = ("uncertainty", "lambda")  # named again by how they ended
POINTS = 60
Row = dict[str, float]  # ``step`` and those of ``COLUMNS`` that were logged at it


def read(file: Path) -> list[Row]:
    """A row per step, by step; torn lines lack what they lack, and no file has no rows."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    rows: dict[int, Row] = {}
    for line in csv.DictReader(lines):
        step = line.get("step") or ""
        if step.isdecimal():
            rows.setdefault(int(step), {"step": float(step)}).update(_numbers(line))
    return [rows[step] for step in sorted(rows)]


def _numbers(line: Mapping[str, str | None]) -> Row:
    found = {}
    for name, column in COLUMNS.items():
        try:
            value = float(line.get(column) or "")
        except ValueError:
            continue
        if math.isfinite(value):
            found[name] = value
    return found


def thin(rows: Sequence[Row], points: int = POINTS) -> dict[str, list[float]]:
    """``step`` and every known column of ``THINNED`` at ``points`` places at most.

    Each is the mean of a run of consecutive rows, those that lack a column left out. Empty where no
    row is whole.
    """
    names = ["step", *(name for name in THINNED if any(name in row for row in rows))]
    whole = [[row[name] for name in names] for row in rows if all(name in row for name in names)]
    if not whole or len(names) == 1:
        return {}
    parts = np.array_split(np.array(whole), min(points, len(whole)))
    means = np.stack([part.mean(0) for part in parts])
    # Six digits are more than a curve shows; the file stays small.
    return {
        name: [float(f"{value:.6g}") for value in column]
        for name, column in zip(names, means.T, strict=True)
    }


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """What ``result.json`` says of a training: ``curves``, and the mean ``uncertainty`` and
    ``lambda`` of its last quarter where its method has them."""
    found: dict[str, Any] = {"curves": thin(rows)}
    for name in FINAL:
        values = [row[name] for row in rows if name in row]
        if values:
            found[name] = float(np.mean(values[-math.ceil(len(values) / 4) :]))
    return found
