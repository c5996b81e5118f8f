"""Whether finished runs are what they say: every file's sha256, and the metrics of the images
computed again from ``scores.csv``."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch

from rad_lightning.common.errors import UserError
from rad_lightning.common.runs import RESULT, RunDirectory
from rad_lightning.common.sealed import read_regular
from rad_lightning.common.tables import read_rows
from rad_lightning.evaluation.metrics import image_metrics, per_defect_auroc

TOLERANCE = 1e-9  # scores.csv has every digit
TEST = "test"  # the role in scores.csv
MOST_SCORES = 2**30  # bytes


@dataclass(frozen=True)
class Checked:
    """One run: how many files and metrics were compared, and what is wrong."""

    run: str
    files: int
    metrics: int
    faults: tuple[str, ...]


def verify(folder: Path) -> list[Checked]:
    """Check the run in ``folder``, or those in the folders below it, sorted by name.

    Raises:
        UserError: no folder, or no result in it.
    """
    if not folder.is_dir():
        raise UserError(f"verify={folder}: no such folder; give a run's, or the output of a sweep")
    found = [folder] if (folder / RESULT).exists() else []
    runs = found or sorted(file.parent for file in folder.glob(f"*/{RESULT}"))
    if not runs:
        raise UserError(f"verify={folder}: no {RESULT} there, nor in a folder below")
    return [check_run(RunDirectory(run)) for run in runs]


def check_run(run: RunDirectory) -> Checked:
    try:
        result = run.read_result()
    except (OSError, ValueError) as error:
        return Checked(run.path.name, 0, 0, (f"{RESULT}: {error}",))
    recorded: Mapping[str, str] = result.get("files") or {}
    files = file_faults(run, recorded)
    if not recorded:
        files = ["written by an older version, which recorded no hashes"]
    try:
        again = recomputed(run.path / "scores.csv", float(result["threshold"]["value"]))
        said = result["metrics"] | {
            f"auroc of {kind}": value
            for kind, value in result.get("per_defect_image_auroc", {}).items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Checked(run.path.name, len(recorded), 0, (*files, f"scores.csv: {reason}"))
    wrong = [
        f"{name} is {said.get(name)!r}, scores.csv gives {value!r}"
        for name, value in again.items()
        if not abs(said.get(name, float("nan")) - value) <= TOLERANCE
    ]
    return Checked(run.path.name, len(recorded), len(again), (*files, *wrong))


def file_faults(run: RunDirectory, recorded: Mapping[str, str]) -> list[str]:
    """A line for every file that is missing or another one."""
    found = run.file_hashes()
    missing = [f"{name}: missing" for name in recorded if name not in found]
    return missing + [
        f"{name}: its sha256 is not the recorded one"
        for name, sha256 in recorded.items()
        if name in found and found[name] != sha256
    ]


def recomputed(table: Path, threshold: float) -> dict[str, float]:
    """The image metrics of the labelled test images in ``scores.csv``.

    Raises:
        ValueError: not such a table.
    """
    text = StringIO(read_regular(table, MOST_SCORES).decode(), newline="")
    rows = list(read_rows(text))
    tested = [row for row in rows if row["role"] == TEST and int(row["label"]) >= 0]
    scores = torch.tensor([float(row["score"]) for row in tested], dtype=torch.double)
    labels = torch.tensor([int(row["label"]) for row in tested], dtype=torch.long)
    metrics, _ = image_metrics(scores, labels, threshold)
    kinds = per_defect_auroc(scores, labels, [row["defect_type"] for row in tested])
    return metrics | {f"auroc of {kind}": value for kind, value in kinds.items()}
